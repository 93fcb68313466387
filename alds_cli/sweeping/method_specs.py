"""The methods of a sweep, as they are written in one word each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alds_cli.compression.low_rank import require_able, settled_names
from alds_cli.errors import OptionError
from alds_cli.methods import (
    Method,
    method_named,
    parse_method_spec,
    schemes_of,
)
from alds_cli.records import ArgumentValue

_OF_THE_PLANNING = ("solver", "bound")
"""Arguments in a method's word that are options of `compress` beside the method."""


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method with its arguments.

    Attributes:
        text: as records hold it: `alds`, `alds-simple:k=5`; arguments in alphabetical order.
        name: of the method.
        method: what that is.
        arguments: of the method itself.
        solver: its optimiser, where it is named.
        bound: the error definition, where it is named.
    """

    text: str
    name: str
    method: Method
    arguments: Mapping[str, ArgumentValue]
    solver: str | None
    bound: str | None

    @property
    def seeded(self) -> bool:
        """Whether two runs can differ: in random numbers, or in the images drawn."""
        return self.method.seeded or bool(self.method.needs) or self.solver == "alternating"

    @property
    def schemes(self) -> tuple[int, ...]:
        """The folding schemes that its error tables must cover."""
        return schemes_of(self.method, self.arguments)


def parse_method_specs(texts: Sequence[str], target: str) -> list[MethodSpec]:
    """The methods of a sweep, each of which could begin.

    Args:
        texts: each `name` or `name:key=value:…`; the keys solver and bound are options of
            the planning.
        target: what the ratios are fractions of.

    Raises:
        OptionError: a method is unknown or given twice, cannot plan for the target, or not
            with these arguments.
    """
    specs = [_parse(text.strip(), target) for text in texts]
    names = [spec.text for spec in specs]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise OptionError(f"the method {name} is given twice", tip="name each once")
    return specs


def _parse(text: str, target: str) -> MethodSpec:
    name, arguments = parse_method_spec(text)
    method = method_named(name)
    planning = {key: _word(name, key, arguments.pop(key, None)) for key in _OF_THE_PLANNING}
    settled_names(name, planning["solver"], planning["bound"], (target,))
    method.settled_arguments(name, arguments)
    require_able(name, (target,))
    given = sorted(part for part in text.split(":") if "=" in part)
    return MethodSpec(":".join([name, *given]), name, method, arguments, **planning)


def _word(name: str, key: str, value: ArgumentValue) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise OptionError(f"the method {name}: {key} is a name, not {value!r}")
