"""Opening the images that a data spec on the command line names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from alds_cli.datasets.division import part_of, without_part
from alds_cli.datasets.folders import read_folder
from alds_cli.datasets.images import ImageFiles, LabelledImages, Split
from alds_cli.datasets.tensor_files import expand, open_tensors
from alds_cli.datasets.token_blocks import Samples, TokenBlocks
from alds_cli.errors import DataError
from alds_cli.options.readers import names_object


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `open_dataset`; `location` is the spec after its first colon."""

    spec: str
    location: str
    split: Split
    download: bool

    @property
    def folder(self) -> Path:
        """The location as a folder."""
        return Path(self.location).expanduser()


def open_dataset(spec: str, *, split: Split = "test", download: bool = False) -> LabelledImages:
    """Open the images that a data spec names.

    Args:
        spec: one of the forms in `DATASET_FORMS`:
            `tensors:FILE[,FILE or GLOB ...]` (safetensors with `images`, uint8 of
            shape (N, H, W, C) or (N, C, H, W), and integer `labels` of shape (N,), or uint8
            `masks` of shape (N, H, W), or neither);
            `imagefolder:DIR` (one folder per class, in alphabetical order, or images without
            labels); `cifar10:DIR` or `cifar100:DIR` (the folder that holds `cifar-10-batches-py`
            or `cifar-100-python`); `imagenet:DIR` (the folder that holds `train` and `val`);
            `voc2012:DIR` (the folder that holds `VOCdevkit`; the images have masks);
            `webdataset:SHARD[,SHARD or GLOB ...]` (tar files as WebDataset writes them, also as
            `part-{000..009}.tar`); or `package.module:factory` (the user's own code; see
            `user_images.open_factory`). A suffix `#train`, `#calibration` or `#early-stopping`
            takes that part of a training set, and `,seed=N` after it divides the set by another
            seed than 0; see `divided_parts`.
        split: which part of a published set to take; other sources have only one. A part of a
            training set is one of `train` in any case.
        download: whether to fetch `cifar10` or `cifar100` if it is not there yet.

    Returns:
        A set of at least one image.

    Raises:
        DataError: the spec is unknown, or its data are absent, damaged or empty.
    """
    whole, part, seed = without_part(spec)
    if part is not None:
        chosen = part_of(open_dataset(whole, split="train", download=download), part, seed)
        chosen.name = spec
        return chosen
    kind = kind_of(spec)
    if kind in {"text", "lines"}:
        raise _no_images(spec)
    request = _Request(spec, spec.partition(":")[2], split, download)
    return _OPENERS[kind](request) if kind in _OPENERS else _open_factory(request)


def kind_of(spec: str) -> str:
    """Return the kind of data that a spec names, a key of `DATASET_FORMS`, without opening them.

    Raises:
        DataError: the spec has none of the forms.
    """
    whole, _, _ = without_part(spec)
    kind, _, location = whole.partition(":")
    if location and (kind in _OPENERS or kind in {"text", "lines"}):
        return kind
    if names_object(whole):
        return "factory"
    raise DataError(
        f"'{spec}' is not a data set this tool knows",
        tip="name one as " + ", ".join(DATASET_FORMS.values()),
    )


def _no_images(name: str) -> DataError:
    return DataError(
        f"{name} is text, and images are needed here",
        tip="`alds compress`, `evaluate`, `retrain` and `train` take texts",
    )


def opened(data: str | Samples, *, split: Split = "test", download: bool = False) -> LabelledImages:
    """Return the given images, or open those that a spec names; see `open_dataset`.

    Raises:
        DataError: the spec is unknown, or its data are absent, damaged, empty, or text.
    """
    if isinstance(data, TokenBlocks):
        raise _no_images(data.name)
    return open_dataset(data, split=split, download=download) if isinstance(data, str) else data


def tensor_files(data: object) -> list[Path]:
    """Return the files that a spec names; data that are none, or whole folders, give none.

    Raises:
        DataError: one is absent, or named twice.
    """
    if not isinstance(data, str):
        return []
    whole, part, _ = without_part(data)
    if part is not None:
        return tensor_files(whole)
    kind, _, location = whole.partition(":")
    if kind == "webdataset":
        from alds_cli.datasets.shards import shard_files  # noqa: PLC0415 - as below

        return shard_files(location)
    if kind in {"text", "lines"}:
        return [Path(location).expanduser()]
    return expand(location) if kind == "tensors" else []


def _open_tensors(request: _Request) -> LabelledImages:
    return open_tensors(request.spec, request.location)


def _open_folder(request: _Request) -> ImageFiles:
    content = read_folder(request.spec, request.folder)
    if content.labels is None:
        return ImageFiles(request.spec, content.files, None)
    labels = torch.tensor(content.labels, dtype=torch.int64)
    return ImageFiles(request.spec, content.files, labels, classes=content.classes)


def _open_cifar10(request: _Request) -> LabelledImages:
    return _open_cifar("CIFAR10", request)


def _open_cifar100(request: _Request) -> LabelledImages:
    return _open_cifar("CIFAR100", request)


def _open_cifar(name: Literal["CIFAR10", "CIFAR100"], request: _Request) -> LabelledImages:
    from alds_cli.datasets.published_sets import open_cifar  # noqa: PLC0415 - most sets need no more

    return open_cifar(
        name, request.spec, request.folder, split=request.split, download=request.download
    )


def _open_imagenet(request: _Request) -> LabelledImages:
    from alds_cli.datasets.published_sets import open_imagenet  # noqa: PLC0415 - as above

    return open_imagenet(request.spec, request.folder, split=request.split)


def _open_voc2012(request: _Request) -> LabelledImages:
    from alds_cli.datasets.masked_images import open_voc2012  # noqa: PLC0415 - as above

    return open_voc2012(request.spec, request.folder, split=request.split)


def _open_shards(request: _Request) -> LabelledImages:
    from alds_cli.datasets.shards import open_shards  # noqa: PLC0415 - as above

    return open_shards(request.spec, request.location)


def _open_factory(request: _Request) -> LabelledImages:
    from alds_cli.datasets.user_images import open_factory  # noqa: PLC0415 - as above

    try:
        return open_factory(request.spec)
    except DataError as error:
        near = difflib.get_close_matches(request.spec.partition(":")[0], _OPENERS, n=1)
        if not near:
            raise
        raise DataError(error.message, tip=f"did you mean {DATASET_FORMS[near[0]]}?") from error


_OPENERS: Mapping[str, Callable[[_Request], LabelledImages]] = {
    "tensors": _open_tensors,
    "imagefolder": _open_folder,
    "cifar10": _open_cifar10,
    "cifar100": _open_cifar100,
    "imagenet": _open_imagenet,
    "voc2012": _open_voc2012,
    "webdataset": _open_shards,
}

DATASET_FORMS: Mapping[str, str] = {
    "tensors": "tensors:FILE[,FILE or GLOB ...]",
    "imagefolder": "imagefolder:DIR",
    "cifar10": "cifar10:DIR",
    "cifar100": "cifar100:DIR",
    "imagenet": "imagenet:DIR",
    "voc2012": "voc2012:DIR",
    "webdataset": "webdataset:SHARD[,SHARD or GLOB ...]",
    "text": "text:FILE",
    "lines": "lines:FILE",
    "factory": "package.module:factory",
}
"""The form of a spec of each kind, for help texts."""
