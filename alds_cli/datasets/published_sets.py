"""Published sets of images as their authors lay them out: CIFAR-10, CIFAR-100, ImageNet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from alds_cli.checkpoint.files import require_regular
from alds_cli.datasets.folders import read_folder
from alds_cli.datasets.images import ImageFiles, Split, TensorImages
from alds_cli.errors import DataError

_CIFAR_TITLES = {"CIFAR10": "CIFAR-10", "CIFAR100": "CIFAR-100"}

_MOST_CIFAR_BYTES = {"CIFAR10": 2**26, "CIFAR100": 2**28}
"""The most bytes that a file may have; the largest published ones have 31 MB and 155 MB."""

_IMAGENET_FOLDERS: Mapping[Split, str] = {"train": "train", "test": "val"}


def open_cifar(
    name: Literal["CIFAR10", "CIFAR100"], spec: str, root: Path, *, split: Split, download: bool
) -> TensorImages:
    """Open CIFAR-10 or CIFAR-100; only files with the published MD5 sums are read.

    Args:
        name: torchvision's name of the set.
        spec: the name of the set in messages.
        root: the folder that holds `cifar-10-batches-py` or `cifar-100-python`.
        split: which part to take.
        download: whether to fetch it if it is not there.

    Raises:
        DataError: a file is absent or damaged, or the set cannot be fetched.
    """
    from torchvision import datasets  # noqa: PLC0415 - slow to import

    kind = getattr(datasets, name)
    _require_moderate_files(root / kind.base_folder, _MOST_CIFAR_BYTES[name])
    title = _CIFAR_TITLES[name]
    try:
        # torchvision unpickles only files whose MD5 sums are the published ones.
        data = kind(root, train=split == "train", download=download)
    except (OSError, RuntimeError, ValueError) as error:
        if download:
            raise DataError(
                f"{title} could not be fetched into {root}: {error}",
                tip="check the network connection and the free space, or fetch it by hand",
            ) from error
        what, remedy = _fault(kind, root)
        raise DataError(
            f"{root} does not hold a complete {title}: {what}",
            tip=f"{remedy}name the folder that holds {kind.base_folder}, or add --download",
        ) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2)
    return TensorImages(spec, [images], torch.tensor(data.targets), classes=tuple(data.classes))


def _require_moderate_files(folder: Path, most: int) -> None:
    """Raise if a file is far too large for its set, before its MD5 sum is computed."""
    with suppress(OSError, ValueError):  # torchvision reports files that are missing
        for path in folder.iterdir():
            if path.is_file():
                require_regular(path, DataError, most=most)


def _fault(kind: Any, root: Path) -> tuple[str, str]:
    """Return what is wrong with the first file that is, and the beginning of a tip."""
    for path, md5 in _cifar_files(kind, root):
        try:
            require_regular(path, DataError)  # reading a pipe would never end
            content = path.read_bytes()
        except DataError as error:
            return error.message, ""
        except (OSError, ValueError) as error:
            return f"{path} cannot be read: {error}", "check its permissions; "
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            return f"{path} is damaged, as its MD5 sum is not the published one", f"remove {path}; "
    return "its files cannot be read", ""


def _cifar_files(kind: Any, root: Path) -> Iterator[tuple[Path, str]]:
    folder = root / kind.base_folder
    yield from ((folder / name, md5) for name, md5 in (*kind.train_list, *kind.test_list))
    yield folder / kind.meta["filename"], kind.meta["md5"]


def open_imagenet(spec: str, root: Path, *, split: Split) -> ImageFiles:
    """Open the class folders in `train` or `val` of a folder.

    Args:
        spec: the name of the set in messages.
        root: the folder that holds `train` and `val`.
        split: `train`, or `test` for the folder `val`.

    Raises:
        DataError: the folder is absent, or holds no class folders.
    """
    folder = root / _IMAGENET_FOLDERS[split]
    if not folder.is_dir():
        raise DataError(
            f"{root} does not hold ImageNet: there is no folder {folder}",
            tip="name the folder that holds train/ and val/, or a single folder of class folders "
            "as imagefolder:DIR",
        )
    content = read_folder(spec, folder)
    if content.labels is None:
        raise DataError(
            f"{folder} holds images that are in no class folders, {content.files[0].name} the "
            "first of them, so that their classes are not known",
            tip="sort them into one folder for each class, as torchvision.datasets.ImageNet does "
            "with the archives and the development kit",
        )
    labels = torch.tensor(content.labels, dtype=torch.int64)
    return ImageFiles(spec, content.files, labels, classes=content.classes)
