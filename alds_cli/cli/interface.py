"""The output of a command: results on stdout, progress and notes on stderr.

In tables for people, no number, heading or part of a file name is ever broken.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import IO, TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from alds_cli.cli import app, streams
from alds_cli.cli.json_text import json_text
from alds_cli.errors import OptionError, first_line
from alds_cli.options.reporting_options import ComputingReporting, Reporting
from alds_cli.text import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alds_cli.records import ProgressCallback, ProgressEvent
    from alds_cli.schemas.results import Printed


_PIPE_WIDTH = 160
"""The width of tables that neither a terminal nor COLUMNS in the environment limits."""

_USUAL = Reporting()


class _Notes(logging.Handler):
    """Prints the library's log records as unbroken lines, in the form that errors have."""

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
        reporting: what is printed, in which form, and how many threads torch computes with.
        binary_stdout: whether standard output carries a file, so that tables go to stderr.

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
        current = streams.current()
        output = sys.stdout if current is None else current.results
        if binary_stdout and output.isatty():
            raise OptionError(
                "a terminal cannot show an artefact", tip="-o FILE, or a pipe after -o -"
            )
        follows = app.follows()
        self.json_wanted = reporting.json and not follows
        self.quiet = reporting.quiet or follows
        self.verbose = reporting.verbose
        if current is not None:
            current.require_output()
            current.divert()  # it imports torch
            current.spinner.stop()
            gc.freeze()
            gc.enable()
            app.stop_in_order()
        self._output = output
        self.notes = PlainConsole(sys.stderr)
        self.results = console(sys.stderr if binary_stdout else output)
        self._silent = follows or (binary_stdout and reporting.quiet)
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
        # Pillow warns of odd metadata; what it cannot decode raises an error anyway.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.showwarning = self._show_warning

    def _show_warning(
        self, message: Warning | str, category: type[Warning], *_: object, **__: object
    ) -> None:
        """Print a library's warning in a line like those of this package."""
        del category
        if not self.quiet:
            told = first_line(message) if isinstance(message, Warning) else message
            self.notes.print(line(("warning: ", "yellow"), told), soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or a line of text, unless JSON was asked for."""
        if not self.json_wanted and not self._silent:
            shown = line(renderable) if isinstance(renderable, str) else renderable
            # Outside a group Rich would turn a line into plain text.
            self.results.print(Group(shown), crop=False)

    def remark(self, renderable: RenderableType) -> None:
        """Print a remark on a result, unless only results are wanted."""
        if not self.quiet:
            self.show(renderable)

    def say(self, text: str) -> None:
        """Print a line about the work in progress."""
        if not self.quiet:
            self.notes.print(line(text), soft_wrap=True)

    def write(self, text: str) -> None:
        """Print text that programs read, as it is."""
        if not self._silent:
            self._output.write(text)
            self._output.flush()

    def show_json(self, made: Callable[[], Printed]) -> None:
        """Print the JSON object that a function makes, if it was asked for."""
        if self.json_wanted:
            self._output.write(json_text(made()))

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback | None]:
        """Yield a callback that draws progress bars, or None if no one would see them."""
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
        bars = Progress(*columns, console=self.notes)
        tasks: dict[str, TaskID] = {}
        done: dict[str, int] = {}

        def update(event: ProgressEvent) -> None:
            bars.start()  # with the first event: work without any leaves the terminal as it is
            if event.task not in tasks:
                tasks[event.task] = bars.add_task(
                    visible(event.task), total=event.total, figures=""
                )
            if event.done < done.get(event.task, 0):  # the same work begins on something else
                bars.reset(tasks[event.task])
            done[event.task] = event.done
            figures = "  ".join(f"{key} {value:.4g}" for key, value in event.figures.items())
            bars.update(tasks[event.task], completed=event.done, total=event.total, figures=figures)

        try:
            yield update
        finally:
            if tasks:
                bars.stop()


def console(file: IO[str]) -> PlainConsole:
    """Return a console for results, as wide as the terminal or COLUMNS in the environment say."""
    stated = os.environ.get("COLUMNS", "").isdigit()
    return PlainConsole(file, None if stated or file.isatty() else _PIPE_WIDTH)


class PlainConsole(Console):
    """A console that shows strings as they are.

    Nothing in them is taken for markup or for an emoji's code, and no control character
    reaches the terminal. The texts of tables and lines should have passed through `visible`
    before, so that their width is measured correctly.

    Args:
        file: the stream to print to.
        width: the width in columns; None is the terminal's.
    """

    def __init__(self, file: IO[str], width: int | None = None) -> None:
        super().__init__(file=file, width=width, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as Rich does, with every character visible."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text, keep="\n"), style, control)


class _Line(Text):
    """Text that is broken between words only; longer words are left for the terminal to break.

    A file name that is wider than the terminal can therefore be copied in one piece. Such text
    has to be printed with `crop=False`.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        """Render as Rich does, unless a word is wider than the terminal."""
        whole = options.max_width >= console.width  # and no cell of a table
        if whole and self.__rich_measure__(console, options).minimum > console.width:
            options = options.update(no_wrap=True, overflow="ignore")
        yield from super().__rich_console__(console, options)


def line(*parts: str | tuple[str, str], style: str = "") -> Text:
    """Return text of one line; a part is a string or a pair of a string and its style."""
    made = _Line(style=style)
    for part in parts:
        text, part_style = (part, "") if isinstance(part, str) else part
        made.append(visible(text), part_style or None)
    return made


_SEPARATORS = frozenset(" /\\-_.,:;=")
"""A name may be broken after these."""

_UNLIMITED = 10**4


class Rows(Table):
    """A table each of whose cells is one line, whatever characters its text has.

    If it is too wide, columns move closer together, or names are continued on the next line, or
    both; if it is still too wide, every row becomes a few lines.

    Args:
        heading: a line above it, which may be wider than the table.
        columns: the headings.
        left: how many columns, from the first, hold names; the others hold numbers.
        spread: whether there is much space between columns.
    """

    def __init__(
        self, heading: str | None, columns: Sequence[str], *, left: int, spread: bool = True
    ) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if spread else (0, 0))
        self._heading = heading
        self._names = left
        self._shown: list[list[Text]] = []
        for number, column in enumerate(columns):
            self.add_column(column, justify="left" if number < left else "right", no_wrap=True)

    def add_row(self, *cells: str | Text) -> None:  # type: ignore[override]
        """Add a row; cells missing at its end stay empty."""
        shown = [Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells]
        shown += [Text()] * (len(self.columns) - len(shown))
        self._shown.append(shown)
        super().add_row(*shown)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the heading, and below it the table in the widest form that fits."""
        if self._heading is not None:
            yield line(self._heading)
        for form in self._forms(options.max_width):
            if _width(form, console, options) <= options.max_width:
                yield from Table.__rich_console__(form, console, options)
                return
        yield self._in_lines()

    def _forms(self, width: int) -> Iterator[Rows]:
        yield self
        for most, spread in ((_UNLIMITED, False), (width, True), (width, False)):
            yield self._narrowed(most, spread=spread)

    def _narrowed(self, width: int, *, spread: bool) -> Rows:
        """Return the table with names broken so that it fits the width, as far as they can be."""
        headings = [str(column.header) for column in self.columns]
        widths = [
            max(_extent(Text(heading)), *(_extent(row[number]) for row in self._shown))
            for number, heading in enumerate(headings)
        ]
        between = 3 if spread else 1
        excess = sum(widths) + between * (len(widths) - 1) + 2 - width
        for number in sorted(range(self._names), key=lambda column: -widths[column]):
            least = max(
                _extent(Text(headings[number])),
                *(_least(row[number]) for row in self._shown),
            )
            given_up = max(0, min(excess, widths[number] - least))
            widths[number] -= given_up
            excess -= given_up
        made = Rows(None, headings, left=self._names, spread=spread)
        for row in self._shown:
            names = [
                _broken(cell, widths[number]) for number, cell in enumerate(row[: self._names])
            ]
            made.add_row(*names, *row[self._names :])
        return made

    def _in_lines(self) -> Group:
        headings = [" ".join(str(column.header).split()) for column in self.columns]
        longest = max((len(heading) for heading in headings[1:]), default=0)
        lines: list[Text] = []
        for row in self._shown:
            lines.append(line(row[0].plain))
            for number, (heading, cell) in enumerate(zip(headings[1:], row[1:], strict=True), 1):
                if cell.plain:
                    text = Text.assemble((f"  {heading:<{longest}}  ", "dim"), cell)
                    if number >= self._names:
                        text.no_wrap, text.overflow = True, "ignore"
                    lines.append(text)
        return Group(Text(), *lines, Text())


def table(title: str | None, *columns: str, left: int = 1) -> Rows:
    """Make a plain table: the first `left` columns are names, the others numbers."""
    return Rows(title, columns, left=left)


def _width(made: Table, console: Console, options: ConsoleOptions) -> int:
    return Measurement.get(console, options.update(max_width=_UNLIMITED), made).maximum


def _extent(text: Text) -> int:
    """Return the number of columns that a cell takes."""
    return max((part.cell_len for part in text.split("\n", allow_blank=True)), default=0)


def _least(text: Text) -> int:
    """Return the least number of columns that a name takes when broken."""
    return max((cell_len(part.plain.rstrip()) for part in _parts(text)), default=0)


def _parts(text: Text) -> list[Text]:
    """Split a name after each of its separators; decimal numbers stay whole."""
    plain = text.plain
    ends = [
        place + 1
        for place, sign in enumerate(plain[:-1])
        if sign in _SEPARATORS
        and not (sign in ".," and plain[place - 1 : place].isdigit() and plain[place + 1].isdigit())
    ]
    return list(text.divide(ends))


def _broken(text: Text, width: int) -> Text:
    """Break a name into lines of at most `width` columns, if its pieces allow that."""
    ends, length, start = [0], 0, 0
    for part in _parts(text):
        if length and length + cell_len(part.plain.rstrip()) > width:
            ends.append(start)
            length = 0
        length += part.cell_len
        start += len(part)
    pieces = [text[first:last] for first, last in pairwise([*ends, len(text)])]
    for piece in pieces:
        piece.rstrip()
    return Text("\n").join(pieces)
