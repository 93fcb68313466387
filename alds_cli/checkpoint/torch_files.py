"""PyTorch's files: zip archives, the older format, and plain pickles. No code is run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import torch
from torch import UntypedStorage

from alds_cli.checkpoint.archives import Archive
from alds_cli.checkpoint.files import (
    MalformedError,
    NeedsCodeError,
    UnsupportedError,
)
from alds_cli.checkpoint.mapped_files import folder_for
from alds_cli.checkpoint.pickle_items import (
    Blob,
    ByteText,
    Window,
    settle,
)
from alds_cli.checkpoint.pickled_arrays import Limits, Storage
from alds_cli.checkpoint.pickled_values import PickledValues
from alds_cli.checkpoint.pickles import interpret

_MAGIC = 0x1950A86A20F9469CFC6C
"""The number, pickled, at the beginning of files from before PyTorch 1.6."""

_LEGACY_PROTOCOL = 1001


def read_archive(path: Path) -> object:
    """Read what `torch.save` wrote into a zip archive.

    Raises:
        MalformedError: it is incomplete, or claims more than a file of its size may.
        UnsupportedError: it holds something that is not supported.
        NeedsCodeError: it holds Python code.
    """
    with Archive(path) as archive:
        storages = _ArchiveStorages(archive)
        values = PickledValues(Limits(archive.nbytes, archive.unpacked), storages)
        root = interpret(archive.window("data.pkl"), values)
        _require_no_code(values)
        storages.fill()
        return settle(root)


def read_pickle(path: Path) -> object:
    """Read a file of pickles: one from before PyTorch 1.6, or a plain pickle.

    Raises:
        MalformedError: it is incomplete, or claims more than a file of its size may.
        UnsupportedError: it holds something that is not supported.
        NeedsCodeError: it holds Python code.
    """
    with path.open("rb") as file:
        nbytes = path.stat().st_size
        window = Window(file, 0, nbytes)
        storages = _LegacyStorages()
        values = PickledValues(Limits(nbytes), storages)
        root = interpret(window, values)
        _require_no_code(values)
        if _is_number(root, _MAGIC):
            root = _after_magic(window, values, storages)
        return settle(root)


def _is_number(value: object, number: int) -> bool:
    """Return whether a value is that number; tensors would compare each of their elements."""
    return type(value) is int and value == number


def _after_magic(window: Window, values: PickledValues, storages: _LegacyStorages) -> object:
    """Read the rest of a legacy file: version, machine, value, keys of the storages, data."""
    if not _is_number(interpret(window, values), _LEGACY_PROTOCOL):
        raise UnsupportedError("it has a version of PyTorch's old format that is not known")
    machine = interpret(window, values)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnsupportedError("it was written on a machine with another byte order")
    root = interpret(window, values)
    keys = interpret(window, values)
    _require_no_code(values)
    if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
        raise MalformedError("the list of its storages is damaged")
    storages.fill(window, list(map(str, keys)))
    return root


def is_legacy(path: Path) -> bool:
    """Return whether PyTorch, not Python's `pickle`, wrote a file that is not an archive."""
    with path.open("rb") as file:
        return _MAGIC.to_bytes(10, "little") in file.read(32)


def _require_no_code(values: PickledValues) -> None:
    if values.code:
        names = sorted(values.code)
        raise NeedsCodeError(f"it holds pickled Python code ({', '.join(names[:5])})", names)


def _read_within(window: Window, values: PickledValues) -> Storage:
    """Read the storage that a legacy file within a pickle holds."""
    storages = _LegacyStorages(within=True)
    inner = PickledValues(values.limits, storages, values.code)
    if interpret(window, inner) != _MAGIC:
        raise MalformedError("a storage in its pickle is damaged")
    storage = _after_magic(window, inner, storages)
    if not isinstance(storage, Storage):
        raise MalformedError("a storage in its pickle is damaged")
    return storage


def _place_of(content: object) -> tuple[BinaryIO, int, int]:
    """Return a file with the bytes that a pickle holds, their offset and their number."""
    if isinstance(content, Blob) and content.kind == "bytes":
        return content.file, content.start, content.size
    if isinstance(content, Blob):
        content = content.finish()
    if isinstance(content, ByteText):
        content = content.raw
    if not isinstance(content, (bytes, bytearray)):
        raise MalformedError("a storage in its pickle is damaged")
    return io.BytesIO(content), 0, len(content)


def _room(nbytes: int) -> UntypedStorage:
    """Return a storage that is not filled yet."""
    return UntypedStorage(nbytes)  # type: ignore[no-untyped-call]


def _bytes_of(data: UntypedStorage) -> memoryview:
    """Return a storage's memory."""
    view = torch.empty(0, dtype=torch.uint8).set_(data)
    return view.numpy().data


class _LegacyStorages:
    """Storages whose bytes follow the pickle, or are within it."""

    def __init__(self, *, within: bool = False) -> None:
        """Start with none.

        Args:
            within: whether this is a file within a pickle, which must not hold further ones.
        """
        self._within = within
        self._found: dict[str, tuple[UntypedStorage, int]] = {}
        self._nested: dict[int, tuple[object, Storage]] = {}

    def named(
        self, key: str, count: int, dtype: torch.dtype | None, values: PickledValues
    ) -> UntypedStorage:
        """Room for the data of that key."""
        if key not in self._found:
            nbytes = count * (dtype.itemsize if dtype is not None else 1)
            values.limits.claim_data(nbytes)
            self._found[key] = _room(nbytes), count
        return self._found[key][0]

    def nested(self, content: object, values: PickledValues) -> object:
        """Return the storage in a legacy file that a plain pickle holds as bytes."""
        if self._within:
            raise MalformedError("a storage in its pickle is damaged")
        if id(content) not in self._nested:
            file, start, size = _place_of(content)
            back = file.tell()
            storage = _read_within(Window(file, start, size), values)
            file.seek(back)
            self._nested[id(content)] = content, storage  # the content keeps its address
        return self._nested[id(content)][1]

    def fill(self, window: Window, keys: list[str]) -> None:
        """Read the data, which are in the order of the keys."""
        if set(keys) != set(self._found) or len(keys) != len(self._found):
            raise MalformedError("the list of its storages is damaged")
        for key in keys:
            data, count = self._found[key]
            if int.from_bytes(window.take(8), "little", signed=True) != count:
                raise MalformedError("a storage in it has another length than its tensors")
            window.skip(data.nbytes()).read_into(_bytes_of(data))


class _ArchiveStorages:
    """Storages that are members of a zip archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._found: dict[str, tuple[UntypedStorage, torch.dtype | None]] = {}
        self._in_file: set[str] = set()
        self._swapped = archive.byteorder() == "big"
        self._plain = _LegacyStorages()

    def named(
        self, key: str, count: int, dtype: torch.dtype | None, values: PickledValues
    ) -> UntypedStorage:
        """Room for the data of that key."""
        if key not in self._found:
            nbytes = count * (dtype.itemsize if dtype is not None else 1)
            values.limits.claim_data(nbytes)
            if nbytes > self._archive.size(f"data/{key}"):
                raise MalformedError(f"its storage {key:.40} has less data than its tensors need")
            self._found[key] = self._mapped(key, nbytes) or _room(nbytes), dtype
        return self._found[key][0]

    def nested(self, content: object, values: PickledValues) -> object:
        """Return a storage that was pickled with its bytes."""
        return self._plain.nested(content, values)

    def _mapped(self, key: str, nbytes: int) -> UntypedStorage | None:
        """Return the data of that key where they stay in the file."""
        if self._swapped or not folder_for(nbytes):
            return None
        data = self._archive.mapped(f"data/{key}", nbytes)
        if data is None:
            return None
        self._in_file.add(key)
        return data.untyped_storage()

    def fill(self) -> None:
        """Read the data that do not stay in the file."""
        for key, (data, dtype) in self._found.items():
            if key in self._in_file:
                continue
            self._archive.read_into(f"data/{key}", _bytes_of(data))
            if self._swapped:
                if dtype is None:
                    raise UnsupportedError("it was written on a machine with another byte order")
                data.byteswap(dtype)  # type: ignore[no-untyped-call]
