"""Commands in the form that Typer takes, made from the definitions of their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from alds_cli.options.compress_options import MethodFlags
from alds_cli.options.declaring import MISSING, Declared, Option, asked, parameters
from alds_cli.options.image_options import PreprocessingFlags
from alds_cli.options.reporting_options import NoReporting

if TYPE_CHECKING:
    from alds_cli.network.opening import Preparation
    from alds_cli.options.bounds import Real, Whole
    from alds_cli.records import ArgumentValue

O = TypeVar("O")  # noqa: E741 - an options class
S = TypeVar("S", bound=NoReporting)


def verb(
    options: type[O], reporting: type[S]
) -> Callable[[Callable[[O, S], None]], Callable[..., None]]:
    """Return a decorator that turns a function of an options object into a command.

    Args:
        options: the class of the options.
        reporting: the class of the options on how the command reports.
    """

    def decorate(function: Callable[[O, S], None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            function(asked(options, given, _FINISH), asked(reporting, given))

        declared = [*parameters(options), *parameters(reporting)]
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_parameter(each) for each in declared]
        )
        command.__annotations__ = {each.parameter: _annotation(each) for each in declared}
        command.__doc__ = function.__doc__
        command.options = options  # type: ignore[attr-defined]
        command.declared = declared  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(declared: Declared) -> inspect.Parameter:
    default = declared.command_default
    return inspect.Parameter(
        declared.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=_annotation(declared),
    )


def _annotation(declared: Declared) -> Any:
    option = declared.mark
    assert isinstance(option, Option)  # noqa: S101 - commands have no others
    kind = declared.given if declared.command_default is not None else declared.given | None
    shown: dict[str, Any] = {
        "metavar": option.metavar,
        "help": option.help,
        "rich_help_panel": option.panel,
        "show_default": declared.command_default not in {None, MISSING},
    }
    if option.positional:
        return Annotated[kind, typer.Argument(**shown)]
    if option.bounds is not None:
        shown["parser"] = _parser(declared.given, option.bounds)
    return Annotated[kind, typer.Option(*declared.flags, **shown)]


def _parser(kind: type, bounds: Whole | Real) -> Callable[[Any], Any]:
    def read(given: Any) -> Any:
        try:
            return bounds.read(str(given))
        except ValueError as error:
            raise typer.BadParameter(f"it is {error}") from None

    read.__name__ = kind.__name__  # the name by which pages of help call the type
    return read


def _preparation(flags: PreprocessingFlags) -> Preparation:
    """Return how the options change the model's own preprocessing; None if none is given.

    The function returned raises OptionError if the options make no sense.
    """
    if flags == PreprocessingFlags():
        return None

    def prepared(known: Any) -> Any:
        from alds_cli.datasets import parse_preprocessing  # noqa: PLC0415 - it imports torch

        return parse_preprocessing(
            flags.preprocess, flags.mean, flags.std, flags.resize, flags.crop, fallback=known
        )

    return prepared


def _method_arguments(flags: MethodFlags) -> dict[str, ArgumentValue]:
    """Merge a method's arguments: those that have an option each, and those of --method-arg.

    Raises:
        OptionError: an argument is not of the form key=value, or is given twice.
    """
    named = {"k": flags.k, "rounding": flags.rounding}
    found: dict[str, ArgumentValue] = {k: v for k, v in named.items() if v is not None}
    for argument in flags.listed:
        from alds_cli.architectures.naming import parse_argument  # noqa: PLC0415 - imports torch
        from alds_cli.errors import OptionError  # noqa: PLC0415

        key, value = parse_argument(argument, "--method-arg")
        if key in found:
            raise OptionError(f"the method's argument {key} is given twice")
        found[key] = value
    return found


_FINISH: dict[type, Callable[[Any], Any]] = {
    PreprocessingFlags: _preparation,
    MethodFlags: _method_arguments,
}
"""Functions that make one value of several options, by the options' class."""
