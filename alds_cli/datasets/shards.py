"""Images in tar files laid out as WebDataset's shards are, read in any order.

A sample is a run of files whose names agree up to the first dot of the last part: `a/001.jpg` and
`a/001.cls`. The files of a tar lie in it uncompressed, so that an index of where they begin
suffices to read any of them, and shuffling is exact.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alds_cli.checkpoint.files import require_regular
from alds_cli.datasets.decoding import MOST_BYTES, SUFFIXES, decode_content, seems_to_be
from alds_cli.datasets.images import LabelledImages
from alds_cli.datasets.tensor_files import matching
from alds_cli.errors import DataError, first_line

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

_MOST_SHARDS = 100_000

_MOST_LABEL_BYTES = 64

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+://|pipe:", re.IGNORECASE)

_GROUP = re.compile(r"\{([^{}]*)\}")

_RANGE = re.compile(r"(-?[0-9]{1,9})\.\.(-?[0-9]{1,9})")

_ABOUT_SHARD = re.compile(r"(^|/)__[^/]*__(\.|/|$)")

_COMMA = re.compile(r",(?![^{}]*\})")
"""A comma that is not in braces."""


def shard_files(location: str) -> list[Path]:
    """Return the files that comma-separated names with braces and globs stand for.

    `{000..009}` stands for ten numbers, `{a,b}` for two words.

    Raises:
        DataError: one is absent, named twice or not on this machine, or there are none or too many.
    """
    names = [name for part in _COMMA.split(location) if part for name in _expanded(part)]
    remote = next((name for name in names if _REMOTE.match(name)), None)
    if remote is not None:
        raise DataError(
            f"{remote} is not a file of this machine, and shards are read at any place",
            tip="copy the shards, or mount the storage as a folder",
        )
    if not names:
        raise DataError("'webdataset:' names no file", tip="write webdataset:SHARDS")
    return matching(names)


def _expanded(text: str) -> Iterator[str]:
    """Yield the names that braces in a text stand for."""
    pieces = _GROUP.split(text)
    # Every second piece is what stands in braces.
    choices = [_choices(piece) if odd % 2 else [piece] for odd, piece in enumerate(pieces)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > _MOST_SHARDS:
        raise DataError(
            f"'{text}' stands for {count:,} shards, more than {_MOST_SHARDS:,}",
            tip="check the numbers in braces",
        )
    yield from map("".join, itertools.product(*choices))


def _choices(group: str) -> Sequence[str]:
    found = _RANGE.fullmatch(group)
    if found is None:
        return group.split(",") if "," in group else [f"{{{group}}}"]
    first, last = found.groups()
    ends = int(first), int(last)
    padded = any(re.match(r"-?0[0-9]", end) for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    if abs(ends[1] - ends[0]) >= _MOST_SHARDS:
        raise DataError(
            f"{{{group}}} stands for more than {_MOST_SHARDS:,} numbers",
            tip="check the numbers in braces",
        )
    step = 1 if ends[0] <= ends[1] else -1
    return [f"{number:0{width}}" for number in range(ends[0], ends[1] + step, step)]


@dataclass(slots=True)
class _Sample:
    """A sample of a shard: its image's name, offset and size, and its label, where they are."""

    key: str
    image: tuple[str, int, int] | None = None
    label: int | None = None


@dataclass(slots=True)
class _Index:
    """Where images are: the number of the shard, the offset and the size; and their labels."""

    names: list[str] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    without: int = 0

    def add(self, shard: int, sample: _Sample) -> None:
        """Add a sample; one without an image is only counted."""
        if sample.image is None:
            self.without += 1
            return
        name, offset, size = sample.image
        self.names.append(name)
        self.places.append((shard, offset, size))
        self.labels.append(sample.label)


def _samples(path: Path) -> Iterator[_Sample]:
    """Yield the samples of a shard.

    Raises:
        DataError: it is not a tar file, is damaged, or a sample is ambiguous.
    """
    size = require_regular(path, DataError)
    sample: _Sample | None = None
    for member in _members(path):
        if member.offset_data + member.size > size:
            raise _damaged(path, "it ends within a file")
        key, suffix = _parted(member.name)
        if not suffix or not member.isreg() or member.issparse():
            continue
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        _take(path, sample, suffix, member)
    if sample is not None:
        yield sample


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield what a tar holds, and make sure that it ends where a tar should.

    The library takes any block that is no header for the end of the archive, and so would leave out
    what comes after a damaged one.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            yield from archive
            end = archive.offset
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise _not_a_tar(path, error) from error
    if _read(path, end, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise _damaged(path, f"there is neither a file nor the mark of the end at byte {end:,}")


def _parted(name: str) -> tuple[str, str]:
    """Divide a name into what its sample is called and its suffix, in lower case.

    The suffix is empty for hidden files and for those that describe the shard, `__index__` say.
    """
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    if not stem or _ABOUT_SHARD.search(name):
        return name, ""
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def _take(path: Path, sample: _Sample, suffix: str, member: tarfile.TarInfo) -> None:
    """Add a file to its sample; files that are neither an image nor its class are left out."""
    if suffix == ".cls":
        if sample.label is not None:
            raise _ambiguous(path, sample, "classes")
        sample.label = _label(path, member)
    elif suffix in SUFFIXES:
        if sample.image is not None:
            raise _ambiguous(path, sample, "images")
        sample.image = member.name, member.offset_data, member.size


def _ambiguous(path: Path, sample: _Sample, what: str) -> DataError:
    return DataError(
        f"{path}: the sample {sample.key} has two {what}",
        tip="give every sample a name of its own, and one image",
    )


def _label(path: Path, member: tarfile.TarInfo) -> int:
    content = b""
    if member.size <= _MOST_LABEL_BYTES:
        content = _read(path, member.offset_data, member.size)
    try:
        label = int(content.decode("ascii"))
    except ValueError:
        label = 2**63
    if not -(2**63) <= label < 2**63:
        raise DataError(
            f"{path}: {member.name} holds no class number",
            tip="store the number of the class as text",
        )
    return label


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged: {why}", tip="copy or fetch this shard again")


def _not_a_tar(path: Path, error: Exception) -> DataError:
    head = _read(path, 0, 512)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return DataError(
            f"{path} is compressed, so that its files cannot be read one by one",
            tip="decompress it; images in it are compressed anyway",
        )
    if not tarfile.is_tarfile(path):
        return DataError(
            f"{path} is not a tar file; it seems to be {seems_to_be(head)}",
            tip="name shards as WebDataset writes them",
        )
    return _damaged(path, first_line(error))


class ShardImages(LabelledImages):
    """Images in tar files, with the classes that stand beside them.

    Args:
        name: the spec, for messages.
        shards: the tar files.
        names: the name of each image in its shard.
        places: int64 (N, 3): the number of its shard, and where it begins and how long it is, in
            bytes.
        labels: int64 (N,), or None.
    """

    def __init__(
        self,
        name: str,
        shards: Sequence[Path],
        names: Sequence[str],
        places: Tensor,
        labels: Tensor | None,
    ) -> None:
        super().__init__(name, labels, count=len(names), channels=3, size=None)
        self._shards, self._names, self._places = tuple(shards), tuple(names), places

    def _content(self, index: int) -> tuple[bytes, str]:
        """Return the bytes of an image file, and its name in messages."""
        shard, offset, size = self._places[index].tolist()
        path = self._shards[shard]
        name = f"{path}: {self._names[index]}"
        if size > MOST_BYTES:
            raise DataError(
                f"{name} has {size:,} bytes, more than the {MOST_BYTES:,} that an image may have"
            )
        try:
            content = _read(path, offset, size)
        except OSError as error:
            raise DataError(
                f"the shard {path} cannot be read: {error.strerror}",
                tip="check that it is still there",
            ) from error
        if len(content) < size:
            raise _damaged(path, "it has become shorter")
        return content, name

    def image(self, index: int) -> Image.Image:
        """Return one image in mode RGB.

        Raises:
            DataError: it cannot be read as an image; see `decoding.decode`.
        """
        return decode_content(*self._content(index))

    def _contents(self) -> Iterator[bytes | memoryview]:
        for index in range(len(self)):
            yield hashlib.sha256(self._content(index)[0]).digest()

    def subset(self, indices: Tensor) -> ShardImages:
        """Return the set of the images at `indices` (n,), n ≥ 1, in that order."""
        names = [self._names[index] for index in indices.tolist()]
        places, labels = self._places[indices], self._labels_of(indices)
        return ShardImages(self.name, self._shards, names, places, labels)


def open_shards(spec: str, location: str) -> ShardImages:
    """Open the images of tar files as WebDataset writes them; all headers are read.

    Images are files such as `KEY.jpg` and `KEY.png`, and their classes `KEY.cls`, a number as text.
    Other files are left out.

    Args:
        spec: the name of the set in messages.
        location: names of the files; see `shard_files`.

    Raises:
        DataError: a shard is absent, damaged or compressed, or some images have a class and others
            none.
    """
    shards = shard_files(location)
    index = _Index()
    for number, path in enumerate(shards):
        for sample in _samples(path):
            index.add(number, sample)
    if index.without:
        _log.warning(
            "%s: %d of %d samples are left out, as they have no image",
            spec,
            index.without,
            index.without + len(index.names),
        )
    places = torch.tensor(index.places, dtype=torch.int64).view(-1, 3)
    return ShardImages(spec, shards, index.names, places, _all_labels(shards, index))


def _all_labels(shards: Sequence[Path], index: _Index) -> Tensor | None:
    known = [label for label in index.labels if label is not None]
    if not known:
        return None
    if len(known) < len(index.labels):
        first = index.labels.index(None)
        raise DataError(
            f"{shards[index.places[first][0]]}: {index.names[first]} has no class (.cls), but "
            f"{len(known):,} other images have one",
            tip="store a class beside every image, or beside none",
        )
    return torch.tensor(known, dtype=torch.int64)
