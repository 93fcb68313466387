"""The `alds` command: its subcommands and the one place where errors end."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from alds_cli._version import __version__
from alds_cli.cli import compress, demo, evaluate, inspect, profile, report, retrain, schema, sweep
from alds_cli.errors import AldsError

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

    Exit codes: 0 done; 1 what was asked for cannot be had; 2 bad usage or bad input.
    """


def main() -> None:
    """Run the command; every error a user can cause ends here as a line, not a traceback."""
    if not _times_networks(sys.argv[1:]):
        # Idle OpenMP threads that spin take the cores from whatever else runs on a CI machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except AldsError as error:
        _explain(error.message, error.tip)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe has seen enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except MemoryError:
        _explain("there is not enough memory", "close other programs, or use a larger machine")
        sys.exit(2)


def _times_networks(arguments: list[str]) -> bool:
    """Whether networks run whose time counts.

    Then OpenMP's threads must wait as they do in everybody else's process: where they sleep,
    a small network takes twice as long. To be settled before OpenMP is loaded.
    """
    return not {"evaluate", "retrain", "--never-slower"}.isdisjoint(arguments) or any(
        "latency" in argument for argument in arguments
    )


def _explain(message: str, tip: str | None) -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed where all goes well
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), message))
    if tip:
        console.print(Text.assemble(("  tip: ", "bold"), tip))
