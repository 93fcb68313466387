"""The results that the paper prints in its supplement, and how they stand beside a sweep's.

The numbers are in `paper.json`, with their source and with what the text at hand does not
give legibly.

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
"""How far the share of a training schedule may be from the paper's to be called the same."""


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One table of the paper, as far as it is about one network.

    `thresholds`: a column per δ, at one amount of retraining. `retraining`: a column per
    amount, at one δ. `results`: one column, no δ. Amounts are fractions of the training
    schedule. Rows hold what the paper calls a method, and its cells; `references` the works
    that results were taken from, row by row.
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
        """What is printed of a method under these conditions, if anything is.

        An `amount` of None asks for the whole schedule.
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
    """What the paper says of one network; `baseline` by measure, in per cent."""

    name: str
    network: str
    data: str
    baseline: Mapping[str, Fraction]
    retrain_epochs: int
    tables: tuple[PublishedTable, ...]
    source: str

    @property
    def notes(self) -> list[str]:
        """What to know of the numbers, table by table."""
        return [f"Table {table.number}: {note}" for table in self.tables for note in table.notes]


def published_names() -> list[str]:
    """The networks that `published` knows."""
    return list(_document()["networks"])


def published(name: str) -> Published:
    """The paper's numbers for one network.

    Raises:
        OptionError: the paper has none of that name.
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
    # Fractions, so that 0.47 is what is printed and not the float beside it.
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
    """A sweep's table with the paper's rows under those of the methods of the same name.

    Without retraining the paper's are those of no retraining (Tables 7 and 9), with it those
    of the whole schedule (Tables 6, 8 and 10). A table over amounts of retraining gets those
    amounts that are the same part of the training schedule, to one point of a hundred, where
    there are several. Columns for which the paper prints nothing are left out.

    Returns:
        The table, or None where the paper has nothing to set beside it.
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
        return None  # a single amount is another table's subject
    kept = tuple(table.columns[number] for number in columns)
    own = mark_best(
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
    return Table(kept, tuple(_interleaved(own, theirs)), table.across_amounts)


def _source(table: Table, paper: Published) -> PublishedTable | None:
    """The paper's table with the conditions of a sweep's."""
    retrained = any(column.retrain_epochs for column in table.columns)
    kind = "thresholds" if retrained and not table.across_amounts else "retraining"
    return next((found for found in paper.tables if found.kind == kind and found.rows), None)


def _part(table: Table, column: Column, paper: Published) -> Fraction | None:
    """The part of the training schedule that a column's retraining stands for."""
    if column.retrain_epochs and not table.across_amounts:
        return None
    return Fraction(column.retrain_epochs, paper.retrain_epochs)


def _printed(source: PublishedTable, column: Column, part: Fraction | None) -> bool:
    return any(source.cell(name, column.delta, part) for name, _ in source.rows)


def _interleaved(own: Sequence[Row], theirs: Sequence[Row]) -> list[Row]:
    """The paper's rows, each under the last variant of its method, the others at the end."""
    rows: list[Row] = []
    left = {row.method.lower(): row for row in theirs}
    for number, row in enumerate(own):
        rows.append(row)
        name = base_name(row.method)
        if name not in {base_name(later.method) for later in own[number + 1 :]} and name in left:
            rows.append(left.pop(name))
    return [*rows, *left.values()]
