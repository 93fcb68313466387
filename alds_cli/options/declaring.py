"""How a field of an options class says what it is, and what is read from it.

::

    rank_multiple: Annotated[int, Option(help="Choose only …", metavar="N", panel=PLANNING)] = 1

A field marked `Option` is an option of the command and a keyword argument in Python; `Keyword`
marks one that only Python has. `Expanded` marks a field whose value several options of the
command make together: those of another class of options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from alds_cli.options.bounds import Real, Whole

BUDGET = "Budget"
PLANNING = "Planning"
GRID = "What is compared"
TRAINING = "Training"
IMAGES = "Preparing images"
READING = "Reading the model"
REPORTING = "Reporting"

PANELS = (None, BUDGET, PLANNING, GRID, TRAINING, IMAGES, READING, REPORTING)
"""The panels of a page of help, in their order; None is that of the options without any."""


class _Missing(Enum):
    MISSING = "MISSING"


MISSING: Any = _Missing.MISSING
"""Stands for a default where there is none."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of a command, and a keyword argument in Python.

    Attributes:
        help: what it does, in whole sentences or a noun phrase; square brackets escaped.
        metavar: what its value is called.
        flags: its names; without them, `--` and the field's. A flag `--no-…` of a field that
            is True by default turns it off.
        panel: of the page of help.
        given: the type of the value on the command line, where that is not the field's own:
            `str`, `Path`, or `list[str]` for an option that may be repeated.
        bounds: of a number.
        read: makes the field's value of what was given; raises OptionError.
        default: on the command line, where that differs from the field's.
        required: on the command line, whatever the field's default.
        positional: an argument of the command, not an option.
        python: what it does, where that is said differently of the keyword argument.
    """

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    panel: str | None = None
    given: Any = None
    bounds: Whole | Real | None = None
    read: Callable[[Any], Any] | None = None
    default: Any = MISSING
    required: bool = False
    positional: bool = False
    python: str | None = None


@dataclass(frozen=True, slots=True)
class Keyword:
    """A keyword argument that only Python has; `help` says what it does."""

    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expanded:
    """A value that several options of the command make together.

    Attributes:
        options: the class that has them; its value is one of these, unless the command makes
            something else of that.
        help: what the value is, for Python.
        without: names of its fields that this command has no option for.
        make: makes the value of the options' own values and of the other fields' instead.
    """

    options: type
    help: str
    without: tuple[str, ...] = ()
    make: Callable[[dict[str, Any], dict[str, Any]], Any] | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """A field of an options class.

    Attributes:
        name: of the field.
        kind: its type; a text where that is known to type checkers alone.
        default: in Python; MISSING where it is required.
        positional: whether Python takes it by position too.
        mark: what else the field says of itself.
    """

    name: str
    kind: Any
    default: Any
    positional: bool
    mark: Option | Keyword | Expanded

    @property
    def parameter(self) -> str:
        """The name of the command's parameter: as its first long flag has it."""
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
        own = [kind for kind in _alternatives(self.kind) if kind is not NoneType]
        if len(own) != 1 or own[0] not in {bool, int, float, str, Path}:
            raise TypeError(f"the field {self.name} does not say what a command line gives")
        return own[0]

    @property
    def turns_off(self) -> bool:
        """Whether the option makes a value False that is True without it."""
        return self.default is True and self.parameter.startswith("no_")

    @property
    def command_default(self) -> Any:
        """What the command takes where nothing is given; MISSING where something must be.

        Defaults of a project or of the environment would be looked up here.
        """
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
        """The field's value, of what the command line gives by the parameters' names."""
        found = given[self.parameter]
        if self.turns_off:
            return not found
        if self.given == list[str] and not found:
            return self.default
        read = self._option.read
        return found if read is None or found is None else read(found)

    @property
    def _option(self) -> Option:
        if not isinstance(self.mark, Option):
            raise TypeError(f"{self.name} is no option of a command")
        return self.mark


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)


def _written(default: Any) -> str:
    """A default as the command line takes it."""
    if isinstance(default, tuple):
        return ",".join(map(_written, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def declared(options: type) -> list[Declared]:
    """The fields of an options class, in their order."""
    return [_declared(own) for own in dataclasses.fields(options)]


def _declared(own: dataclasses.Field[Any]) -> Declared:
    if get_origin(own.type) is not Annotated:
        raise TypeError(
            f"the field {own.name} does not say what it is (annotations must not be postponed)"
        )
    kind, *rest = get_args(own.type)
    marks = [mark for mark in rest if isinstance(mark, (Option, Keyword, Expanded))]
    if len(marks) != 1:
        raise TypeError(f"the field {own.name} says {len(marks)} times what it is")
    default = MISSING if own.default is dataclasses.MISSING else own.default
    if own.default_factory is not dataclasses.MISSING:
        default = own.default_factory()
    kind = getattr(kind, "__forward_arg__", kind)
    return Declared(own.name, kind, default, not own.kw_only, marks[0])


def parameters(options: type) -> list[Declared]:
    """The parameters of a verb's command, panel by panel."""
    found = list(_parameters(options))
    return sorted(found, key=lambda own: PANELS.index(own.mark.panel))  # type: ignore[union-attr]


def _parameters(options: type) -> Iterator[Declared]:
    for own in declared(options):
        if isinstance(own.mark, Option):
            yield own
        elif isinstance(own.mark, Expanded):
            for inner in _parameters(own.mark.options):
                if inner.name not in own.mark.without:
                    yield inner


def asked(
    options: type[T],
    given: Mapping[str, Any],
    finish: Mapping[type, Callable[[Any], Any]] | None = None,
) -> T:
    """The options that a command line asks for.

    Args:
        options: the class of the verb.
        given: what the command line gives, by the parameters' names.
        finish: makes a field's value of the options that it expands to, by their class.

    Raises:
        OptionError: a value makes no sense.
    """
    fields = declared(options)
    values = {own.name: own.value(given) for own in fields if isinstance(own.mark, Option)}
    for own in fields:
        if isinstance(own.mark, Expanded):
            values[own.name] = _expanded(own.mark, given, values, finish or {})
    return options(**values)


def _expanded(
    mark: Expanded,
    given: Mapping[str, Any],
    others: dict[str, Any],
    finish: Mapping[type, Callable[[Any], Any]],
) -> Any:
    own = {
        inner.name: inner.value(given)
        for inner in declared(mark.options)
        if isinstance(inner.mark, Option) and inner.name not in mark.without
    }
    if mark.make is not None:
        return mark.make(own, others)
    made = mark.options(**own)
    return finish[mark.options](made) if mark.options in finish else made
