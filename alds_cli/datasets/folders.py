"""Image folders, which hold a folder for each class with image files at any depth.

A folder that holds images and no folder is a set without labels.
"""

from __future__ import annotations

import logging
import stat
from dataclasses import dataclass, field
from pathlib import Path

from alds_cli.datasets.decoding import SUFFIXES
from alds_cli.errors import DataError

_log = logging.getLogger(__name__)

_AGAIN = "links to folders that were seen already"

_LAYOUT = "lay the images out as DIR/CLASS/IMAGE.jpg, or without labels as DIR/IMAGE.jpg"


@dataclass(frozen=True, slots=True)
class FolderContent:
    """The content of an image folder.

    Attributes:
        classes: names of the class folders, sorted; some may be empty.
        files: image files, class by class, and within each class sorted by folder and name.
        labels: the index in `classes` of each file's class; None where there are no classes.
    """

    classes: tuple[str, ...]
    files: list[Path]
    labels: list[int] | None


@dataclass(slots=True)
class _Omissions:
    """Entries of an image folder that are left out."""

    count: int = 0
    first: Path | None = None
    reasons: set[str] = field(default_factory=set)

    def add(self, path: Path, reason: str) -> None:
        """Add an entry; the reason is a plural noun phrase such as "pipes"."""
        self.count += 1
        self.first = self.first or path
        self.reasons.add(reason)

    def report(self, spec: str) -> None:
        """Log one warning about all of them, if there are any."""
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
    """List the images of a folder, in the same order on every machine.

    Links are followed, but not into a folder that was visited before or that contains the root.
    Hidden entries are skipped silently; one warning reports all other files that are not images.

    Args:
        spec: the name of the folder in messages.
        root: the folder of class folders.

    Raises:
        DataError: it is not a folder, has neither class folders nor images, or one of its folders
            cannot be read.
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
        files = _loose_images(root, omissions)
        if not files:
            raise DataError(
                f"{root} is not a folder of class folders: it holds no folder", tip=_LAYOUT
            )
    omissions.report(spec)
    return FolderContent(tuple(names), files, labels if names else None)


def _loose_images(root: Path, omissions: _Omissions) -> list[Path]:
    """List the image files in a folder itself, sorted by name."""
    files = [path for path in _entries(root) if _kind(path, omissions) == stat.S_IFREG]
    return [path for path in files if _is_image(path, omissions)]


def _is_image(path: Path, omissions: _Omissions) -> bool:
    found = path.suffix.lower() in SUFFIXES
    if not found:
        omissions.add(path, "files whose names do not end as those of images do")
    return found


def _images(top: Path, seen: set[tuple[int, int]], omissions: _Omissions) -> list[Path]:
    """List the image files below a class folder, sorted by folder, then by name."""
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
            elif kind == stat.S_IFREG and _is_image(path, omissions):
                found.append((str(folder), path.name))
    return [Path(folder, name) for folder, name in sorted(found)]


def _entries(folder: Path) -> list[Path]:
    """List the entries of a folder that are not hidden, sorted by name."""
    try:
        shown = (path for path in folder.iterdir() if not path.name.startswith("."))
        return sorted(shown, key=lambda path: path.name)
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be read: {error.strerror}",
            tip="check its permissions, or remove it from the data set",
        ) from error


def _kind(path: Path, omissions: _Omissions) -> int | None:
    """Return the type bits of a folder or a regular file, following links; None for others."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, RuntimeError):  # a broken or circular link
        omissions.add(path, "links that lead nowhere")
        return None
    if kind in {stat.S_IFDIR, stat.S_IFREG}:
        return kind
    omissions.add(path, "pipes, sockets and devices")
    return None


def _identity(folder: Path) -> tuple[int, int]:
    """Return what identifies a folder, by whatever path it was reached: (device, inode)."""
    status = folder.stat()
    return (status.st_dev, status.st_ino)


def _identities_above(root: Path) -> set[tuple[int, int]]:
    """Return the identities of the folder and of all folders above it."""
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
