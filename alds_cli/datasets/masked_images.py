"""Images with a class for every pixel: from Pascal VOC 2012, and in tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alds_cli.checkpoint.files import require_regular
from alds_cli.datasets.decoding import decode_mask, file_digest
from alds_cli.datasets.images import ImageFiles, MaskedImages, Split, TensorImages
from alds_cli.datasets.matlab_masks import read_sbd_mask
from alds_cli.errors import DataError

_log = logging.getLogger(__name__)

_MOST_LIST_BYTES = 2**24


class MaskedTensors(MaskedImages, TensorImages):
    """Images of one size with masks, in tensors.

    Args:
        name: the spec, for messages.
        parts: uint8 tensors of shape (N, C, H, W).
        masks: uint8 tensors of shape (N, H, W), one for each part.
    """

    def __init__(self, name: str, parts: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        super().__init__(name, parts, None)
        self._masks = TensorImages(name, [mask[:, None] for mask in masks], None)

    def mask(self, index: int) -> Tensor:
        """Return the classes of an image's pixels, uint8 of shape (H, W); 255 for no class."""
        return self._masks.image(index)[0]

    def subset(self, indices: Tensor) -> MaskedTensors:
        """Return the set of the images at `indices` (n,), n ≥ 1, copied into memory."""
        masks = self._masks.batch(indices)[:, 0]
        return MaskedTensors(self.name, [self.batch(indices)], [masks])

    def _label_contents(self) -> Iterator[bytes | memoryview]:
        return self._masks._contents()  # noqa: SLF001 - of the same class


class MaskFiles(MaskedImages, ImageFiles):
    """Image files of any sizes, each with a file of its mask.

    Args:
        name: the spec, for messages.
        paths: the image files.
        masks: their masks: grey or palette PNG files, or the .mat files of SBD.
    """

    def __init__(self, name: str, paths: Sequence[Path], masks: Sequence[Path]) -> None:
        super().__init__(name, paths, None)
        self._mask_paths = tuple(masks)

    def mask(self, index: int) -> Tensor:
        """Return the classes of an image's pixels, uint8 of shape (H, W); 255 for no class.

        Raises:
            DataError: the file cannot be read as a mask.
        """
        path = self._mask_paths[index]
        return read_sbd_mask(path) if path.suffix == ".mat" else torch.from_numpy(decode_mask(path))

    def subset(self, indices: Tensor) -> MaskFiles:
        """Return the set of the files at `indices` (n,), n ≥ 1, in that order."""
        chosen = indices.tolist()
        return MaskFiles(
            self.name,
            [self._paths[index] for index in chosen],
            [self._mask_paths[index] for index in chosen],
        )

    def _label_contents(self) -> Iterator[bytes | memoryview]:
        return map(file_digest, self._mask_paths)


def open_voc2012(spec: str, root: Path, *, split: Split) -> MaskFiles:
    """Open the images for segmentation of Pascal VOC 2012.

    The part for testing is `val`. That for training is `train`, with the labels that SBD has for
    more images where these are there: as `SegmentationClassAug` beside `SegmentationClass`, or as
    `benchmark_RELEASE` beside `VOCdevkit`. Images of `val` are never among them.

    Args:
        spec: the name of the set in messages.
        root: the folder that holds `VOCdevkit/VOC2012`, or `VOC2012` itself.
        split: which part to take.

    Raises:
        DataError: a list, an image or a mask is absent.

    Source: Everingham et al. 2015; Hariharan et al. 2011; the lists are those of Chen et al. 2017.
    """
    inner = root / "VOCdevkit" / "VOC2012"
    base = inner if inner.is_dir() else root
    lists = base / "ImageSets" / "Segmentation"
    held = _names(lists / "val.txt")
    pairs = _paired(base, held) if split == "test" else _training(root, base, lists, set(held))
    _require_present([path for pair in pairs for path in pair])
    images, masks = zip(*pairs, strict=True)
    return MaskFiles(spec, images, masks)


_Pair = tuple[Path, Path]
"""An image file, and the file of its mask."""


def _paired(base: Path, names: Sequence[str], masks: str = "SegmentationClass") -> list[_Pair]:
    return [(base / "JPEGImages" / f"{name}.jpg", base / masks / f"{name}.png") for name in names]


def _training(root: Path, base: Path, lists: Path, held: set[str]) -> list[_Pair]:
    """Return the images to train on with their masks, with those of SBD where they are there."""
    augmented = base / "SegmentationClassAug"
    if augmented.is_dir():
        listed = lists / "trainaug.txt"
        names = (
            _names(listed)
            if listed.exists()
            else sorted(path.stem for path in augmented.glob("*.png"))
        )
        return _paired(base, [name for name in names if name not in held], augmented.name)
    own = _names(lists / "train.txt")
    pairs = _paired(base, own)
    folders = (root / "benchmark_RELEASE" / "dataset", base / "benchmark_RELEASE" / "dataset")
    for folder in folders:
        if folder.is_dir():
            more = {*_names(folder / "train.txt"), *_names(folder / "val.txt")}
            added = sorted(more - held - set(own))
            masks = (folder / "cls" / f"{name}.mat" for name in added)
            images = (_sbd_image(base, folder, name) for name in added)
            return [*pairs, *zip(images, masks, strict=True)]
    _log.info("%s has no labels of SBD, so %d images train", root, len(pairs))
    return pairs


def _sbd_image(base: Path, folder: Path, name: str) -> Path:
    """Return an image of SBD, which is one of VOC 2012's where that is there."""
    path = base / "JPEGImages" / f"{name}.jpg"
    return path if path.exists() else folder / "img" / path.name


def _names(path: Path) -> list[str]:
    """Read a list of images, one on each line."""
    if not path.exists():
        raise DataError(
            f"there is no list {path}",
            tip="name the folder that holds VOCdevkit/VOC2012, as VOCtrainval_11-May-2012.tar "
            "unpacks it",
        )
    require_regular(path, DataError, most=_MOST_LIST_BYTES)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a list of images", tip="unpack it again") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} lists no images", tip="unpack it again")
    return names


def _require_present(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(paths):,} images and masks are missing, the first of them "
            f"{missing[0]}",
            tip="unpack the archive again, or take those images off the list",
        )
