"""The largest ratio whose drop in accuracy is at most δ, as the paper tabulates it.

A ratio counts if every repeat of the sweep reached it and the *mean* drop in top-1 over the
repeats is at most δ. The largest such ratio fills the cell, with the means over its repeats.
The comparison with δ is made in exact arithmetic.

Source: Liebenwein et al., NeurIPS 2021, supplement C.1, Tables 6 to 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from alds_cli.options import report_options
from alds_cli.reporting.points import Point, Results, mean, rounded

DELTAS = tuple(map(Fraction, report_options.DELTAS.split(",")))
"""The values of δ in the paper's tables, in points of accuracy."""

ACROSS_DELTA = Fraction(1)
"""The δ of the table over amounts of retraining (the paper's Tables 7 and 9)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The results of the largest ratio within δ.

    `top1` and `top5` are differences from the baseline in points, negative if accuracy dropped;
    `cr_p` and `cr_f` are the parameters and MACs removed in per cent. `ratio` and `repeats` are
    None for a published result. `best_p` and `best_f` mark the best values of a column among
    results of the same origin; values that are printed alike are marked alike.
    """

    top1: Fraction | None
    top5: Fraction | None
    cr_p: Fraction | None
    cr_f: Fraction | None
    ratio: str | None = None
    repeats: int | None = None
    best_p: bool = False
    best_f: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """The conditions of a cell: the drop allowed, and how long the network was retrained."""

    delta: Fraction
    retrain_epochs: int


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of one method, None where no ratio is within δ.

    `published` is the number of the paper's table that they are from; None for the sweep's own.
    """

    method: str
    cells: tuple[Cell | None, ...]
    published: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a method in each row.

    The columns differ in `delta`, or in the amount of retraining if `across_amounts` is set.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    across_amounts: bool = False

    @property
    def beside_paper(self) -> bool:
        """Whether some of the rows are published results."""
        return any(row.published is not None for row in self.rows)


def largest_within(points: Iterable[Point], delta: Fraction) -> Point | None:
    """Return the point of the largest ratio whose mean drop in top-1 is at most `delta` points.

    None if there is no such point.
    """
    within = [point for point in points if point.counts and -mean(point.top1) <= delta]
    return max(within, key=lambda point: Fraction(point.ratio), default=None)


def threshold_tables(results: Results, deltas: Sequence[Fraction]) -> list[Table]:
    """Make one table over δ for every amount of retraining.

    If there are several amounts, a table over the amounts follows, at δ = 1 point like the
    paper's Tables 7 and 9.
    """
    tables = [
        _table(results, tuple(Column(delta, epochs) for delta in deltas))
        for epochs in results.amounts
    ]
    if len(results.amounts) > 1:
        columns = tuple(Column(ACROSS_DELTA, epochs) for epochs in results.amounts)
        tables.append(replace(_table(results, columns), across_amounts=True))
    return tables


def _table(results: Results, columns: tuple[Column, ...]) -> Table:
    rows = [
        Row(
            method,
            tuple(
                _cell(largest_within(results.of(method, column.retrain_epochs), column.delta))
                for column in columns
            ),
        )
        for method in results.methods
    ]
    return Table(columns, tuple(mark_best(rows)))


def _cell(point: Point | None) -> Cell | None:
    if point is None:
        return None
    return Cell(
        top1=mean(point.top1),
        top5=None if point.top5 is None else mean(point.top5),
        cr_p=mean(point.params),
        cr_f=None if point.macs is None else mean(point.macs),
        ratio=point.ratio,
        repeats=len(point.records),
    )


def mark_best(rows: Sequence[Row]) -> list[Row]:
    """Mark the largest CR-P and CR-F of every column, and all that are printed the same."""
    columns = list(zip(*(row.cells for row in rows), strict=True))
    tops_p = [_largest(cell.cr_p for cell in column if cell) for column in columns]
    tops_f = [_largest(cell.cr_f for cell in column if cell) for column in columns]
    return [
        replace(
            row,
            cells=tuple(
                cell
                and replace(
                    cell,
                    best_p=cell.cr_p is not None and rounded(cell.cr_p) == top_p,
                    best_f=cell.cr_f is not None and rounded(cell.cr_f) == top_f,
                )
                for cell, top_p, top_f in zip(row.cells, tops_p, tops_f, strict=True)
            ),
        )
        for row in rows
    ]


def _largest(values: Iterable[Fraction | None]) -> int | None:
    return max((rounded(value) for value in values if value is not None), default=None)
