"""Titles, headings and labels that all formats share, as plain text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from alds_cli.reporting.delta_tables import (
    Cell,
    Column,
    Row,
    Table,
)
from alds_cli.reporting.paper import PublishedTable
from alds_cli.reporting.points import (
    decimal,
    in_epochs,
    short,
    signed,
)
from alds_cli.reporting.summary import Report
from alds_cli.text import minus

Styled = Callable[[str], str]
"""Formats a text as a kind of document does."""


def data_name(spec: str) -> str:
    """Return the name of a data set without its folder: `tensors:test.safetensors`."""
    kind, _, place = spec.partition(":")
    name = PurePath(place).name
    return f"{kind}:{name}" if name else kind


def title(table: Table) -> str:
    """Return the title of a table."""
    where = ", beside the paper's" if table.beside_paper else ""
    if table.across_amounts:
        delta = short(table.columns[0].delta)
        return f"Largest ratio whose drop is at most δ = {delta} %, by epochs of retraining{where}"
    epochs = table.columns[0].retrain_epochs
    after = f"after {in_epochs(epochs)} of retraining" if epochs else "without retraining"
    return f"Largest ratio whose drop is at most δ, {after}{where}"


def heading(table: Table, column: Column) -> str:
    """Return the heading that tells a column from the others of its table."""
    if table.across_amounts:
        return in_epochs(column.retrain_epochs)
    return f"δ = {short(column.delta)} %"


def shows_top5(report: Report, table: Table) -> bool:
    """Return whether top-5 is asked for and known in all of the sweep's rows of a table."""
    cells = [cell for row in table.rows if row.published is None for cell in row.cells]
    return report.top5 and all(cell is None or cell.top5 is not None for cell in cells)


def quality_heading(*, top5: bool) -> str:
    """Return the heading of the column of differences in accuracy."""
    return "top-1/5" if top5 else "top-1"


def difference(cell: Cell, *, top5: bool) -> str:
    """Format the differences in accuracy from the baseline."""
    if top5 and cell.top5 is not None:
        return f"{signed(cell.top1)}/{signed(cell.top5)}"
    return signed(cell.top1)


def cell_texts(
    cell: Cell | None, *, top5: bool, number: Styled, bold: Styled
) -> tuple[str, str, str]:
    """Format a cell: differences in accuracy, CR-P and CR-F; empty texts for no cell.

    Args:
        cell: of a table.
        top5: whether differences in top-5 are told too.
        number: formats what may be negative.
        bold: formats a figure that is the best of its column.
    """
    if cell is None:
        return "", "", ""
    cr_p, cr_f = decimal(cell.cr_p), decimal(cell.cr_f)
    return (
        number(difference(cell, top5=top5)),
        bold(cr_p) if cell.best_p and cr_p else cr_p,
        bold(cr_f) if cell.best_f and cr_f else cr_f,
    )


def headings_and_rows(
    report: Report, table: Table, *, name: Callable[[Row], str], bold: Styled
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the headings and the rows of a table, for formats without headings over several.

    Args:
        report: what the table is of.
        table: the table.
        name: formats the name of a row.
        bold: formats a figure that is the best of its column.
    """
    top5 = shows_top5(report, table)
    headings = ["method"]
    for column in table.columns:
        headings += [
            f"{heading(table, column)}: {quality_heading(top5=top5)}",
            "CR-P",
            "CR-F",
        ]
    rows = [
        (
            name(row),
            *(
                text
                for cell in row.cells
                for text in cell_texts(cell, top5=top5, number=minus, bold=bold)
            ),
        )
        for row in table.rows
    ]
    return headings, rows


def label(row: Row) -> str:
    """Return a row's name; that of a published row includes the number of its table."""
    return row.method if row.published is None else f"{row.method} (Table {row.published})"


RESULTS_HEADINGS = ("top-1", "top-5", "CR-P", "CR-F")


def results_title(table: PublishedTable) -> str:
    """Return the title of a table of the paper that has no δ."""
    return f"The paper's Table {table.number}: differences from the baseline, published results"


def results_rows(table: PublishedTable) -> list[tuple[str, ...]]:
    """Format the rows of such a table: method, differences in top-1 and top-5, CR-P, CR-F."""
    rows: list[tuple[str, ...]] = []
    for (method, cells), reference in zip(table.rows, table.references, strict=True):
        named = f"{method} ({reference})"
        rows += [
            (named, signed(cell.top1), signed(cell.top5), decimal(cell.cr_p), decimal(cell.cr_f))
            for cell in cells
            if cell is not None
        ]
    return rows


def published_results(report: Report) -> list[PublishedTable]:
    """Return the tables of the paper that have no δ, which are printed on their own."""
    if report.paper is None:
        return []
    return [table for table in report.paper.tables if table.kind == "results"]
