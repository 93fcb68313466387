"""What a shell completes: the values of options, found without importing PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import alds_cli
from alds_cli.options.choices import Found
from alds_cli.options.declaring import Option


def completer(option: Option) -> Callable[[str], list[str]]:
    """Return a function from the beginning of an option's value to the values that it may become.

    In a list, which has a comma in its placeholder, the last name is completed.
    """
    listed = "," in (option.metavar or "")

    def complete(incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",") if listed else ("", "", incomplete)
        values = option.values
        names = _FINDERS[values]() if isinstance(values, str) else values
        return [f"{before}{comma}{name}" for name in names if name.startswith(begun)]

    return complete


def _architectures() -> Iterable[str]:
    entries = _read("architectures", "index.json")["entries"]
    return sorted({entry["name"] for entry in entries})


def _networks_of_the_paper() -> Iterable[str]:
    return list(_read("reporting", "paper.json")["networks"])


def _read(room: str, name: str) -> Any:
    """Return the content of a file in a room that would import PyTorch."""
    import json  # noqa: PLC0415 - most commands read none

    return json.loads((Path(alds_cli.__file__).with_name(room) / name).read_bytes())


def _recipes() -> Iterable[str]:
    from alds_cli.recipes import known_recipes  # noqa: PLC0415 - most commands take none

    return known_recipes()


def _documents() -> Iterable[str]:
    from alds_cli.schemas.published import PUBLISHED  # noqa: PLC0415 - it imports pydantic

    return PUBLISHED


def _commands() -> Iterable[str]:
    from alds_cli.cli.verbs import VERBS  # noqa: PLC0415 - it imports this module

    return VERBS


_FINDERS: Mapping[Found, Callable[[], Iterable[str]]] = MappingProxyType(
    {
        "architectures": _architectures,
        "recipes": _recipes,
        "documents": _documents,
        "commands": _commands,
        "networks of the paper": _networks_of_the_paper,
    }
)
