"""The subcommands of `alds` as Typer takes them, made from the definitions of their options."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from alds_cli._version import __version__
from alds_cli.cli import error_forms, streams
from alds_cli.cli.completion import completer
from alds_cli.options.declaring import (
    MISSING,
    Declared,
    Option,
    asked,
    parameters,
)
from alds_cli.options.image_options import PreprocessingFlags
from alds_cli.options.planning_options import MethodFlags
from alds_cli.options.readers import parse_arguments
from alds_cli.options.reporting_options import NoReporting

if TYPE_CHECKING:
    from alds_cli.cli.stated_defaults import StatedDefaults
    from alds_cli.errors import AldsError
    from alds_cli.network.opening import Preparation
    from alds_cli.recipes import Purpose
    from alds_cli.records import ArgumentValue
    from alds_cli.text import Real, Whole

O = TypeVar("O")  # noqa: E741 - an options class
S = TypeVar("S", bound=NoReporting)


def verb(
    options: type[O], reporting: type[S], *, purpose: Purpose = "retrain"
) -> Callable[[Callable[[O, S], None]], Callable[..., None]]:
    """Return a decorator that turns a function of an options object into a command.

    Args:
        options: the class of the options.
        reporting: the class of the options on how the command reports.
        purpose: what recipes are read for, if the command takes one.
    """

    def decorate(function: Callable[[O, S], None]) -> Callable[..., None]:
        def command(context: typer.Context, **given: Any) -> None:
            from alds_cli.errors import AldsError  # noqa: PLC0415

            if (own := streams.current()) is not None:
                own.error_form = error_forms.asked_form(given)
            if "recipe" in given:
                from alds_cli.cli.recipe_values import with_recipe  # noqa: PLC0415 - few take one

                given = with_recipe(options, given, partial(_rank, context), purpose)
            try:
                function(asked(options, given, _FINISH), asked(reporting, given))
            except AldsError as error:
                _tell_origins(error, context, declared)
                raise

        declared = [*parameters(options), *parameters(reporting)]
        context = inspect.Parameter(
            "context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context
        )
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [context, *(_parameter(each) for each in declared)]
        )
        command.__annotations__ = {each.parameter: _annotation(each) for each in declared}
        command.__annotations__["context"] = typer.Context
        command.__doc__ = function.__doc__
        command.options = options  # type: ignore[attr-defined]
        command.declared = declared  # type: ignore[attr-defined]
        return command

    return decorate


_RANKS = {"file": 1, "environment": 2}


def _rank(context: typer.Context, parameter: str) -> int:
    """Return how much counts what stated a value: 0 nothing, 1 a file, 2 the environment, 3 it."""
    source = context.get_parameter_source(parameter)
    if source is None or source.name == "DEFAULT":
        return 0
    found = _stated_for(context).get(parameter) if source.name == "DEFAULT_MAP" else None
    return 3 if found is None else _RANKS[found.source]


def _stated_for(context: typer.Context) -> Mapping[str, Any]:
    """Return the defaults that are stated for a command, by its parameters."""
    if context.obj is None:
        return {}
    found: StatedDefaults = context.obj
    return found.commands.get(context.info_name or "", {})


def _tell_origins(error: AldsError, context: typer.Context, declared: Sequence[Declared]) -> None:
    """Add to an error where the values that it speaks of were stated, if not with the command."""
    said = f"{error.message} {error.tip or ''}"
    stated = _stated_for(context)
    for each in declared:
        source = context.get_parameter_source(each.parameter)
        if each.parameter not in stated or source is None or source.name != "DEFAULT_MAP":
            continue
        found = stated[each.parameter]
        named = re.search(rf"{re.escape(each.flags[0])}(?![\w-])", said)
        if named or f"'{found.value}'" in said or said.startswith(f"{found.value}:"):
            error.message += f"; {each.flags[0]} is stated by {found.place}"


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
        "metavar": "" if declared.given is bool else option.metavar,  # or Typer calls it <bool>
        "help": option.help,
        "rich_help_panel": option.panel,
        "show_default": declared.command_default not in {None, MISSING},
    }
    if option.values:
        shown["autocompletion"] = completer(option)
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
            flags.preprocess,
            flags.mean,
            flags.std,
            flags.resize,
            flags.crop,
            flags.stretch,
            flags.interpolation,
            fallback=known,
        )

    return prepared


def _method_arguments(flags: MethodFlags) -> dict[str, ArgumentValue]:
    """Merge a method's arguments: those that have an option each, and those of --method-arg.

    Raises:
        OptionError: an argument is given twice.
    """
    named = {"k": flags.k, "rounding": flags.rounding}
    found: dict[str, ArgumentValue] = {k: v for k, v in named.items() if v is not None}
    listed = parse_arguments(flags.listed, "--method-arg")
    for key in found.keys() & listed:
        from alds_cli.errors import OptionError  # noqa: PLC0415

        raise OptionError(f"the method's argument {key} is given twice")
    return found | listed


_FINISH: dict[type, Callable[[Any], Any]] = {
    PreprocessingFlags: _preparation,
    MethodFlags: _method_arguments,
}
"""Functions that make one value of several options, by the options' class."""


VERBS = (
    "profile",
    "compress",
    "inspect",
    "evaluate",
    "compare",
    "optimize",
    "export",
    "train",
    "retrain",
    "iterate",
    "sweep",
    "report",
    "schema",
    "config",
    "demo",
)
"""The subcommands of `alds`, in the order of its help; each has a module of its name here."""


@cache
def program() -> typer.Typer:
    """Return `alds` with all of its subcommands."""
    made = typer.Typer(
        name="alds",
        help="Make a trained PyTorch network smaller: low-rank layers, globally allocated.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(root)
    for name in VERBS:
        made.command(name)(import_module(f"alds_cli.cli.{name}").command)
    return made


@cache
def _entry() -> Callable[..., Any]:
    """Return what runs the command that the arguments name; Typer makes it anew for every call."""
    return cast("Callable[..., Any]", typer.main.get_command(program()))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alds {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and exit.",
            metavar="",
        ),
    ] = False,
) -> None:
    """Make a trained PyTorch network smaller: low-rank layers, globally allocated.

    Exit codes: 0 done; 1 what was asked for cannot be had; 2 bad usage or bad input, or a
    result that cannot be written; 70 an error of the tool's own.
    """


FILE = "pyproject.toml"
"""The file in which a project states defaults of options."""

PREFIX = "ALDS_"
"""How the names of variables begin that state defaults of options."""

OTHERS = frozenset({"ALDS_CACHE_DIR", "ALDS_TRACEBACK"})
"""Variables with the prefix that stand for no option."""


def declared_options() -> dict[str, Sequence[Declared]]:
    """Return the options of every command."""
    commands = program().registered_commands
    return {str(own.name): cast("Any", own.callback).declared for own in commands}


def stated_now() -> StatedDefaults | None:
    """Return the defaults that the environment and the project state; None where there are none.

    Raises:
        OptionError: a key or a variable names no option, or a value makes no sense.
    """
    try:
        folder = Path.cwd()
    except OSError:  # it was removed
        folder = Path("/")
    own = any(name.startswith(PREFIX) and name not in OTHERS for name in os.environ)
    if not own and not any((place / FILE).is_file() for place in (folder, *folder.parents)):
        return None
    from alds_cli.cli import stated_defaults  # noqa: PLC0415 - most states nothing

    return stated_defaults.stated_defaults(declared_options(), os.environ, folder)


_ASIDE = frozenset({"-h", "--help", "--version"})


def stated_for_run() -> StatedDefaults | None:
    """Return the defaults that count for the arguments: none for help and completion.

    Raises:
        OptionError: as `stated_now` does.
    """
    aside = not _ASIDE.isdisjoint(sys.argv[1:]) or "_ALDS_COMPLETE" in os.environ
    return None if aside else stated_now()


def _as_typer_takes(found: StatedDefaults | None) -> dict[str, Any]:
    if found is None:
        return {}
    values = {
        command: {name: own.value for name, own in stated.items()}
        for command, stated in found.commands.items()
    }
    return {"obj": found, "default_map": values}


def run(defaults: StatedDefaults | None = None) -> int:
    """Run the command that the arguments name, and return its exit code.

    Args:
        defaults: those that the environment and the project state.

    Raises:
        OptionError: the arguments are not those of any command.
    """
    try:
        code = _entry()(prog_name="alds", standalone_mode=False, **_as_typer_takes(defaults))
    except _CLICK_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is the answer
            return 2
        raise _usage(error) from error
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


_CLICK_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""The exception for wrong usage, of Click itself or of the copy within Typer."""


def _usage(error: Exception) -> Exception:
    """Turn a usage error of Click into the form that all errors have."""
    from alds_cli.errors import OptionError  # noqa: PLC0415

    context = getattr(error, "ctx", None)
    command = "alds" if context is None else context.command_path
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    message = re.sub(r"^Invalid value for '([^']+)': it is ", r"\1 is ", message)
    if message[:1].isupper():
        message = message[0].lower() + message[1:]
    told = OptionError(message.removesuffix("."), tip=f"{command} --help lists the options")
    if context is not None:
        _tell_origins(told, context, declared_options().get(context.info_name, ()))
    return told
