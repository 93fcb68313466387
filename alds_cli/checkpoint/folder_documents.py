"""The documents in the folders of sweeps and iterations: complete files, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from alds_cli.checkpoint.files import make_folder, replacing, require_regular
from alds_cli.errors import OutputError, RunFolderError
from alds_cli.schemas import Form, MalformedError, UnknownSchemaError, parsed

F = TypeVar("F", bound=Form)


def write_document(path: Path, form: Form) -> None:
    """Write a document, which appears complete; its folder is made.

    Raises:
        OutputError: it cannot be written, or could not be read again.
    """
    with unwritable(path):
        text = form.text(indent=1)
    make_folder(path.parent)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Raise an OutputError for a document that could not be read again."""
    try:
        yield
    except MalformedError as error:
        raise OutputError(f"cannot write {path}: {error}") from error


def read_document(kind: type[F], path: Path, remedy: Callable[[Path], str]) -> F:
    """Read a document.

    Args:
        kind: its form.
        path: the file.
        remedy: what the user may do about a damaged one.

    Raises:
        RunFolderError: it cannot be read, or is damaged.
    """
    require_regular(path, RunFolderError, most=kind.most_bytes)
    try:
        return parsed(kind, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error
    except UnknownSchemaError as error:
        raise RunFolderError(
            f"{path} cannot be read: {error}",
            tip="install the version of alds that wrote it, or a newer one",
        ) from error
    except UnicodeDecodeError as error:
        raise damaged(path, "it is not UTF-8 text", remedy) from error
    except MalformedError as error:
        raise damaged(path, error, remedy) from error


def damaged(path: Path, reason: object, remedy: Callable[[Path], str]) -> RunFolderError:
    """Return the error of a document that makes no sense."""
    return RunFolderError(f"{path} is damaged: {reason}", tip=remedy(path))
