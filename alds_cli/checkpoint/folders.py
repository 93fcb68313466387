"""Several files that belong together in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from alds_cli.checkpoint.atomic import replacing, require_writable
from alds_cli.errors import OutputError


def require_folder(folder: Path) -> None:
    """Find out before the work starts that files can be written to a folder, made if need be.

    Raises:
        OutputError: something else stands there, the folder above is missing, or one of the
            two cannot be written to.
    """
    if folder.is_dir():
        require_writable(folder / "report")
    elif folder.exists():
        raise OutputError(f"cannot write to {folder}: it is no folder", tip="name a folder")
    else:
        require_writable(folder)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by name, each of them whole; the folder is made where it is missing.

    Where one cannot be written, a folder that was made goes again.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    require_folder(folder)
    made = not folder.is_dir()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    try:
        for name, content in contents.items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)
    except BaseException:
        if made:
            with suppress(OSError):
                for name in contents:
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()
        raise
