"""Imports while a command runs: objects of the user's own code, and large packages."""

from __future__ import annotations

import gc
import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alds_cli.errors import AldsError, MissingExtraError


@contextmanager
def large_import() -> Iterator[None]:
    """Import a large package without looking for garbage, of which it leaves next to none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def importing_extra(purpose: str, extra: str) -> Iterator[None]:
    """Import a large package of an extra in the block, without what it warns of while that happens.

    Raises:
        MissingExtraError: it is not installed; the message says what it is needed for.
    """
    try:
        with warnings.catch_warnings(), large_import():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        raise MissingExtraError(purpose, extra) from error


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Let modules be imported from the current directory, within the context only."""
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # The imported code may have changed the path too, so remove only our own entry.
        if directory in sys.path:
            sys.path.remove(directory)


def imported_object(name: str, refusal: type[AldsError], tip: str) -> Any:
    """Import the object that `name` denotes, "package.module:object".

    Args:
        name: a dotted module, a colon, and an attribute of it.
        refusal: the type of the error to raise.
        tip: what the object should be, for the error where it is missing.

    Raises:
        AldsError: the import fails, or there is no such object; of the type `refusal`.
    """
    module_name, _, attribute = name.partition(":")
    found = module = _import(name, module_name, refusal)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            public = [other for other in vars(module) if not other.startswith("_")]
            raise refusal(
                f"{name}: no '{attribute}' there; public names are {', '.join(public) or 'none'}",
                tip=tip,
            ) from error
    return found


def _import(name: str, module_name: str, refusal: type[AldsError]) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_failed(name, module_name, error, refusal) from error
        raise refusal(
            f"{name}: there is no module '{error.name}'",
            tip="modules are looked for in the current directory and among the installed "
            "packages; write the path with dots, without .py",
        ) from error
    # Imported code may raise anything, and a script without a main guard may exit.
    except (Exception, SystemExit) as error:
        raise _import_failed(name, module_name, error, refusal) from error


def _import_failed(
    name: str, module_name: str, error: BaseException, refusal: type[AldsError]
) -> AldsError:
    return refusal(
        f"{name}: importing '{module_name}' failed: {type(error).__name__}: {error}",
        tip=f'see the whole error with: python -c "import {module_name}"',
    )
