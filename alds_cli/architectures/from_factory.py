"""Networks from the user's own code, written `package.module:factory`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture, ArgumentValue

_TIP = "FACTORY in --arch package.module:FACTORY is a function or class that gives an nn.Module"


def construct(name: str, arguments: Mapping[str, ArgumentValue]) -> nn.Module:
    """Import and call `name`, "package.module:factory", with the arguments.

    The current directory can be imported from while this runs, and only then.

    Raises:
        ArchitectureError: the import or the call fails, or gives something that is
            not a network; the message says which and why.
    """
    module_name, _, attribute = name.partition(":")
    with _current_directory_importable():
        factory = _find(name, _import(name, module_name), attribute)
        network = _call(factory, Architecture(name, arguments))
    if not isinstance(network, nn.Module):
        raise ArchitectureError(
            f"{name} gave a {type(network).__name__}, not an nn.Module", tip=_TIP
        )
    return network


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # The imported code may have changed the path too: take out our entry only.
        if directory in sys.path:
            sys.path.remove(directory)


def _import(name: str, module_name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_failed(name, module_name, error) from error
        raise ArchitectureError(
            f"{name}: there is no module '{error.name}'",
            tip="modules are looked for in the current directory and among the installed "
            "packages; write the path with dots, without .py",
        ) from error
    # Imported code may raise anything, and a script without a main guard may exit.
    except (Exception, SystemExit) as error:
        raise _import_failed(name, module_name, error) from error


def _import_failed(name: str, module_name: str, error: BaseException) -> ArchitectureError:
    return ArchitectureError(
        f"{name}: importing '{module_name}' failed: {type(error).__name__}: {error}",
        tip=f'see the whole error with: python -c "import {module_name}"',
    )


def _find(name: str, module: object, attribute: str) -> Any:
    found = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            public = [other for other in vars(module) if not other.startswith("_")]
            raise ArchitectureError(
                f"{name}: no '{attribute}' there; public names are {', '.join(public) or 'none'}",
                tip=_TIP,
            ) from error
    if isinstance(found, nn.Module) or not callable(found):
        raise ArchitectureError(f"{name} is a {type(found).__name__}, not a factory", tip=_TIP)
    return found


def _call(factory: Any, architecture: Architecture) -> object:
    try:
        return factory(**architecture.arguments)
    # The user's code may raise anything, and none of it is this tool's traceback.
    except (Exception, SystemExit) as error:
        raise ArchitectureError(
            f"{architecture} failed: {type(error).__name__}: {error}",
            tip="constructor arguments are given as --arch-arg name=value",
        ) from error
