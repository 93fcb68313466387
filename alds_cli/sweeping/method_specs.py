"""The methods of a sweep, each given as one word such as `alds-simple:k=5`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alds_cli.compression.low_rank import require_able, settled_names
from alds_cli.errors import OptionError
from alds_cli.methods import (
    Method,
    method_named,
    schemes_of,
)
from alds_cli.options.readers import parse_method_spec
from alds_cli.records import ArgumentValue
from alds_cli.text import MOST_IMAGES

_OF_THE_PLANNING = ("solver", "bound")
"""Arguments in a method's word that `compress` has as separate options, and that are names."""


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method of a sweep, with its arguments.

    Attributes:
        text: the method's word as in records, such as `alds` or `alds-simple:k=5`, with its
            arguments in alphabetical order.
        name: name of the method.
        method: the method.
        arguments: the method's own arguments.
        solver: name of the solver; None if it is not given.
        bound: name of the error definition; None if it is not given.
        refit: whether pairs are fitted again on images.
        tune_steps: the number of steps for which the result is tuned.
    """

    text: str
    name: str
    method: Method
    arguments: Mapping[str, ArgumentValue]
    solver: str | None
    bound: str | None
    refit: bool
    tune_steps: int

    @property
    def looks(self) -> bool:
        """Whether its runs look at images of the training set."""
        return bool(self.method.needs) or self.refit or self.tune_steps > 0

    @property
    def seeded(self) -> bool:
        """Whether runs depend on the seed, through random numbers or the images drawn."""
        return self.method.seeded or self.looks or self.solver == "alternating"

    @property
    def schemes(self) -> tuple[int, ...]:
        """The folding schemes that its error tables must cover."""
        return schemes_of(self.method, self.arguments)


def parse_method_specs(texts: Sequence[str], target: str) -> list[MethodSpec]:
    """Parse the methods of a sweep and check that each can run.

    Args:
        texts: each `name` or `name:key=value:…`; the keys `solver` and `bound` set options
            of the planning; `refit=1` and `tune_steps=N` are the options of `compress`.
        target: the resource that ratios are fractions of.

    Raises:
        OptionError: a method is unknown or given twice, cannot plan for the target, or does
            not accept its arguments.
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
    refit = _number(name, "refit", arguments.pop("refit", 0), 1)
    tune_steps = _number(name, "tune_steps", arguments.pop("tune_steps", 0), MOST_IMAGES)
    settled_names(name, planning["solver"], planning["bound"], (target,))
    method.settled_arguments(name, arguments)
    require_able(name, (target,))
    if method.prune is not None and (refit or tune_steps):
        raise OptionError(
            f"the method {name} removes filters; what is fitted again or tuned are pairs",
            tip="leave out refit and tune_steps; --retrain-epochs trains the result",
        )
    given = sorted(part for part in text.split(":") if "=" in part)
    return MethodSpec(
        ":".join([name, *given]),
        name,
        method,
        arguments,
        refit=bool(refit),
        tune_steps=tune_steps,
        **planning,
    )


def _word(name: str, key: str, value: ArgumentValue) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise OptionError(f"the method {name}: {key} is a name, not {value!r}")


def _number(name: str, key: str, value: ArgumentValue, most: int) -> int:
    if isinstance(value, int) and 0 <= value <= most:
        return int(value)
    raise OptionError(
        f"the method {name}: {key} is a whole number from 0 to {most:,}, not {value!r}"
    )
