"""Safetensors files of images and labels."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from alds_cli.checkpoint.files import require_regular
from alds_cli.datasets.images import TensorImages
from alds_cli.datasets.preprocessing import CHANNELS
from alds_cli.errors import DataError, first_line

if TYPE_CHECKING:
    from torch import Tensor

_INTEGER_TYPES = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")


def open_tensors(spec: str, location: str) -> TensorImages:
    """Open the images of safetensors files.

    Args:
        spec: the name of the set in messages.
        location: comma-separated files and globs.

    Raises:
        DataError: a file is absent, damaged, or holds something else.
    """
    parts, labels, masks = [], [], []
    for path in expand(location):
        part_images, part_labels, part_masks = _read_tensor_file(path)
        parts.append(part_images)
        labels.append(part_labels)
        if part_masks is not None:
            masks.append(part_masks)
    if masks:
        return _masked(spec, parts, masks)
    found = [own for own in labels if own is not None]
    return TensorImages(spec, parts, torch.cat(found) if len(found) == len(labels) else None)


def expand(location: str) -> list[Path]:
    """Return the files that comma-separated names and globs match, those of each glob sorted.

    Raises:
        DataError: one is absent, or named twice.
    """
    names = list(filter(None, location.split(",")))
    if not names:
        raise DataError("'tensors:' names no file", tip="write tensors:FILE[,FILE or GLOB ...]")
    return matching(names)


def matching(names: Sequence[str]) -> list[Path]:
    """Return the files of these names and globs, those of each glob sorted.

    Raises:
        DataError: one is absent, or named twice.
    """
    paths: list[Path] = []
    for part in names:
        named = Path(part).expanduser()
        # A file whose name happens to hold [ or * is still that file.
        hits = glob.glob(str(named))  # noqa: PTH207 - the pattern may be absolute
        found = [named] if named.exists() else [Path(hit) for hit in sorted(hits)]
        if not found:
            raise DataError(
                f"there is no file {part}",
                tip="check the path; a relative one starts from the current folder",
            )
        paths += found
    seen = set()
    for path in paths:
        if path.resolve() in seen:
            raise DataError(f"{path} is named twice", tip="name every file once")
        seen.add(path.resolve())
    return paths


def _masked(spec: str, parts: list[Tensor], masks: list[Tensor]) -> TensorImages:
    from alds_cli.datasets.masked_images import MaskedTensors  # noqa: PLC0415 - most have none

    if len(masks) < len(parts):
        raise DataError(
            f"{spec} has masks in {len(masks)} of {len(parts)} files",
            tip="store 'masks' in all of the files, or in none",
        )
    return MaskedTensors(spec, parts, masks)


def _read_tensor_file(path: Path) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return images (N, C, H, W) as a view of the mapped file, and labels or masks, if any.

    Labels (N,) are int64, masks (N, H, W) uint8.
    """
    require_regular(path, DataError)
    try:
        with safe_open(path, framework="pt") as file:
            if "images" not in file.keys():  # noqa: SIM118 - it is no mapping
                listed = ", ".join(sorted(file.keys())) or "nothing"
                raise DataError(
                    f"{path} has no tensor 'images' (it holds {listed[:200]})",
                    tip="store uint8 'images' and, where they are known, integer 'labels'",
                )
            labelled, masked = ("labels" in file.keys()), ("masks" in file.keys())  # noqa: SIM118
            _check_images(path, file.get_slice("images"))
            if labelled:
                _check_labels(path, file.get_slice("labels"), file.get_slice("images"))
            if masked:
                _check_masks(path, file.get_slice("masks"), file.get_slice("images"), labelled)
            images: Tensor = file.get_tensor("images")
            masks = file.get_tensor("masks") if masked else None
            labels = file.get_tensor("labels").to(torch.int64) if labelled else None
    except (SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(
            f"{path} is not a safetensors file: {first_line(error)}",
            tip="write it with safetensors.torch.save_file",
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error}", tip="check the path and its permissions"
        ) from error
    return _channels_first(images), labels, masks


class _Slice:
    """The methods of a safetensors slice that are used here; the library has no types for it."""

    def get_dtype(self) -> str:
        raise NotImplementedError

    def get_shape(self) -> list[int]:
        raise NotImplementedError


def _check_images(path: Path, images: _Slice) -> None:
    """Check the type and the shape of images before any data are read."""
    if images.get_dtype() != "U8" or len(images.get_shape()) != 4:
        raise DataError(
            f"{path}: 'images' is {images.get_dtype()} of shape {tuple(images.get_shape())}, "
            "not U8 with four axes",
            tip="store pixels as uint8, shape (N, H, W, C) or (N, C, H, W)",
        )
    _check_shape(path, tuple(images.get_shape()))


def _check_labels(path: Path, labels: _Slice, images: _Slice) -> None:
    """Check the type and the number of labels before any data are read."""
    if labels.get_dtype() not in _INTEGER_TYPES or len(labels.get_shape()) != 1:
        raise DataError(
            f"{path}: 'labels' is {labels.get_dtype()} of shape {tuple(labels.get_shape())}, "
            "not integers with one axis",
            tip="store class numbers as int64, shape (N,)",
        )
    count, labelled = images.get_shape()[0], labels.get_shape()[0]
    if count != labelled:
        raise DataError(
            f"{path} has {count} images but {labelled} labels",
            tip="every image needs exactly one label",
        )


def _check_masks(path: Path, masks: _Slice, images: _Slice, labelled: bool) -> None:
    """Check the type and the shape of masks before any data are read."""
    shape, pixels = tuple(masks.get_shape()), tuple(images.get_shape())
    if labelled:
        raise DataError(
            f"{path} has both 'labels' and 'masks'",
            tip="store the class of every image, or of every pixel",
        )
    size = pixels[2:] if pixels[1] in CHANNELS else pixels[1:3]
    if masks.get_dtype() != "U8" or shape != (pixels[0], *size):
        raise DataError(
            f"{path}: 'masks' is {masks.get_dtype()} of shape {shape}, not U8 of shape "
            f"{(pixels[0], *size)}",
            tip="store the class of every pixel as uint8, shape (N, H, W), and 255 for no class",
        )


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        problem = "both axes 1 and 3 could be" if first else "neither axis 1 nor axis 3 is"
        raise DataError(
            f"{path}: in 'images' of shape {shape} {problem} the 1 or 3 channels",
            tip="store pixels as uint8, shape (N, H, W, C) or (N, C, H, W)",
        )
    if 0 in shape[1:]:
        raise DataError(
            f"{path}: 'images' of shape {shape} holds no pixels",
            tip="write the file again from the source images",
        )


def _channels_first(images: Tensor) -> Tensor:
    """Return a view of shape (N, C, H, W), whether or not the file has the channels last."""
    return images if images.shape[1] in CHANNELS else images.permute(0, 3, 1, 2)
