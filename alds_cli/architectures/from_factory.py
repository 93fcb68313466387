"""Networks from the user's own code, named `package.module:factory`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from alds_cli.architectures.index import arguments_tip
from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture, ArgumentValue
from alds_cli.runtime.user_code import current_directory_importable, imported_object

_TIP = "what is named must be a function or class that gives an nn.Module"


def construct(name: str, arguments: Mapping[str, ArgumentValue]) -> nn.Module:
    """Import and call `name`, "package.module:factory", with the arguments.

    The current directory can be imported from while this runs, and only then.

    Raises:
        ArchitectureError: the import or the call fails, or gives something that is
            not a network; the message says which and why.
    """
    with current_directory_importable():
        network = _call(_find(name), Architecture(name, arguments))
    if not isinstance(network, nn.Module):
        raise ArchitectureError(
            f"{name} gave a {type(network).__name__}, not an nn.Module", tip=_TIP
        )
    return network


def _find(name: str) -> Any:
    found = imported_object(name, ArchitectureError, _TIP)
    if isinstance(found, nn.Module) or not callable(found):
        raise ArchitectureError(f"{name} is a {type(found).__name__}, not a factory", tip=_TIP)
    return found


def _call(factory: Any, architecture: Architecture) -> object:
    try:
        return factory(**architecture.arguments)
    # The user's code may raise anything, which must not end in a traceback of this tool.
    except (Exception, SystemExit) as error:
        raise ArchitectureError(
            f"{architecture} failed: {type(error).__name__}: {error}",
            tip=arguments_tip(architecture),
        ) from error
