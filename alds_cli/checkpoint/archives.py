"""Zip archives, whose directory is checked before anything in them is read."""

from __future__ import annotations

import io
import struct
import zipfile
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import torch
from torch import Tensor

from alds_cli.checkpoint.files import (
    MalformedError,
    TruncatedError,
    UnsupportedError,
    fill,
)
from alds_cli.checkpoint.mapped_files import map_file, tensor_in
from alds_cli.checkpoint.pickle_items import Window

_EXPANSION = 16
_ALLOWANCE = 1 << 20
"""Unpacked members may have this many times the file's size, plus the allowance."""

_LOCAL_HEADER = 30
_ENCRYPTED = 0x1
_AT_THE_TOP = ("/data.pkl", "/archive_format")
"""Members that are directly in the one folder of a checkpoint, or of a program."""

_DAMAGED = "it is damaged: the zip archive is truncated or corrupt"


class Archive:
    """A zip archive whose members are in one folder, as PyTorch writes them.

    Members are named without that folder. Their unpacked size is bounded by the file's size.

    Attributes:
        nbytes: the size of the file in bytes.
        unpacked: the size of all its members in bytes.
    """

    def __init__(self, path: Path) -> None:
        """Open and check the archive.

        Raises:
            MalformedError: it is not a whole archive, or packs more than a file of its size may.
            UnsupportedError: it is encrypted, or packed in an unusual way.
        """
        self.nbytes = path.stat().st_size
        self.unpacked = 0
        self._file = path.open("rb")
        self._mapped: mmap | None = None
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._members = self._judged()
        # A damaged directory makes zipfile raise more than its own errors.
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
            self._file.close()
            if isinstance(error, (MalformedError, UnsupportedError)):
                raise
            raise TruncatedError(_DAMAGED) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()
        self._file.close()

    def _judged(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        whole = {info.filename: info for info in infos}
        if len(whole) < len(infos):
            raise MalformedError("the zip archive holds two members of the same name")
        unpacked = self.unpacked = sum(info.file_size for info in infos)
        most = _EXPANSION * self.nbytes + _ALLOWANCE
        if unpacked > most:
            raise MalformedError(
                f"the zip archive has {self.nbytes:,} bytes, but {unpacked:,} unpacked; at most "
                f"{_EXPANSION} times as many and {_ALLOWANCE >> 20} MiB are read"
            )
        folders = [name.partition("/")[0] for name in whole if name.endswith(_AT_THE_TOP)]
        folder = min(folders, key=len, default="")
        start = f"{folder}/" if folder else ""
        return {
            name.removeprefix(start): info for name, info in whole.items() if name.startswith(start)
        }

    @property
    def names(self) -> frozenset[str]:
        """The names of the members."""
        return frozenset(self._members)

    def size(self, name: str) -> int:
        """Return the unpacked size of a member in bytes.

        Raises:
            MalformedError: there is no member of that name.
        """
        return self._member(name).file_size

    def content(self, name: str) -> bytes:
        """Return a whole member.

        Raises:
            MalformedError: there is no member of that name, or it is damaged.
        """
        return self.window(name).take(self.size(name))

    def window(self, name: str) -> Window:
        """Return a window on a member: within the file if it is stored, else on the unpacked data.

        Raises:
            MalformedError: there is no member of that name, or it is damaged.
        """
        info = self._member(name)
        if info.compress_type == zipfile.ZIP_STORED:
            return Window(self._file, self._start(info), info.file_size)
        unpacked = memoryview(bytearray(info.file_size))
        self.read_into(name, unpacked)
        return Window(io.BytesIO(unpacked), 0, info.file_size)

    def read_into(self, name: str, target: memoryview) -> None:
        """Fill the target with the beginning of a member.

        PyTorch may write members without checksums, so those of stored members are ignored.

        Raises:
            MalformedError: there is no member of that name, or it is damaged.
        """
        info = self._member(name)
        try:
            if info.compress_type == zipfile.ZIP_STORED:
                self._file.seek(self._start(info))
                count = fill(self._file, target)
            else:
                with self._zip.open(info) as member:
                    count = fill(cast("BinaryIO", member), target)
        except Exception as error:
            # Each compression method has its own error for damaged data.
            raise TruncatedError(_DAMAGED) from error
        if count != len(target):
            raise TruncatedError(_DAMAGED)

    def mapped(self, name: str, nbytes: int) -> Tensor | None:
        """Return the beginning of a stored member as bytes that stay in the file, where they can.

        Raises:
            MalformedError: there is no member of that name, or it is damaged.
        """
        info = self._member(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        self._mapped = self._mapped or map_file(self._file)
        if self._mapped is None:
            return None
        back = self._file.tell()  # the pickle that names the member is being read
        start = self._start(info)
        self._file.seek(back)
        return tensor_in(self._mapped, start, torch.uint8, (nbytes,))

    def byteorder(self) -> str:
        """Return `little` or `big`, as the archive states; old versions of PyTorch did not."""
        if "byteorder" not in self._members:
            return "little"
        return self.content("byteorder")[:8].decode("latin-1")

    def _member(self, name: str) -> zipfile.ZipInfo:
        info = self._members.get(name)
        if info is None:
            raise MalformedError(f"the zip archive lacks its member {name:.60}")
        if info.flag_bits & _ENCRYPTED:
            raise UnsupportedError("the zip archive is encrypted")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise UnsupportedError("the zip archive is packed in a way that PyTorch does not write")
        return info

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Return where a stored member's data begin: after its local header, of its own length."""
        # A damaged offset may lie behind the file, or where no file ends.
        if not 0 <= info.header_offset < self.nbytes:
            raise TruncatedError(_DAMAGED)
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        if len(header) != _LOCAL_HEADER or not header.startswith(b"PK\3\4"):
            raise TruncatedError(_DAMAGED)
        name, extra = struct.unpack("<HH", header[26:])
        start = info.header_offset + _LOCAL_HEADER + int(name) + int(extra)
        if start + info.file_size > self.nbytes:
            raise TruncatedError(_DAMAGED)
        return start
