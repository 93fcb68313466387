"""Commands as Typer takes them, made of what their options say of themselves."""

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
    """Return a decorator that makes a command of a function of its options.

    Args:
        options: the class of the options.
        reporting: the class of those that say how the command reports.
    """

    def decorate(function: Callable[[O, S], None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            function(asked(options, given, _FINISH), asked(reporting, given))

        declared = [*parameters(options), *parameters(reporting)]
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_parameter(own) for own in declared]
        )
        command.__annotations__ = {own.parameter: _annotation(own) for own in declared}
        command.__doc__ = function.__doc__
        command.options = options  # type: ignore[attr-defined]
        command.declared = declared  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(own: Declared) -> inspect.Parameter:
    default = own.command_default
    return inspect.Parameter(
        own.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=_annotation(own),
    )


def _annotation(own: Declared) -> Any:
    option = own.mark
    assert isinstance(option, Option)  # noqa: S101 - others are no parameters of a command
    kind = own.given if own.command_default is not None else own.given | None
    shown: dict[str, Any] = {
        "metavar": option.metavar,
        "help": option.help,
        "rich_help_panel": option.panel,
        "show_default": own.command_default not in {None, MISSING},
    }
    if option.positional:
        return Annotated[kind, typer.Argument(**shown)]
    if option.bounds is not None:
        shown["parser"] = _parser(own.given, option.bounds)
    return Annotated[kind, typer.Option(*own.flags, **shown)]


def _parser(kind: type, bounds: Whole | Real) -> Callable[[Any], Any]:
    def read(given: Any) -> Any:
        try:
            return bounds.read(str(given))
        except ValueError as error:
            raise typer.BadParameter(f"it is {error}") from None

    read.__name__ = kind.__name__  # as pages of help call what it reads
    return read


def _preparation(flags: PreprocessingFlags) -> Preparation:
    """What the options make of the model's own preprocessing; None if none is given.

    The function raises OptionError where the options make no sense.
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
    """A method's own arguments: those with options of their own, and the rest.

    Raises:
        OptionError: one is not of the form key=value, or is given twice.
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
"""What makes a value of several options, by their class."""
