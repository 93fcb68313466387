"""Opening the images that a data spec on the command line names."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError, safe_open

from alds_cli.checkpoint.files import require_regular
from alds_cli.datasets.folders import read_folder
from alds_cli.datasets.images import ImageFiles, LabelledImages, TensorImages
from alds_cli.datasets.preprocessing import CHANNELS
from alds_cli.errors import DataError, first_line

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "test"]

_INTEGER_TYPES = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")

_MOST_CIFAR_BYTES = 2**26
"""The most bytes that a file of CIFAR-10 may have; the published ones have 31 MB."""


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `open_dataset`; `location` is the spec after its first colon."""

    spec: str
    location: str
    split: Split
    download: bool


def open_dataset(spec: str, *, split: Split = "test", download: bool = False) -> LabelledImages:
    """Open the images that a data spec names.

    Args:
        spec: `tensors:FILE[,FILE or GLOB ...]` (safetensors with `images`, uint8 of
            shape (N, H, W, C) or (N, C, H, W), and integer `labels` of shape (N,), or none),
            `imagefolder:DIR` (one folder per class, in alphabetical order, or images without
            labels) or `cifar10:DIR` (the folder that holds `cifar-10-batches-py`).
        split: which part of a published set to take; other sources have only one.
        download: whether to fetch `cifar10` if it is not there yet.

    Returns:
        A set of at least one image.

    Raises:
        DataError: the spec is unknown, or its data are absent, damaged or empty.
    """
    kind, colon, location = spec.partition(":")
    if kind not in _OPENERS or not colon or not location:
        raise DataError(
            f"'{spec}' is not a data set this tool knows",
            tip="name one as " + ", ".join(DATASET_FORMS.values()),
        )
    return _OPENERS[kind](_Request(spec, location, split, download))


def opened(
    data: str | LabelledImages, *, split: Split = "test", download: bool = False
) -> LabelledImages:
    """Return the given images, or open those that a spec names; see `open_dataset`.

    Raises:
        DataError: the spec is unknown, or its data are absent, damaged or empty.
    """
    return open_dataset(data, split=split, download=download) if isinstance(data, str) else data


def tensor_files(data: object) -> list[Path]:
    """Return the files that a spec `tensors:…` names; other data give an empty list.

    Raises:
        DataError: one is absent, or named twice.
    """
    kind, _, location = data.partition(":") if isinstance(data, str) else ("", "", "")
    return _expand(location) if kind == "tensors" else []


def _open_tensors(request: _Request) -> TensorImages:
    parts = []
    labels = []
    for path in _expand(request.location):
        part_images, part_labels = _read_tensor_file(path)
        parts.append(part_images)
        labels.append(part_labels)
    found = [own for own in labels if own is not None]
    return TensorImages(
        request.spec, parts, torch.cat(found) if len(found) == len(labels) else None
    )


def _expand(location: str) -> list[Path]:
    """Return the files that comma-separated names and globs match, those of each glob sorted."""
    paths: list[Path] = []
    for part in filter(None, location.split(",")):
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
    if not paths:
        raise DataError("'tensors:' names no file", tip=f"write {DATASET_FORMS['tensors']}")
    seen = [path.resolve() for path in paths]
    for number, path in enumerate(seen):
        if path in seen[:number]:
            raise DataError(f"{paths[number]} is named twice", tip="name every file once")
    return paths


def _read_tensor_file(path: Path) -> tuple[Tensor, Tensor | None]:
    """Return images (N, C, H, W) as a view of the mapped file, and labels (N,) as int64, if any."""
    require_regular(path, DataError)
    try:
        with safe_open(path, framework="pt") as file:
            if "images" not in file.keys():  # noqa: SIM118 - it is no mapping
                listed = ", ".join(sorted(file.keys())) or "nothing"
                raise DataError(
                    f"{path} has no tensor 'images' (it holds {listed[:200]})",
                    tip="store uint8 'images' and, where they are known, integer 'labels'",
                )
            labelled = "labels" in file.keys()  # noqa: SIM118
            _check_images(path, file.get_slice("images"))
            if labelled:
                _check_labels(path, file.get_slice("labels"), file.get_slice("images"))
            images: Tensor = file.get_tensor("images")
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
    return _channels_first(images), labels


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


def _open_folder(request: _Request) -> ImageFiles:
    content = read_folder(request.spec, Path(request.location).expanduser())
    if content.labels is None:
        return ImageFiles(request.spec, content.files, None)
    labels = torch.tensor(content.labels, dtype=torch.int64)
    return ImageFiles(request.spec, content.files, labels, classes=content.classes)


def _open_cifar10(request: _Request) -> TensorImages:
    root = Path(request.location).expanduser()
    _require_moderate_batches(root)
    try:
        # torchvision unpickles only files whose MD5 sums are the published ones.
        from torchvision.datasets import CIFAR10  # noqa: PLC0415 - slow to import

        data = CIFAR10(root, train=request.split == "train", download=request.download)
    except (OSError, RuntimeError, ValueError) as error:
        if request.download:
            raise DataError(
                f"CIFAR-10 could not be fetched into {root}: {error}",
                tip="check the network connection and the free space, or fetch it by hand",
            ) from error
        raise DataError(
            f"{root} does not hold a complete CIFAR-10 (cifar-10-batches-py)",
            tip="name the folder that does, or add --download",
        ) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2)
    return TensorImages(
        request.spec, [images], torch.tensor(data.targets), classes=tuple(data.classes)
    )


def _require_moderate_batches(root: Path) -> None:
    """Raise if a file is far too large for CIFAR-10, before its MD5 sum is computed."""
    with suppress(OSError, ValueError):  # torchvision reports files that are missing
        for path in (root / "cifar-10-batches-py").iterdir():
            if path.is_file():
                require_regular(path, DataError, most=_MOST_CIFAR_BYTES)


_OPENERS: Mapping[str, Callable[[_Request], LabelledImages]] = {
    "tensors": _open_tensors,
    "imagefolder": _open_folder,
    "cifar10": _open_cifar10,
}

DATASET_FORMS: Mapping[str, str] = {
    "tensors": "tensors:FILE[,FILE or GLOB ...]",
    "imagefolder": "imagefolder:DIR",
    "cifar10": "cifar10:DIR",
}
"""The form of a spec of each kind, for help texts."""
