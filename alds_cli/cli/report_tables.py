"""The tables of a report in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.text import Text

from alds_cli.cli.interface import Rows, line
from alds_cli.cli.interface import table as drawn_table
from alds_cli.reporting import (
    Cell,
    Report,
    Row,
    Table,
    wording,
)
from alds_cli.reporting.points import decimal


def shown(report: Report, console: Console) -> Iterator[RenderableType]:
    """Yield every table, in pieces that fit the console's width, and the notes."""
    for table in report.all_tables:
        yield from _pieces(report, table, console)
    for found in wording.published_results(report):
        made = drawn_table(wording.results_title(found), "method", *wording.RESULTS_HEADINGS)
        for name, *values in wording.results_rows(found):
            made.add_row(name, *values)
        yield made
    for note in report.notes:
        yield line(f"• {note}", style="dim")


def _pieces(report: Report, table: Table, console: Console) -> list[Rows]:
    """Split a table into as few pieces as possible, none of them wider than the console."""
    columns = range(len(table.columns))
    unlimited = console.options.update(max_width=10**4)
    pieces: list[Rows] = []
    for width in range(len(columns), 0, -1):
        pieces = [
            _drawn(report, table, columns[start : start + width])
            for start in range(0, len(columns), width)
        ]
        widths = [Measurement.get(console, unlimited, piece).maximum for piece in pieces]
        if max(widths) <= console.width:
            break
    return pieces


def _drawn(report: Report, table: Table, columns: Sequence[int]) -> Rows:
    top5 = wording.shows_top5(report, table)
    quality = wording.quality_heading(top5=top5)
    headings = []
    for number in columns:
        named = wording.heading(table, table.columns[number])
        headings += [f"{named}\n{quality}", "\nCR-P", "\nCR-F"]
    made = drawn_table(wording.title(table), "\nmethod", *headings)
    for row in table.rows:
        cells = [text for number in columns for text in _cell(row.cells[number], top5=top5)]
        made.add_row(_name(row), *cells)
    return made


def _name(row: Row) -> Text:
    if row.published is None:
        return line(row.method)
    return line(f"  {wording.label(row)}", style="dim italic")


def _cell(cell: Cell | None, *, top5: bool) -> tuple[Text | str, Text | str, Text | str]:
    if cell is None:
        return "", "", ""
    return (
        wording.difference(cell, top5=top5).replace("-", "−"),
        Text(decimal(cell.cr_p), style="bold" if cell.best_p else ""),
        Text(decimal(cell.cr_f), style="bold" if cell.best_f else ""),
    )
