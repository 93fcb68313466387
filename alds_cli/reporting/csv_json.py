"""A report in machine-readable form: long CSV tables in full precision, and rows for JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from statistics import fmean, stdev
from typing import Any

from alds_cli.reporting.delta_tables import Cell, Column
from alds_cli.reporting.paper import PublishedTable
from alds_cli.reporting.points import Point, mean
from alds_cli.reporting.summary import Report
from alds_cli.schemas.results import CellForm, PointForm
from alds_cli.text import visible

CELL_FIELDS = tuple(CellForm.model_fields)
"""The columns of `report.csv`, which has a row for each cell of the tables over δ."""

POINT_FIELDS = tuple(PointForm.model_fields)
"""The columns of `points.csv`, which has a row for each method, amount of retraining and ratio."""


_FORMULAS = ("=", "+", "-", "@")
"""The characters with which formulas begin in spreadsheets."""


def cells_csv(report: Report) -> str:
    """Return `report.csv`: every cell of the tables over δ and of the paper's tables, once each."""
    return _csv(CELL_FIELDS, cells(report))


def points_csv(report: Report) -> str:
    """Return `points.csv`: every point of the sweep, as the curves show it."""
    return _csv(POINT_FIELDS, points(report))


def cells(report: Report) -> list[dict[str, Any]]:
    """Return a row for every cell, with the fields of `CELL_FIELDS`."""
    found: dict[tuple[str, Column], dict[str, Any]] = {}
    for table in report.tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                found.setdefault((row.method, column), _sweep_row(row.method, column, cell))
    printed = [] if report.paper is None else report.paper.tables
    return [*found.values(), *(row for table in printed for row in _paper_rows(table))]


def points(report: Report) -> list[dict[str, Any]]:
    """Return a row for every point, with the fields of `POINT_FIELDS`."""
    return [_point(point) for point in report.results.points]


def _sweep_row(method: str, column: Column, cell: Cell | None) -> dict[str, Any]:
    return {
        "source": "sweep",
        "method": method,
        "delta": float(column.delta),
        "retrain_epochs": column.retrain_epochs,
        "retrain_part": None,
        **_values(cell),
    }


def _paper_rows(table: PublishedTable) -> Iterable[dict[str, Any]]:
    for (method, row), reference in zip(table.rows, table.references, strict=True):
        for number, cell in enumerate(row):
            yield {
                "source": f"paper, Table {table.number}",
                "method": f"{method} ({reference})" if reference else method,
                "delta": float(table.deltas[number]) if table.deltas else None,
                "retrain_epochs": None,
                "retrain_part": float(table.amounts[number]) if table.amounts else None,
                **_values(cell),
            }


def _values(cell: Cell | None) -> dict[str, Any]:
    return {
        "reached": cell is not None,
        "ratio": cell and cell.ratio,
        "repeats": cell and cell.repeats,
        "top1_difference": cell and _float(cell.top1),
        "top5_difference": cell and _float(cell.top5),
        "cr_p": cell and _float(cell.cr_p),
        "cr_f": cell and _float(cell.cr_f),
        "best_cr_p": cell is not None and cell.best_p,
        "best_cr_f": cell is not None and cell.best_f,
    }


def _point(point: Point) -> dict[str, Any]:
    top1 = point.top1
    return {
        "method": point.method,
        "retrain_epochs": point.retrain_epochs,
        "ratio": point.ratio,
        "repeats": len(point.records),
        "unreached": len(point.unreached),
        "cr_p": _mean(point.params),
        "cr_f": _mean(point.macs),
        "top1_difference": _mean(top1),
        "top1_std": float(stdev(map(float, top1))) if len(top1) > 1 else None,
        "top1_least": _float(min(top1, default=None)),
        "top1_largest": _float(max(top1, default=None)),
        "top5_difference": _mean(point.top5),
        "latency_ms": fmean(point.latency) if point.latency else None,
        "latency_of_original": fmean(point.slowdown) if point.slowdown else None,
        "reason": point.unreached[0].reason if point.unreached else None,
    }


def _mean(values: Sequence[Fraction] | None) -> float | None:
    return float(mean(values)) if values else None


def _float(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _csv(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    return sink.getvalue()


def _text(value: Any) -> Any:
    """Format a value: empty for None, `true` and `false` as in JSON, floats with all digits.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, and invisible
    characters are escaped.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        shown = visible(value)
        return f"'{shown}" if shown.lstrip().startswith(_FORMULAS) else shown
    return repr(value) if isinstance(value, float) else value
