"""The subcommands of `alds`."""

from __future__ import annotations

import re
from typing import Annotated, cast

import typer

from alds_cli._version import __version__
from alds_cli.cli import (
    compress,
    demo,
    evaluate,
    inspect,
    profile,
    report,
    retrain,
    schema,
    sweep,
)

_CLICK_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""The exception for wrong usage, of Click itself or of the copy within Typer."""

app = typer.Typer(
    name="alds",
    help="Make a trained PyTorch network smaller: low-rank layers, globally allocated.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("profile")(profile.command)
app.command("compress")(compress.command)
app.command("inspect")(inspect.command)
app.command("evaluate")(evaluate.command)
app.command("retrain")(retrain.command)
app.command("sweep")(sweep.command)
app.command("report")(report.command)
app.command("schema")(schema.command)
app.command("demo")(demo.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alds {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Make a trained PyTorch network smaller: low-rank layers, globally allocated.

    Exit codes: 0 done; 1 what was asked for cannot be had; 2 bad usage or bad input, or a
    result that cannot be written; 70 an error of the tool's own.
    """


def run() -> int:
    """Run the command that the arguments name, and return its exit code.

    Raises:
        OptionError: the arguments are not those of any command.
    """
    try:
        code = app(prog_name="alds", standalone_mode=False)
    except _CLICK_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is the answer
            return 2
        raise _usage(error) from error
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> Exception:
    """Turn a usage error of Click into the form that all errors have."""
    from alds_cli.errors import OptionError  # noqa: PLC0415

    context = getattr(error, "ctx", None)
    command = "alds" if context is None else context.command_path
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    message = re.sub(r"^Invalid value for '([^']+)': it is ", r"\1 is ", message)
    if message[:1].isupper():
        message = message[0].lower() + message[1:]
    return OptionError(message.removesuffix("."), tip=f"{command} --help lists the options")
