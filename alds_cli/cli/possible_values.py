"""Whether the values that are stated for options are possible, as far as is told without a model.

What can be told without PyTorch, an option's own reader tells, for every command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alds_cli.cli.stated_defaults import Stated, StatedDefaults, require_taken
from alds_cli.cli.verbs import declared_options
from alds_cli.errors import AldsError, OptionError
from alds_cli.options.declaring import Declared


def require_possible(found: StatedDefaults, commands: Sequence[str]) -> None:
    """Raise where a default is stated that none of the commands takes which have the option.

    Files and folders are not looked for, nor is the user's own code imported.

    Args:
        found: the defaults.
        commands: the names of the commands.

    Raises:
        OptionError: there is one; the message names where it is stated.
    """
    refusals: dict[str, list[OptionError | None]] = {}
    for command in commands:
        stated = found.commands[command]
        for own in declared_options()[command]:
            if own.parameter in stated:
                default = stated[own.parameter]
                refusals.setdefault(default.place, []).append(_refusal(own, default))
    for each in refusals.values():
        if each[0] is not None and None not in each:
            raise each[0]


def _refusal(declared: Declared, stated: Stated) -> OptionError | None:
    try:
        require_taken(declared, stated)
    except OptionError as error:
        return error
    try:
        _CHECKS.get(declared.parameter, _as_it_is)(stated.value)
    except AldsError as error:
        return OptionError(f"{stated.place}: {error.message}", tip=error.tip)
    return None


def _as_it_is(_: str) -> None:
    """Refuse nothing."""


def _architecture(name: str) -> None:
    from alds_cli.architectures.naming import parse_architecture  # noqa: PLC0415 - imports torch

    parse_architecture(name)


def _inputs(spec: str) -> None:
    from alds_cli.inputs import parse_inputs  # noqa: PLC0415 - it imports torch

    parse_inputs(spec)


def _device(name: str) -> None:
    from alds_cli.runtime.devices import device_named  # noqa: PLC0415 - it imports torch

    device_named(name)


def _data(spec: str) -> None:
    from alds_cli.datasets.sources import kind_of  # noqa: PLC0415 - it imports torch

    kind_of(spec)


def _methods(words: str) -> None:
    from alds_cli.options.readers import parse_method_spec, stripped  # noqa: PLC0415 - few state it
    from alds_cli.sweeping.method_specs import parse_method_specs  # noqa: PLC0415 - imports torch

    known = [own for own in stripped(words) if own and ":" not in parse_method_spec(own)[0]]
    parse_method_specs(known, "params")


def _recipe(name: str) -> None:
    from alds_cli.recipes import require_recipe  # noqa: PLC0415 - it imports pydantic

    require_recipe(name)


def _paper(name: str) -> None:
    from alds_cli.reporting.paper import published  # noqa: PLC0415 - it imports torch

    published(name)


_CHECKS: Mapping[str, Callable[[Any], None]] = MappingProxyType(
    {
        "arch": _architecture,
        "input_spec": _inputs,
        "device": _device,
        "data": _data,
        "train_data": _data,
        "validation": _data,
        "methods": _methods,
        "recipe": _recipe,
        "paper": _paper,
    }
)
"""Functions that raise an error for what an option cannot have, by its parameter."""
