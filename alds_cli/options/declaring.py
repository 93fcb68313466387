"""Options, each defined once, for commands, for Python functions, and for pages of help."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from alds_cli.options.choices import Found, require_known
from alds_cli.text import Real, Whole

BUDGET = "Budget"
PLANNING = "Planning"
GRID = "What is compared"
TRAINING = "Training"
CLUSTER = "Many machines"
GATES = "Gates: exit code 1 where one fails"
IMAGES = "Preparing images"
READING = "Reading the model"
REPORTING = "Reporting"

PANELS = (None, GATES, BUDGET, PLANNING, GRID, TRAINING, CLUSTER, IMAGES, READING, REPORTING)
"""The panels of a page of help, in their order; None stands for the options without a panel."""


class _Missing(Enum):
    MISSING = "MISSING"


MISSING: Any = _Missing.MISSING
"""Marks the absence of a default."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of a command, and a keyword argument in Python.

    Attributes:
        help: what the option does, in whole sentences or a noun phrase, with square brackets
            escaped.
        metavar: the placeholder of its value.
        flags: its names; the default is `--` and the field's name. A flag `--no-…` of a field
            that is True by default turns the field off.
        panel: the panel on the page of help.
        given: the type of the value on the command line, if it is not the field's type: `str`,
            `Path`, or `list[str]` for an option that may be repeated.
        values: the names that its value has, or of what, for completion in a shell. Where they are
            listed, others are refused.
        others: whether other values than those listed are taken too.
        bounds: the bounds of a number.
        read: turns the value on the command line into the field's; raises OptionError.
        default: the default on the command line, if it differs from the field's.
        required: whether the command line must give a value, whatever the field's default.
        positional: whether it is an argument of the command instead of an option.
        python: the description of the keyword argument, if it differs from `help`.
        trusted: whether a project's file may state a default of it.
    """

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    panel: str | None = None
    given: Any = None
    values: tuple[str, ...] | Found = ()
    others: bool = False
    bounds: Whole | Real | None = None
    read: Callable[[Any], Any] | None = None
    default: Any = MISSING
    required: bool = False
    positional: bool = False
    python: str | None = None
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Keyword:
    """A keyword argument that only Python has; `help` says what it does."""

    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanded:
    """A value that the command makes from several options.

    Attributes:
        options: the options class whose fields are those options. The value is an object of
            it, unless the command turns that into something else.
        help: the description of the value, for Python.
        without: the names of its fields for which this command has no option.
        make: makes the value instead, from the values of these options and of the other fields.
    """

    options: type
    help: str
    without: tuple[str, ...] = ()
    make: Callable[[dict[str, Any], dict[str, Any]], Any] | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """Stands among the values of a command line for a field's value that is ready to be used."""

    value: Any


@dataclass(frozen=True, slots=True)
class Declared:
    """A field of an options class.

    Attributes:
        name: the field's name.
        kind: its type, as a string if only type checkers import it.
        default: its default in Python; MISSING if it is required.
        positional: whether Python also takes it by position.
        mark: the mark in its annotation.
    """

    name: str
    kind: Any
    default: Any
    positional: bool
    mark: Option | Keyword | Expanded

    @property
    def parameter(self) -> str:
        """The name of the command's parameter, taken from its first long flag."""
        long = [flag for flag in self._option.flags if flag.startswith("--")]
        if not long:
            return self.name
        return long[0].partition("/")[0].removeprefix("--").replace("-", "_")

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of the option on the command line."""
        return self._option.flags or (f"--{self.name.replace('_', '-')}",)

    @property
    def given(self) -> Any:
        """The type of one value on the command line: bool, int, float, str, Path or list[str]."""
        if self._option.given is not None:
            return self._option.given
        kinds = [kind for kind in _alternatives(self.kind) if kind is not NoneType]
        if len(kinds) != 1 or kinds[0] not in {bool, int, float, str, Path}:
            raise TypeError(f"the field {self.name} does not say what a command line gives")
        return kinds[0]

    @property
    def turns_off(self) -> bool:
        """Whether the option turns a value from True to False."""
        return self.default is True and self.parameter.startswith("no_")

    @property
    def command_default(self) -> Any:
        """The value that the command takes by default; MISSING if one must be given."""
        option = self._option
        if option.required:
            return MISSING
        default = self.default if option.default is MISSING else option.default
        if self.turns_off:
            return False
        if default is MISSING or default is None or self.given in {bool, int, float}:
            return default
        if self.given == list[str]:
            return None
        return _written(default)

    def value(self, given: Mapping[str, Any]) -> Any:
        """Return the field's value, given the command line's values by the parameters' names."""
        found = given[self.parameter]
        if isinstance(found, Settled):
            return found.value
        if self.turns_off:
            return not found
        if self.given == list[str] and not found:
            return self.default
        return None if found is None else self.read(found)

    def read(self, given: Any) -> Any:
        """Return the field's value for one of the command line's, which no bounds exclude.

        Raises:
            OptionError: the option has no such value.
        """
        option = self._option
        if isinstance(option.values, tuple) and option.values and not option.others:
            require_known(self.parameter.replace("_", "-"), given, option.values)
        return given if option.read is None else option.read(given)

    @property
    def _option(self) -> Option:
        if not isinstance(self.mark, Option):
            raise TypeError(f"{self.name} is no option of a command")
        return self.mark


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)


def _written(default: Any) -> str:
    """Format a default as the command line takes it."""
    if isinstance(default, tuple):
        return ",".join(map(_written, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def declared(options: type) -> list[Declared]:
    """Return the fields of an options class, in their order."""
    return [_declared(entry) for entry in dataclasses.fields(options)]


def _declared(entry: dataclasses.Field[Any]) -> Declared:
    if get_origin(entry.type) is not Annotated:
        raise TypeError(
            f"the field {entry.name} does not say what it is (annotations must not be postponed)"
        )
    kind, *rest = get_args(entry.type)
    marks = [mark for mark in rest if isinstance(mark, (Option, Keyword, Expanded))]
    if len(marks) != 1:
        raise TypeError(f"the field {entry.name} says {len(marks)} times what it is")
    default = MISSING if entry.default is dataclasses.MISSING else entry.default
    if entry.default_factory is not dataclasses.MISSING:
        default = entry.default_factory()
    kind = getattr(kind, "__forward_arg__", kind)
    return Declared(entry.name, kind, default, not entry.kw_only, marks[0])


def parameters(options: type) -> list[Declared]:
    """Return the parameters of a verb's command, panel by panel."""
    found = list(_parameters(options))
    return sorted(found, key=lambda entry: PANELS.index(entry.mark.panel))  # type: ignore[union-attr]


def _parameters(options: type) -> Iterator[Declared]:
    for entry in declared(options):
        if isinstance(entry.mark, Option):
            yield entry
        elif isinstance(entry.mark, Expanded):
            for inner in _parameters(entry.mark.options):
                if inner.name not in entry.mark.without:
                    yield inner


def asked(
    options: type[T],
    given: Mapping[str, Any],
    finish: Mapping[type, Callable[[Any], Any]] | None = None,
) -> T:
    """Return the options that a command line asks for.

    Args:
        options: the verb's options class.
        given: the values on the command line, by the parameters' names.
        finish: functions that turn the options of an `Expanded` field into its value, by the
            options' class.

    Raises:
        OptionError: a value makes no sense.
    """
    fields = declared(options)
    values = {entry.name: entry.value(given) for entry in fields if isinstance(entry.mark, Option)}
    for entry in fields:
        if isinstance(entry.mark, Expanded):
            values[entry.name] = _expanded(entry.mark, given, values, finish or {})
    return options(**values)


def _expanded(
    mark: Expanded,
    given: Mapping[str, Any],
    others: dict[str, Any],
    finish: Mapping[type, Callable[[Any], Any]],
) -> Any:
    values = {
        inner.name: inner.value(given)
        for inner in declared(mark.options)
        if isinstance(inner.mark, Option) and inner.name not in mark.without
    }
    if mark.make is not None:
        return mark.make(values, others)
    made = mark.options(**values)
    return finish[mark.options](made) if mark.options in finish else made


def arguments(options: Any) -> dict[str, Any]:
    """Return the fields of an options object by name: the arguments of an equal call."""
    return {entry.name: getattr(options, entry.name) for entry in dataclasses.fields(options)}
