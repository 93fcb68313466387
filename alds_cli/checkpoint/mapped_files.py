"""Tensors that lie in files instead of in the process's own memory, mapped so that they look alike.

The system reads pages of such a tensor when they are used, and may drop them again. What is
written into a tensor mapped from a user's file goes to memory of the process, never to the file.
"""

from __future__ import annotations

import logging
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor, UntypedStorage

from alds_cli.runtime.heap import give_back, large_blocks_apart

logger = logging.getLogger(__name__)

_LARGE = 1 << 20
"""The bytes from which tensors stay in files; smaller ones are hardly worth a mapping."""

_SOME = 64 << 20
"""The bytes of tensors from which freed blocks return to the system at once, if they are large, and
others from time to time."""

_MANY = 1 << 30
"""The bytes of tensors from which it pays to put smaller ones into files, too: beside them, the
time for a mapping or for a page fault no longer counts, and together they fill the memory."""

_LARGE_AMONG_MANY = 64 << 10

_BLOCK_AMONG_MANY = 1 << 20
"""The bytes from which freed blocks then return at once."""

_GIVEN_BACK_AFTER = 32 << 20
"""The bytes of tensors after which smaller blocks are returned, too, each time: what outlives the
work on a layer lies between them in the pools, so that these would grow with every layer."""


class _Place:
    """Where tensors are put, and from which size on, which falls once there were many."""

    def __init__(self, folder: Path, until_left: ExitStack) -> None:
        self._folder = folder
        self._until_left = until_left
        self._least = _LARGE
        self._seen = 0

    def folder_for(self, nbytes: int) -> Path | None:
        """Return the folder for files of tensors of that size, or None; count their bytes."""
        before, self._seen = self._seen, self._seen + nbytes
        if before < _SOME <= self._seen:
            self._until_left.enter_context(large_blocks_apart())
        if before < _MANY <= self._seen:
            self._least = min(_LARGE, _LARGE_AMONG_MANY)
            self._until_left.enter_context(large_blocks_apart(_BLOCK_AMONG_MANY))
        if self._seen >= _SOME and before // _GIVEN_BACK_AFTER < self._seen // _GIVEN_BACK_AFTER:
            give_back()
        return self._folder if nbytes >= self._least else None


_PLACE: ContextVar[_Place | None] = ContextVar("place of weights set aside", default=None)


@contextmanager
def weights_in_files(folder: Path) -> Iterator[None]:
    """Let large tensors stay in their files, which must not change then, or be put into others.

    Args:
        folder: where the others are, which have no name.
    """
    with ExitStack() as until_left:
        token = _PLACE.set(_Place(folder, until_left))
        try:
            yield
        finally:
            _PLACE.reset(token)


def folder_for(nbytes: int) -> Path | None:
    """Return the folder for the file of a tensor of so many bytes; None if it goes into memory."""
    place = _PLACE.get()
    return None if place is None else place.folder_for(nbytes)


def aside(tensor: Tensor) -> Tensor:
    """Return a tensor that was computed, put into a file if it is not to stay in memory."""
    folder = folder_for(tensor.nbytes)
    return tensor if folder is None else _written_aside(tensor, folder)


def map_file(file: BinaryIO) -> mmap.mmap | None:
    """Map a whole file, copying pages that are written to; None where that is not possible."""
    try:
        if not hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        # Without a reservation, the file may be larger than the memory that there is.
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
        return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        logger.info("a file is read into memory, because it cannot be mapped: %s", error)
        return None


def tensor_in(
    mapped: mmap.mmap, start: int, dtype: torch.dtype, shape: tuple[int, ...]
) -> Tensor | None:
    """Return a tensor whose numbers are those of a mapped file; None where they are not aligned.

    It has a storage of its own, of exactly its size, and keeps the mapping alive.

    Args:
        mapped: the file.
        start: the offset of its first byte in the file.
        dtype: the type of its numbers.
        shape: its shape, of at least one number, all of which are in the file.
    """
    count = torch.Size(shape).numel()
    if start % dtype.itemsize or start + count * dtype.itemsize > len(mapped):
        return None
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start).view(shape)


def _written_aside(tensor: Tensor, folder: Path) -> Tensor:
    """Write a tensor into a file without a name, and return it mapped from there.

    The file takes room on the disk until the tensor is let go.

    Args:
        tensor: numbers on the CPU.
        folder: where the file is.

    Returns:
        The tensor in the file, or the tensor given where its numbers are not one after another or
        no file can be written.
    """
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        return tensor
    plain = tensor.detach()
    try:
        with tempfile.NamedTemporaryFile(prefix=".alds-", dir=folder) as file:
            # Written rather than copied into the mapping, where a full disk would be fatal.
            file.write(plain.view(-1).view(torch.uint8).numpy().data)
            file.flush()
            mapped = UntypedStorage.from_file(file.name, shared=True, nbytes=plain.nbytes)
    except (OSError, RuntimeError) as error:
        logger.info("weights stay in memory, because they cannot be written aside: %s", error)
        return tensor
    storage = cast("UntypedStorage", mapped)
    return torch.empty(0, dtype=plain.dtype).set_(storage, 0, plain.shape, plain.stride())
