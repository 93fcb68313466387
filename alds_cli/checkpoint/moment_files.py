"""Moments of what layers are given or give, on disk: in the cache, or in a folder for one run.

A file holds the moments of one layer. All files of a folder belong to one network and one sample
of images, which the folder's key stands for. Files are mapped into memory, so that what is not
used for a while takes none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alds_cli.checkpoint.files import make_folder, replacing, require_regular
from alds_cli.checkpoint.user_cache import cache_folder
from alds_cli.errors import TableError
from alds_cli.schemas import MalformedError, held, parsed
from alds_cli.schemas.file_forms import MomentsForm

logger = logging.getLogger(__name__)

MOMENTS_VERSION = 1
"""Part of every key, raised whenever the meaning of the numbers changes."""

MOST_KEPT = 4 << 30
"""The most bytes of moments in the cache; those that were not used for longest are removed."""

_KEY = "alds_moments"

_PREFIX = f"moments-v{MOMENTS_VERSION}-"


MomentShapes = tuple[tuple[int, ...], tuple[int, ...] | None]
"""The shapes of a mean and of a covariance; None where there is no covariance."""


@dataclass(frozen=True, slots=True)
class LayerMoments:
    """What is known of what a layer of g groups is given, its input patches, or of what it gives.

    Attributes:
        count: number of positions over all images; 0 where the layer is never called.
        mean: in float64; of input patches (g, n).
        covariance: (g, n, n) in float64, symmetric; None where it would be too large, or the
            layer is never called.
        flat: whether all that was seen had the shape (samples, features).
    """

    count: int
    mean: Tensor
    covariance: Tensor | None
    flat: bool

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        named = {"mean": self.mean}
        return named if self.covariance is None else {**named, "covariance": self.covariance}


class MomentFiles:
    """The moments of one network's layers on one sample of images.

    Args:
        folder: where the files are; it is made when the first is written.
        key: stands for the network, the images and all else that the numbers depend on, a
            SHA-256 in hexadecimal.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self._key = folder, key

    @property
    def cached(self) -> bool:
        """Whether they are in the cache, and not in a folder for one run."""
        return self.folder.parent == cache_folder()

    def path(self, layer: str) -> Path:
        """Return the path of a layer's file; names of layers may be too long for one."""
        return self.folder / f"{hashlib.sha256(layer.encode()).hexdigest()[:32]}.safetensors"

    def load(self, shapes: Mapping[str, MomentShapes]) -> dict[str, LayerMoments]:
        """Load the moments of layers; those that are missing or cannot be trusted are left out.

        Args:
            shapes: those that the moments of each layer have if it is called.
        """
        found = {}
        for layer, shape in shapes.items():
            path = self.path(layer)
            if not path.exists():
                continue
            try:
                found[layer] = self._read(path, layer, shape)
            except TableError as error:
                logger.warning("%s; they are gathered anew", error)
        if found:
            with suppress(OSError):
                os.utime(self.folder)
        return found

    def store(self, layer: str, moments: LayerMoments) -> LayerMoments:
        """Write the moments of a layer, and return them as they are mapped from the file.

        Raises:
            OutputError: the file cannot be written.
        """
        make_folder(self.folder)
        form = held(
            MomentsForm,
            version=MOMENTS_VERSION,
            key=self._key,
            layer=layer,
            count=moments.count,
            flat=moments.flat,
            sha256=_checksum(moments),
        )
        path = self.path(layer)
        with replacing(path) as temporary:
            save_file(moments.tensors, temporary, metadata={_KEY: form.text()})
        try:
            return _mapped(path)[0]
        except _UNREADABLE as error:  # somebody has emptied the cache
            logger.info("%s cannot be read back: %r", path, error)
            return moments

    def _read(self, path: Path, layer: str, shape: MomentShapes) -> LayerMoments:
        """Read a file, and make sure that it is whole and what is asked for.

        Raises:
            TableError: it is not.
        """
        require_regular(path, TableError)
        try:
            moments, form = _mapped(path)
            sound = (form.version, form.key, form.layer) == (MOMENTS_VERSION, self._key, layer)
            _require(sound, path, "belong to something else")
            _require(_fits(moments, shape), path, "have other shapes")
            _require(form.sha256 == _checksum(moments), path, "are damaged")
        except _UNREADABLE as error:
            raise TableError(f"the moments in {path} cannot be read: {error!r}") from error
        return moments


# A damaged file may make its reader raise almost anything.
_UNREADABLE = (
    SafetensorError,
    MalformedError,
    OSError,
    LookupError,
    RecursionError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
)


def _mapped(path: Path) -> tuple[LayerMoments, MomentsForm]:
    with safe_open(str(path), framework="pt") as file:
        form = parsed(MomentsForm, (file.metadata() or {})[_KEY])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    mean, covariance = tensors.pop("mean"), tensors.pop("covariance", None)
    if tensors:
        raise ValueError("there are more tensors than two")
    return LayerMoments(form.count, mean, covariance, form.flat), form


def _require(condition: bool, path: Path, complaint: str) -> None:
    if not condition:
        raise TableError(f"the moments in {path} {complaint}")


def _fits(moments: LayerMoments, expected: MomentShapes) -> bool:
    mean, covariance = expected
    shapes = {"mean": mean}
    if covariance is not None and moments.count:
        shapes["covariance"] = covariance
    return {key: tuple(tensor.shape) for key, tensor in moments.tensors.items()} == shapes and all(
        tensor.dtype == torch.float64 and bool(tensor.isfinite().all())
        for tensor in moments.tensors.values()
    )


def _checksum(moments: LayerMoments) -> str:
    digest = hashlib.sha256(f"{moments.count}\0{moments.flat}".encode())
    for key, tensor in moments.tensors.items():
        digest.update(f"{key}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def cached_moments(key: str) -> MomentFiles:
    """Return the files in the cache for a key."""
    return MomentFiles(cache_folder() / f"{_PREFIX}{key}", key)


def trim_cached_moments(most: int | None = None) -> None:
    """Remove the moments that were not used for longest from the cache, until the rest fits.

    Args:
        most: bytes of all that may stay; None takes `MOST_KEPT`.
    """
    left = MOST_KEPT if most is None else most
    try:
        folders = [path for path in cache_folder().glob("moments-v*-*") if path.is_dir()]
        folders.sort(key=lambda path: -path.stat().st_mtime)
        for folder in folders:
            left -= sum(file.stat().st_size for file in folder.iterdir())
            if left < 0:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:  # another process tidies up
        logger.info("the cache was not tidied up: %s", error)
