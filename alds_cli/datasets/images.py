"""Sets of images, which are held in tensors or read from files when needed."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from alds_cli.datasets.decoding import decode, file_digest
from alds_cli.errors import DataError
from alds_cli.records import Fingerprint

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


Split = Literal["train", "test"]
"""A part of a published set."""

IGNORED = 255
"""The number in a mask that stands for no class; such pixels do not count."""

_CHUNK = 2**24
"""The most bytes of pixels that are hashed at a time."""


class LabelledImages(ABC):
    """Images with integer labels, or without any.

    Attributes:
        name: the spec that the set was opened from, for messages.
        labels: int64 tensor of shape (N,), in main memory; -1 everywhere if there are none.
        labelled: whether there are labels.
        channels: 1 (grey) or 3 (RGB).
        size: (height, width) in pixels if it is known that all images agree, else None.
        classes: names of the classes in label order; None if the source has no names.
    """

    def __init__(
        self,
        name: str,
        labels: Tensor | None,
        *,
        count: int,
        channels: int,
        size: tuple[int, int] | None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        if count == 0:
            raise DataError(f"{name} holds no images", tip="name a set with at least one image")
        self.name = name
        self.labelled = labels is not None
        self.labels = torch.full((count,), -1) if labels is None else labels
        self.channels = channels
        self.size = size
        self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> Fingerprint:
        """Return SHA-256 digests of the images and of the labels, wherever they are stored.

        All bytes of the images are read. An epoch of training reads as much, and reading costs
        little compared with decoding.

        Raises:
            DataError: an image cannot be read.
        """
        images = hashlib.sha256()
        for content in self._contents():
            images.update(content)
        labels = hashlib.sha256()
        for content in self._label_contents():
            labels.update(content)
        return Fingerprint(images.hexdigest(), labels.hexdigest())

    def _label_contents(self) -> Iterator[bytes | memoryview]:
        """Yield bytes that determine what is known about the images, in their order."""
        yield self.labels.contiguous().numpy().data

    def _labels_of(self, indices: Tensor) -> Tensor | None:
        return self.labels[indices] if self.labelled else None

    @abstractmethod
    def _contents(self) -> Iterator[bytes | memoryview]:
        """Yield bytes that determine the images, in their order."""

    @abstractmethod
    def image(self, index: int) -> Tensor | Image.Image:
        """Return one image: a uint8 tensor of shape (C, H, W), or a PIL image in mode RGB."""

    @abstractmethod
    def subset(self, indices: Tensor) -> LabelledImages:
        """Return the set of the images at `indices` (n,), n ≥ 1, in that order."""


class MaskedImages(LabelledImages):
    """Images with masks; as wholes they have no labels."""

    @abstractmethod
    def mask(self, index: int) -> Tensor:
        """Return the classes of an image's pixels, uint8 of shape (H, W); 255 for no class."""


class TensorImages(LabelledImages):
    """Images of one size, in one or more uint8 tensors of shape (N, C, H, W).

    The tensors may be views with any strides, such as those of a memory-mapped file; only the
    images of a batch are copied.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Tensor],
        labels: Tensor | None,
        *,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            listed = " and ".join(str(shape) for shape in sorted(shapes))
            raise DataError(
                f"{name} mixes images of shapes {listed} (channels, height, width)",
                tip="evaluate files of different image shapes one at a time",
            )
        _, channels, height, width = parts[0].shape
        counts = torch.tensor([len(part) for part in parts])
        super().__init__(
            name,
            labels,
            count=int(counts.sum()),
            channels=channels,
            size=(height, width),
            classes=classes,
        )
        self._parts = tuple(parts)
        self._ends = counts.cumsum(0)
        self._starts = self._ends - counts

    def batch(self, indices: Tensor) -> Tensor:
        """Copy the images at `indices` (n,) to a contiguous uint8 tensor of shape (n, C, H, W)."""
        part_of = torch.bucketize(indices, self._ends, right=True)
        images = torch.empty((len(indices), *self._parts[0].shape[1:]), dtype=torch.uint8)
        for number in sorted(set(part_of.tolist())):
            here = (part_of == number).nonzero().squeeze(1)
            images[here] = self._parts[number][indices[here] - self._starts[number]]
        return images

    def _contents(self) -> Iterator[bytes | memoryview]:
        shape = self._parts[0].shape[1:]
        yield str(tuple(shape)).encode()
        for indices in torch.split(torch.arange(len(self)), max(1, _CHUNK // math.prod(shape))):
            yield self.batch(indices).numpy().data

    def image(self, index: int) -> Tensor:
        """Return one image, a uint8 tensor of shape (C, H, W)."""
        return self.batch(torch.tensor([index]))[0]

    def subset(self, indices: Tensor) -> TensorImages:
        """Return the set of the images at `indices` (n,), n ≥ 1, copied into memory."""
        images, labels = self.batch(indices), self._labels_of(indices)
        return TensorImages(self.name, [images], labels, classes=self.classes)

    def unnamed(self) -> TensorImages:
        """Return the same images and labels without names of classes."""
        labels = self.labels if self.labelled else None
        return TensorImages(self.name, self._parts, labels)


class ImageFiles(LabelledImages):
    """Image files of any sizes, decoded to RGB one at a time."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        labels: Tensor | None,
        *,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(name, labels, count=len(paths), channels=3, size=None, classes=classes)
        self._paths = tuple(paths)

    def _contents(self) -> Iterator[bytes | memoryview]:
        return map(file_digest, self._paths)

    def image(self, index: int) -> Image.Image:
        """Return one image in mode RGB.

        Raises:
            DataError: the file cannot be read as an image; see `decode`.
        """
        return decode(self._paths[index])

    def subset(self, indices: Tensor) -> ImageFiles:
        """Return the set of the files at `indices` (n,), n ≥ 1, in that order."""
        paths = [self._paths[index] for index in indices.tolist()]
        return ImageFiles(self.name, paths, self._labels_of(indices), classes=self.classes)

    def relabelled(self, numbers: Sequence[int]) -> ImageFiles:
        """Return the same files with `numbers[i]` as label of class i, and without class names."""
        labels = torch.tensor(numbers, dtype=torch.int64)[self.labels]
        return ImageFiles(self.name, self._paths, labels)
