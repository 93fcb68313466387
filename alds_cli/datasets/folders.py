"""Image folders: one folder for each class, and in it image files at any depth."""

from __future__ import annotations

import logging
import stat
from dataclasses import dataclass, field
from pathlib import Path

from alds_cli.datasets.decoding import SUFFIXES
from alds_cli.errors import DataError

_log = logging.getLogger(__name__)

_AGAIN = "links to folders that were seen already"

_LAYOUT = "lay the images out as DIR/CLASS/IMAGE.jpg"


@dataclass(frozen=True, slots=True)
class FolderContent:
    """What an image folder holds.

    Attributes:
        classes: names of the class folders, sorted; some may be empty.
        files: image files, class by class, sorted within each by folder and name.
        labels: for each file, which of `classes` it is in.
    """

    classes: tuple[str, ...]
    files: list[Path]
    labels: list[int]


@dataclass(slots=True)
class _Omissions:
    """What was met on the way and is no image file."""

    count: int = 0
    first: Path | None = None
    reasons: set[str] = field(default_factory=set)

    def add(self, path: Path, reason: str) -> None:
        self.count += 1
        self.first = self.first or path
        self.reasons.add(reason)

    def report(self, spec: str) -> None:
        """Tell of all of them in one line."""
        if self.count:
            entries = "1 entry is" if self.count == 1 else f"{self.count:,} entries are"
            _log.warning(
                "%s: %s left out (%s), the first of them %s",
                spec,
                entries,
                ", ".join(sorted(self.reasons)),
                self.first,
            )


def read_folder(spec: str, root: Path) -> FolderContent:
    """List the images of a folder, in the same order everywhere.

    Links are followed, but into no folder twice, and not up to where the walk began.
    Hidden entries are passed over; what else is no image file is left out with one note.

    Args:
        spec: what the folder is called in messages.
        root: the folder of class folders.

    Raises:
        DataError: it is no folder, holds no class folder, or one of its folders cannot be
            read.
    """
    omissions = _Omissions()
    above = _identities_above(root)
    names: list[str] = []
    files: list[Path] = []
    labels: list[int] = []
    for path in _entries(root):
        if _kind(path, omissions) != stat.S_IFDIR:
            continue
        if _identity(path) in above:
            omissions.add(path, _AGAIN)
            continue
        found = _images(path, set(above), omissions)
        files += found
        labels += [len(names)] * len(found)
        names.append(path.name)
    if not names:
        raise DataError(f"{root} is not a folder of class folders: it holds no folder", tip=_LAYOUT)
    omissions.report(spec)
    return FolderContent(tuple(names), files, labels)


def _images(top: Path, seen: set[tuple[int, int]], omissions: _Omissions) -> list[Path]:
    """The image files below a class folder, sorted by folder, then by name."""
    found: list[tuple[str, str]] = []
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        if _identity(folder) in seen:
            omissions.add(folder, _AGAIN)
            continue
        seen.add(_identity(folder))
        for path in _entries(folder):
            kind = _kind(path, omissions)
            if kind == stat.S_IFDIR:
                waiting.append(path)
            elif kind == stat.S_IFREG:
                if path.suffix.lower() in SUFFIXES:
                    found.append((str(folder), path.name))
                else:
                    omissions.add(path, "files that are not named as images are")
    return [Path(folder, name) for folder, name in sorted(found)]


def _entries(folder: Path) -> list[Path]:
    """What a folder holds and does not hide, sorted by name."""
    try:
        shown = (path for path in folder.iterdir() if not path.name.startswith("."))
        return sorted(shown, key=lambda path: path.name)
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be read: {error.strerror}",
            tip="check its permissions, or take it out of the data set",
        ) from error


def _kind(path: Path, omissions: _Omissions) -> int | None:
    """The type bits of a folder or a regular file, links followed; None leaves it out."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, RuntimeError):  # a link that leads nowhere or in a circle
        omissions.add(path, "links that lead nowhere")
        return None
    if kind in {stat.S_IFDIR, stat.S_IFREG}:
        return kind
    omissions.add(path, "pipes, sockets and devices")
    return None


def _identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from all others, by whatever path it was reached."""
    status = folder.stat()
    return (status.st_dev, status.st_ino)


def _identities_above(root: Path) -> set[tuple[int, int]]:
    """The folder itself and all that it lies in, as links may lead back to them."""
    try:
        real = root.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # no such name, or one with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else "there is no such folder"
        raise DataError(
            f"{root} is not a folder of class folders: {reason}", tip=_LAYOUT
        ) from error
    if not real.is_dir():
        raise DataError(f"{root} is not a folder of class folders, but a file", tip=_LAYOUT)
    return {_identity(path) for path in (real, *real.parents)}
