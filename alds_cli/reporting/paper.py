"""The results printed in the paper's supplement, and tables that compare a sweep with them.

The numbers are in `paper.json`, with their source and with notes on what is not legible there.

Source: Liebenwein et al., NeurIPS 2021, supplement, Tables 6 to 11.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from alds_cli.errors import OptionError
from alds_cli.reporting.delta_tables import (
    Cell,
    Column,
    Row,
    Table,
    mark_best,
)
from alds_cli.reporting.points import base_name

_NEAR = Fraction(1, 100)
"""Shares of a training schedule that differ by at most this much count as the same."""


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """The part of one of the paper's tables that is about one network.

    A table of kind `thresholds` has a column for each δ, at one amount of retraining; one of
    kind `retraining` has a column for each amount, at one δ; one of kind `results` has one
    column and no δ. Amounts are fractions of the training schedule. Each row holds the paper's
    name of a method and its cells. `references` names the source of each row's results.
    """

    number: int
    kind: Literal["thresholds", "retraining", "results"]
    quality: tuple[str, ...]
    deltas: tuple[Fraction, ...]
    amounts: tuple[Fraction, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    references: tuple[str, ...]
    notes: tuple[str, ...]

    def cell(self, name: str, delta: Fraction, amount: Fraction | None) -> Cell | None:
        """Return the cell printed for a method under these conditions, or None.

        Args:
            name: the method, as the paper calls it.
            delta: the drop allowed, in points.
            amount: the fraction of the training schedule; None means the whole schedule.
        """
        wanted = Fraction(1) if amount is None else amount
        for row, cells in self.rows:
            if row != name:
                continue
            for column, cell in enumerate(cells):
                if self.deltas[column] == delta and abs(self.amounts[column] - wanted) <= _NEAR:
                    return cell
        return None


@dataclass(frozen=True, slots=True)
class Published:
    """The paper's results for one network; `baseline` gives its measures in per cent."""

    name: str
    network: str
    data: str
    baseline: Mapping[str, Fraction]
    retrain_epochs: int
    tables: tuple[PublishedTable, ...]
    source: str

    @property
    def notes(self) -> list[str]:
        """Remarks on the numbers, table by table."""
        return [f"Table {table.number}: {note}" for table in self.tables for note in table.notes]


def published_names() -> list[str]:
    """Return the names of the networks that `published` knows."""
    return list(_document()["networks"])


def published(name: str) -> Published:
    """Return the paper's results for one network.

    Raises:
        OptionError: the paper has no network of that name.
    """
    known = _document()
    if name not in known["networks"]:
        raise OptionError(
            f"the paper has no results under '{name}'",
            tip=f"choose from {', '.join(known['networks'])}",
        )
    content = known["networks"][name]
    source = known["source"]
    return Published(
        name=name,
        network=content["network"],
        data=content["data"],
        baseline=dict(content["baseline"]),
        retrain_epochs=content["retrain_epochs"],
        tables=tuple(_table(table) for table in content["tables"]),
        source=f"{source['title']}, {source['venue']}, {source['url']}, supplement",
    )


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    text = files(__package__).joinpath("paper.json").read_text(encoding="utf-8")
    # Read as fractions, 0.47 is exactly the printed number, not the nearest float.
    document: dict[str, Any] = json.loads(text, parse_float=Fraction)
    return document


def _table(content: Mapping[str, Any]) -> PublishedTable:
    kind = content["kind"]
    quality = tuple(content["quality"])
    deltas: tuple[Fraction, ...] = ()
    amounts: tuple[Fraction, ...] = ()
    if kind == "thresholds":
        deltas = tuple(map(Fraction, content["deltas"]))
        amounts = (Fraction(content["retraining_percent"]) / 100,) * len(deltas)
    elif kind == "retraining":
        amounts = tuple(Fraction(percent) / 100 for percent in content["retraining_percents"])
        deltas = (Fraction(content["delta"]),) * len(amounts)
    return PublishedTable(
        number=content["number"],
        kind=kind,
        quality=quality,
        deltas=deltas,
        amounts=amounts,
        rows=tuple(
            (row["method"], tuple(_cell(cell, quality) for cell in row["cells"]))
            for row in content["rows"]
        ),
        references=tuple(row.get("reference", "") for row in content["rows"]),
        notes=tuple(content["notes"]),
    )


def _cell(values: Sequence[Fraction | None] | None, quality: Sequence[str]) -> Cell | None:
    if values is None:
        return None
    named = dict(zip((*quality, "cr_p", "cr_f"), values, strict=True))
    return Cell(named["top1"], named.get("top5"), named["cr_p"], named["cr_f"])


def beside(table: Table, paper: Published) -> Table | None:
    """Put the paper's rows under a sweep's rows of the same method.

    Results without retraining are compared with the paper's without retraining (Tables 7 and
    9), and results with retraining with those after the whole training schedule (Tables 6, 8
    and 10). A table over amounts of retraining keeps the amounts that are the same share of
    the schedule, to within 0.01, if there are at least two. Columns for which the paper prints
    nothing are left out.

    Returns:
        The table, or None if the paper has nothing to compare with.
    """
    source = _source(table, paper)
    if source is None:
        return None
    columns = [
        number
        for number, column in enumerate(table.columns)
        if _printed(source, column, _part(table, column, paper))
    ]
    if len(columns) <= int(table.across_amounts):
        return None  # a table over δ already shows a single amount
    kept = tuple(table.columns[number] for number in columns)
    ours = mark_best(
        [Row(row.method, tuple(row.cells[number] for number in columns)) for row in table.rows]
    )
    theirs = mark_best(
        [
            Row(
                name,
                tuple(
                    source.cell(name, column.delta, _part(table, column, paper)) for column in kept
                ),
                published=source.number,
            )
            for name, _ in source.rows
        ]
    )
    return Table(kept, tuple(_interleaved(ours, theirs)), table.across_amounts)


def _source(table: Table, paper: Published) -> PublishedTable | None:
    """Return the paper's table whose conditions match those of a sweep's table."""
    retrained = any(column.retrain_epochs for column in table.columns)
    kind = "thresholds" if retrained and not table.across_amounts else "retraining"
    return next((found for found in paper.tables if found.kind == kind and found.rows), None)


def _part(table: Table, column: Column, paper: Published) -> Fraction | None:
    """Return the share of the training schedule to compare a column with; None: all of it."""
    if column.retrain_epochs and not table.across_amounts:
        return None
    return Fraction(column.retrain_epochs, paper.retrain_epochs)


def _printed(source: PublishedTable, column: Column, part: Fraction | None) -> bool:
    return any(source.cell(name, column.delta, part) for name, _ in source.rows)


def _interleaved(ours: Sequence[Row], theirs: Sequence[Row]) -> list[Row]:
    """Put each of the paper's rows under the last variant of its method, the rest at the end."""
    rows: list[Row] = []
    left = {row.method.lower(): row for row in theirs}
    for number, row in enumerate(ours):
        rows.append(row)
        name = base_name(row.method)
        if name not in {base_name(later.method) for later in ours[number + 1 :]} and name in left:
            rows.append(left.pop(name))
    return [*rows, *left.values()]
