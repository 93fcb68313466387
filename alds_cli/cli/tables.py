"""Tables for people, in which no number, heading or part of a file name is ever broken."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from alds_cli.cli.interface import line
from alds_cli.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SEPARATORS = frozenset(" /\\-_.,:;=")
"""A name may be broken after these."""

_UNLIMITED = 10**4


class Rows(Table):
    """A table each of whose cells is one line, whatever characters its text has.

    If it is too wide, names are continued on the next line after one of their separators, and
    columns move closer together; if it is still too wide, every row becomes a few lines.

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
        for spread in (True, False):
            yield self._narrowed(width, spread=spread)

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
