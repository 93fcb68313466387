"""How a command speaks: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from alds_cli.cli import app, streams
from alds_cli.errors import OptionError, first_line
from alds_cli.options.reporting_options import ComputingReporting, Reporting
from alds_cli.visible import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

    from alds_cli.records import ProgressCallback, ProgressEvent
    from alds_cli.schemas.results import Printed


_PIPE_WIDTH = 160
"""Columns of tables that no terminal limits, nor COLUMNS in the environment."""


_USUAL = Reporting()


class _Notes(logging.Handler):
    """Notes of the library as lines like those of errors, left whole for logs to hold."""

    def __init__(self, console: PlainConsole) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one note."""
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        kind = "note" if record.levelno < logging.WARNING else record.levelname.lower()
        self._console.print(line((f"{kind}: ", style), record.getMessage()), soft_wrap=True)


class Interface:
    """One command's output.

    Args:
        reporting: what is told, how, and with how many threads torch computes.
        binary_stdout: standard output carries a file, so tables go to stderr.

    Raises:
        OptionError: options contradict each other.
        OutputError: there is no standard output.
    """

    def __init__(self, reporting: Reporting = _USUAL, *, binary_stdout: bool = False) -> None:
        if reporting.quiet and reporting.verbose:
            raise OptionError("--quiet and --verbose contradict each other")
        if binary_stdout and reporting.json:
            raise OptionError(
                "the artefact and the JSON cannot both go to standard output",
                tip="-o FILE --json",
            )
        own = streams.current()
        output = sys.stdout if own is None else own.results
        if binary_stdout and output.isatty():
            raise OptionError(
                "an artefact is not for a terminal to show", tip="-o FILE, or a pipe after -o -"
            )
        self.json_wanted = reporting.json
        self.quiet = reporting.quiet
        self.verbose = reporting.verbose
        if own is not None:
            own.require_output()
            own.divert()
            app.stop_in_order()
        self._output = output
        self.notes = PlainConsole(sys.stderr)
        self.results = _console(sys.stderr if binary_stdout else output)
        self._silent = binary_stdout and reporting.quiet
        self._start_logging()
        if isinstance(reporting, ComputingReporting) and reporting.threads is not None:
            import torch  # noqa: PLC0415 - slow to import

            torch.set_num_threads(reporting.threads)

    def _start_logging(self) -> None:
        level = logging.WARNING
        if self.quiet:
            level = logging.ERROR
        elif self.verbose:
            level = logging.INFO
        root = logging.getLogger("alds_cli")
        root.handlers = [_Notes(self.notes)]
        root.setLevel(level)
        root.propagate = False
        # Pillow's remarks on odd metadata; what it cannot decode is an error.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.showwarning = self._show_warning

    def _show_warning(
        self, message: Warning | str, category: type[Warning], *_: object, **__: object
    ) -> None:
        """What a library warns of, in a line like those of our own."""
        del category
        if not self.quiet:
            told = first_line(message) if isinstance(message, Warning) else message
            self.notes.print(line(("warning: ", "yellow"), told), soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or a line of text, unless JSON was asked for."""
        if not self.json_wanted and not self._silent:
            shown = line(renderable) if isinstance(renderable, str) else renderable
            # Within a group, or Rich would make a plain text of a line.
            self.results.print(Group(shown), crop=False)

    def remark(self, renderable: RenderableType) -> None:
        """Print what is told beside a result, unless only results are wanted."""
        if not self.quiet:
            self.show(renderable)

    def say(self, text: str) -> None:
        """Print a line about the work as it goes on."""
        if not self.quiet:
            self.notes.print(line(text), soft_wrap=True)

    def show_json(self, result: Printed) -> None:
        """Print the JSON object, if it was asked for."""
        if self.json_wanted:
            document = result.model_dump()
            text = json.dumps(_portable(document), indent=2, allow_nan=False)
            # The one control character that JSON does not escape.
            self._output.write(text.replace("\x7f", "\\u007f") + "\n")

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback | None]:
        """A callback that draws progress bars; None where nobody would see them."""
        if self.quiet or not self.notes.is_terminal:
            yield None
            return
        columns = (
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        with Progress(*columns, console=self.notes) as bars:
            tasks: dict[str, TaskID] = {}

            def update(event: ProgressEvent) -> None:
                if event.task not in tasks:
                    tasks[event.task] = bars.add_task(
                        visible(event.task), total=event.total, figures=""
                    )
                figures = "  ".join(f"{key} {value:.4g}" for key, value in event.figures.items())
                bars.update(
                    tasks[event.task], completed=event.done, total=event.total, figures=figures
                )

            yield update


def _console(file: IO[str]) -> PlainConsole:
    stated = os.environ.get("COLUMNS", "").isdigit()
    return PlainConsole(file, None if stated or file.isatty() else _PIPE_WIDTH)


def _portable(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: both become null."""
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_LONGEST = 800
"""Characters of an error's message: some quote what they refuse."""


class PlainConsole(Console):
    """A console that shows strings as they are.

    Nothing in them is taken for markup or for an emoji's code, and no character of theirs
    reaches a terminal that would steer it. What the pieces of a table and the lines of a text
    are made of should have passed through `visible` before, so that they are measured right.

    Args:
        file: where to.
        width: in columns; None is the terminal's.
    """

    def __init__(self, file: IO[str], width: int | None = None) -> None:
        super().__init__(file=file, width=width, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as Rich does, every character visible."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text, keep="\n"), style, control)


class _Line(Text):
    """Text that is broken between words, or by the terminal alone.

    So a file's name that is longer than the terminal is wide can still be copied from it. It
    has to be printed with `crop=False`.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        """Render as Rich does, where no word is too long for that."""
        whole = options.max_width >= console.width  # and no cell of a table
        if whole and self.__rich_measure__(console, options).minimum > console.width:
            options = options.update(no_wrap=True, overflow="ignore")
        yield from super().__rich_console__(console, options)


def line(*parts: str | tuple[str, str], style: str = "") -> Text:
    """Text of one line, whatever it is made of; a part may be a pair with its style."""
    made = _Line(style=style)
    for part in parts:
        text, own = (part, "") if isinstance(part, str) else part
        made.append(visible(text), own or None)
    return made


def explain(message: str, tip: str | None) -> None:
    """An error as a line, and what to do about it as another."""
    console = PlainConsole(sys.stderr)
    said = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    console.print(line(("error: ", "bold red"), said), soft_wrap=True)
    if tip:
        console.print(line(("  tip: ", "bold"), tip), soft_wrap=True)


def show_traceback(error: BaseException) -> None:
    """Where an error happened, for its report."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    console = PlainConsole(sys.stderr)
    for own in lines:
        console.print(line(own), soft_wrap=True)
