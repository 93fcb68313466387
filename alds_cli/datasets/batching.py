"""Batches of network inputs, with a reproducible order and reproducible pixels."""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alds_cli.datasets.augmentation import AUGMENTATIONS
from alds_cli.datasets.images import LabelledImages, TensorImages
from alds_cli.datasets.preprocessing import (
    check_channels,
    extent,
    fit,
    normalise,
)
from alds_cli.errors import DataError, OptionError
from alds_cli.inputs import MOST_ELEMENTS
from alds_cli.records import Preprocessing
from alds_cli.runtime.distributed import ALONE, World

if TYPE_CHECKING:
    from PIL import Image

Batch = tuple[Tensor, Tensor]
"""Inputs, float32 (n, C, H, W), and labels, int64 (n,)."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A batch to make: the indices (n,) of its images and the random numbers (n, m) of each."""

    indices: Tensor
    numbers: Tensor


class Batches:
    """An iterable of `Batch`; its `len` is the number of batches.

    Without a generator every image comes once, in the order of the set. With a generator the
    images are shuffled and augmented, and every iteration draws new numbers from it.

    Of a job of several processes, each gets its part of every batch, with the random numbers that
    the images would have in one process.

    Args:
        dataset: the images.
        preprocessing: turns them into the network's input.
        batch_size: images in a batch; the last batch may be smaller.
        augmentation: a name in `AUGMENTATIONS`; anything but "none" needs a generator.
        generator: the only source of random numbers.
        merge_last: whether a last batch of a single image, or of fewer images than processes, joins
            the one before, because batch normalisation cannot train on it.
        workers: number of threads that decode and resize image files; with 0, the calling
            thread does it. The batches are the same either way.
        world: the processes among which every batch is divided.

    Raises:
        DataError: the images and the preprocessing do not fit together. While iterating, also
            if an image cannot be read or differs in size from the first, or if a batch would
            be too large.
        OptionError: there is no such augmentation, or `batch_size` or `workers` is out of range.
        ValueError: the augmentation needs a generator, and there is none.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        augmentation: str = "none",
        generator: torch.Generator | None = None,
        merge_last: bool = False,
        workers: int = 0,
        world: World = ALONE,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise OptionError(
                f"batches of {batch_size} images by {workers} workers cannot be made",
                tip="a batch has at least one image, and workers are 0 or more",
            )
        if augmentation not in AUGMENTATIONS:
            raise OptionError(
                f"there is no augmentation '{augmentation}'",
                tip=f"choose one of {', '.join(AUGMENTATIONS)}",
            )
        check_channels(dataset.channels, preprocessing, dataset.name)
        self.dataset = dataset
        self.preprocessing = preprocessing
        self._augmentation = AUGMENTATIONS[augmentation]
        self._generator = generator
        self._workers = workers
        self._world = world
        least = max(2, world.size) if merge_last else 1
        self._sizes = _batch_sizes(len(dataset), batch_size, least)
        if self._augmentation.numbers and generator is None:
            raise ValueError("augmentation draws from a generator, and none was given")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the first image as the network's input, without augmentation."""
        image = fit(self.dataset.image(0), self.preprocessing)
        return (self.dataset.channels, *extent(image))

    def fingerprint(self) -> str | None:
        """Return a SHA-256 digest of what the inputs are made of; None if they are random.

        Labels do not count. All bytes of the images are read.

        Raises:
            DataError: an image cannot be read.
        """
        if self._generator is not None:
            return None
        content = [self.dataset.fingerprint().images, asdict(self.preprocessing), self._sizes]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Batch]:
        change = self._augmentation.on_batch
        # Closed explicitly: Python 3.12 keeps what a generator holds when it is closed early.
        with closing(self._pixels()) as batches:
            for job, pixels in batches:
                changed = pixels if change is None else change(pixels, job.numbers)
                yield normalise(changed, self.preprocessing), self.dataset.labels[job.indices]

    def _jobs(self) -> Iterator[_Job]:
        """Yield the batches to make, drawing all their random numbers."""
        count, generator = len(self.dataset), self._generator
        order = torch.arange(count)
        if generator is not None:
            order = torch.randperm(count, generator=generator)
        for indices in torch.split(order, self._sizes):
            shape = (len(indices), self._augmentation.numbers)
            numbers = torch.rand(shape, generator=generator) if shape[1] else torch.empty(shape)
            own = self._world.part(len(indices))
            yield _Job(indices[own], numbers[own])

    def _pixels(self) -> Generator[tuple[_Job, Tensor]]:
        """Yield each batch as uint8 of shape (n, C, H, W), in the network's input size."""
        dataset = self.dataset
        size = self._extent()
        require_moderate(max(self._sizes), (dataset.channels, *size))
        none = torch.empty((0, dataset.channels, *size), dtype=torch.uint8)
        if isinstance(dataset, TensorImages) and self._augmentation.on_image is None:
            for job in self._jobs():  # one vectorised pass is faster than any pool
                pixels = dataset.batch(job.indices)
                yield job, fit(pixels, self.preprocessing) if len(pixels) else none
            return

        def load(job: _Job, position: int) -> Tensor:
            return self._one_image(job, position, size)

        with closing(_each(self._jobs(), load, self._workers)) as loaded:
            for job, images in loaded:
                yield job, torch.stack(images) if images else none

    def _extent(self) -> tuple[int, int]:
        """Return (height, width) of all inputs, which is that of the first image after `fit`."""
        image = self.dataset.image(0)
        if self._augmentation.on_image is None:
            return extent(fit(image, self.preprocessing))
        return (self._square(image),) * 2

    def _square(self, image: Tensor | Image.Image) -> int:
        """Return the height and width in pixels that an augmentation gives an image."""
        return self.preprocessing.crop or self.preprocessing.resize or min(extent(image))

    def _one_image(self, job: _Job, position: int, size: tuple[int, int]) -> Tensor:
        """Load one image as uint8 of shape (C, H, W), in the network's input size."""
        image = self.dataset.image(int(job.indices[position]))
        if self._augmentation.on_image is None:
            image = fit(image, self.preprocessing)
        else:
            numbers = job.numbers[position]
            image = self._augmentation.on_image(image, numbers, self._square(image))
        # Checked here, since images of many sizes could fill the memory before the batch is whole.
        _require_size(extent(image), size, self.dataset.name)
        if isinstance(image, Tensor):
            return image
        from torchvision.transforms.functional import pil_to_tensor  # noqa: PLC0415 - slow to import

        converted: Tensor = pil_to_tensor(image)
        return converted


def _batch_sizes(images: int, batch_size: int, least: int) -> list[int]:
    """Return the sizes of batches, of which a last one below `least` joins the one before."""
    whole, rest = divmod(images, batch_size)
    sizes = [batch_size] * whole + [rest] * (rest > 0)
    if 0 < rest < least and whole:
        sizes[-2:] = [batch_size + rest]
    return sizes


def _each(
    jobs: Iterable[_Job], load: Callable[[_Job, int], Tensor], workers: int
) -> Generator[tuple[_Job, list[Tensor]]]:
    """Load the images of every job in order, with threads that work one job ahead.

    Threads suffice, since decoding and resizing release Python's global lock, and unlike
    processes they pass errors on unchanged.
    """
    if workers == 0:
        for job in jobs:
            yield job, [load(job, position) for position in range(len(job.indices))]
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="alds-images")
    try:
        ahead: deque[tuple[_Job, list[Future[Tensor]]]] = deque()
        for job in jobs:
            ahead.append((job, [pool.submit(load, job, i) for i in range(len(job.indices))]))
            if len(ahead) > 1:
                yield _collect(*ahead.popleft())
        while ahead:
            yield _collect(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(job: _Job, futures: list[Future[Tensor]]) -> tuple[_Job, list[Tensor]]:
    return job, [future.result() for future in futures]


def _require_size(size: tuple[int, int], expected: tuple[int, int], name: str) -> None:
    if size != expected:
        raise DataError(
            f"{name} has images of different sizes: {expected[0]} × {expected[1]} and "
            f"{size[0]} × {size[1]} pixels (height × width)",
            tip="add --crop (and --resize), so that all become one size",
        )


def require_moderate(images: int, shape: tuple[int, ...]) -> None:
    """Raise if a batch would have more than `MOST_ELEMENTS` numbers and fill the memory.

    Args:
        images: samples in the batch.
        shape: the shape of one sample, e.g. (3, 224, 224).

    Raises:
        DataError: the batch is too large; the tip says how many samples would fit.
    """
    one = math.prod(shape)
    if images * one > MOST_ELEMENTS:
        fitting = MOST_ELEMENTS // one
        raise DataError(
            f"a batch of {images:,} inputs of shape {shape} has more than {MOST_ELEMENTS:,} "
            "numbers",
            tip=f"take {fitting:,} at most in one batch" if fitting else "give a smaller --resize",
        )
