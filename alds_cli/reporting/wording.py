"""Titles, headings and labels that all formats share, as plain text."""

from __future__ import annotations

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
