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
from alds_cli.datasets.images import LabelledImages, MaskedImages, TensorImages
from alds_cli.datasets.preprocessing import (
    check_channels,
    extent,
    fit,
    fit_mask,
    normalise,
)
from alds_cli.errors import DataError, OptionError
from alds_cli.inputs import MOST_ELEMENTS
from alds_cli.records import Preprocessing
from alds_cli.runtime.distributed import ALONE, World
from alds_cli.tracing.tokens import Inputs

if TYPE_CHECKING:
    from PIL import Image

Batch = tuple[Inputs, Tensor]
"""Inputs, images as float32 (n, C, H, W) or texts, and labels, int64 (n,), or masks, int64
(n, H, W)."""

ImageBatch = tuple[Tensor, Tensor]
"""A `Batch` of images."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A batch to make: the indices (n,) of its images and the random numbers (n, m) of each."""

    indices: Tensor
    numbers: Tensor


class Batches:
    """An iterable of `ImageBatch`; its `len` is the number of batches.

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
        masks: whether to give masks in place of labels, changed as their images are. In batches
            of one, images may then have different sizes.
        first: the batch to begin with; those before it are left out, but counted by `len`.
        device: where batches are changed at random and normalised, and the inputs are given; the
            pixels travel there as bytes. None is the CPU. Labels stay on the CPU.

    Raises:
        DataError: the images and the preprocessing do not fit together. While iterating, also
            if an image cannot be read or differs in size from the first, or if a batch would
            be too large.
        OptionError: there is no such augmentation, or `batch_size` or `workers` is out of range.
        ValueError: the augmentation needs a generator, and there is none.
        TypeError: masks are asked for of images that have none.
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
        masks: bool = False,
        first: int = 0,
        device: torch.device | None = None,
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
        self.world = world
        self._first = first
        self._device = device
        least = max(2, world.size) if merge_last else 1
        self.sizes = batch_sizes(len(dataset), batch_size, least)
        if self._augmentation.numbers and generator is None:
            raise ValueError("augmentation draws from a generator, and none was given")
        self._masked = _with_masks(dataset, augmentation) if masks else None

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
        content = [self.dataset.fingerprint().images, asdict(self.preprocessing), self.sizes]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[ImageBatch]:
        change = self._augmentation.on_batch
        # Closed explicitly: Python 3.12 keeps what a generator holds when it is closed early.
        with closing(self._pixels()) as batches:
            for job, loaded in batches:
                pixels = self._placed(loaded)
                if self._masked is not None:
                    yield normalise(pixels[:, :-1], self.preprocessing), pixels[:, -1].long()
                    continue
                changed = pixels if change is None else change(pixels, self._placed(job.numbers))
                yield normalise(changed, self.preprocessing), self.dataset.labels[job.indices]

    def _placed(self, values: Tensor) -> Tensor:
        """Move values to the device, to a GPU from memory that the system does not page."""
        if self._device is None or self._device.type == "cpu":
            return values
        if self._device.type == "cuda":
            values = values.pin_memory()
        return values.to(self._device, non_blocking=True)

    def _jobs(self) -> Iterator[_Job]:
        """Yield the batches to make, drawing all their random numbers."""
        count, generator = len(self.dataset), self._generator
        order = torch.arange(count)
        if generator is not None:
            order = torch.randperm(count, generator=generator)
        for number, indices in enumerate(torch.split(order, self.sizes)):
            shape = (len(indices), self._augmentation.numbers)
            numbers = torch.rand(shape, generator=generator) if shape[1] else torch.empty(shape)
            own = self.world.part(len(indices))
            if number >= self._first:
                yield _Job(indices[own], numbers[own])

    def _pixels(self) -> Generator[tuple[_Job, Tensor]]:
        """Yield each batch as uint8 of shape (n, C, H, W), in the network's input size.

        Masks, where they are asked for, are a channel more.
        """
        dataset = self.dataset
        size = self._extent()
        require_moderate(max(self.sizes), (dataset.channels, *size))
        channels = dataset.channels + (self._masked is not None)
        none = torch.empty((0, channels, *size), dtype=torch.uint8)
        vectorised = self._augmentation.on_image is None and self._masked is None
        if isinstance(dataset, TensorImages) and vectorised:
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
        index = int(job.indices[position])
        image = self.dataset.image(index)
        before = extent(image)
        if self._augmentation.on_image is None:
            image = fit(image, self.preprocessing)
        else:
            numbers = job.numbers[position]
            image = self._augmentation.on_image(image, numbers, self._square(image))
        # Checked here, since images of many sizes could fill the memory before the batch is whole.
        if self._masked is None or len(job.indices) > 1:
            _require_size(extent(image), size, self.dataset.name)
        pixels = _as_tensor(image)
        if self._masked is None:
            return pixels
        return torch.cat([pixels, self._one_mask(self._masked, index, before, job, position)])

    def _one_mask(
        self, images: MaskedImages, index: int, size: tuple[int, int], job: _Job, position: int
    ) -> Tensor:
        """Load the mask of an image of that size, uint8 (1, H, W), changed as the image is."""
        mask = images.mask(index)[None]
        if extent(mask) != size:
            raise DataError(
                f"image {index} of {images.name} has {size[0]} × {size[1]} pixels, but its mask "
                f"{mask.shape[1]} × {mask.shape[2]}",
                tip="give every image a mask of its own size",
            )
        if self._augmentation.on_mask is None:
            return fit_mask(mask, self.preprocessing)
        return self._augmentation.on_mask(mask, job.numbers[position], self._square(mask))


def _with_masks(dataset: LabelledImages, augmentation: str) -> MaskedImages:
    """Return a set whose masks can be changed as its images are.

    Raises:
        OptionError: the augmentation takes no masks.
        TypeError: the set has none.
    """
    if not isinstance(dataset, MaskedImages):
        raise TypeError(f"{dataset.name} has no masks")
    chosen = AUGMENTATIONS[augmentation]
    if chosen.numbers and chosen.on_mask is None:
        fitting = [name for name, own in AUGMENTATIONS.items() if own.on_mask or not own.numbers]
        raise OptionError(
            f"the augmentation '{augmentation}' does not change masks",
            tip=f"choose one of {', '.join(fitting)}",
        )
    return dataset


def _as_tensor(image: Tensor | Image.Image) -> Tensor:
    if isinstance(image, Tensor):
        return image
    from torchvision.transforms.functional import pil_to_tensor  # noqa: PLC0415 - slow to import

    converted: Tensor = pil_to_tensor(image)
    return converted


def batch_sizes(images: int, batch_size: int, least: int) -> list[int]:
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
