"""The content of a report, independent of its format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from alds_cli.records import SweepBaseline, SweepRecord
from alds_cli.reporting.delta_tables import DELTAS, Table, threshold_tables
from alds_cli.reporting.paper import Published, beside, published
from alds_cli.reporting.points import (
    Results,
    decimal,
    gather,
    incomplete,
    repeats,
    short,
)


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a sweep: tables over δ, comparisons with the paper's, and notes.

    Without published results, `comparisons` is empty and `paper` is None. `top5` says whether
    to show differences in top-5, where they are known, beside those in top-1.
    """

    results: Results
    tables: tuple[Table, ...]
    comparisons: tuple[Table, ...]
    paper: Published | None
    notes: tuple[str, ...]
    top5: bool

    @property
    def all_tables(self) -> tuple[Table, ...]:
        """The tables of the sweep, followed by the comparisons with the paper."""
        return (*self.tables, *self.comparisons)


def make_report(
    baseline: SweepBaseline,
    records: Iterable[SweepRecord],
    *,
    deltas: Sequence[Fraction] = DELTAS,
    methods: Sequence[str] | None = None,
    paper: str | None = None,
    top5: bool = False,
    target: str = "params",
    unfinished: int = 0,
) -> Report:
    """Make the report on a sweep.

    Args:
        baseline: the measures of the original network.
        records: the finished runs, in any order.
        deltas: the drops in top-1 to allow, in points.
        methods: the methods to report on, in this order; None means all.
        paper: the network whose published results to compare with; None compares with none.
        top5: whether to show differences in top-5, too.
        target: the resource that ratios are fractions of, such as `params` or `macs`.
        unfinished: the number of runs of the sweep that are not finished yet.

    Raises:
        RunFolderError: there are no finished runs, or none of them reached its ratio.
        OptionError: a method has no runs or is named twice, or the paper has no results for
            the network.
    """
    printed = None if paper is None else published(paper)
    results = gather(baseline, records, methods)
    tables = threshold_tables(results, deltas)
    comparisons = [beside(table, printed) for table in tables] if printed else []
    found = tuple(table for table in comparisons if table is not None)
    notes = [*_general(results, tables), *incomplete(results)]
    if unfinished:
        notes.insert(1, f"Not complete: runs asked for that are not finished: {unfinished:,}.")
    if target != "params":
        notes.insert(1, f"The sweep's ratios are fractions of {target}, not of the parameters.")
    if printed:
        notes += _on_paper(results, printed, any_beside=bool(found))
    return Report(results, tuple(tables), found, printed, tuple(notes), top5)


def _general(results: Results, tables: Sequence[Table]) -> list[str]:
    """Make the notes on how to read the tables and on the baseline."""
    counts = repeats(results)
    several = sorted({count for count in counts.values() if count > 1})
    if not several:
        said = "one run each"
    elif min(counts.values()) == max(counts.values()):
        said = f"means over {several[0]} repeats"
    else:
        listed = ", ".join(f"{method} {count}" for method, count in counts.items())
        said = f"means over repeats ({listed})"
    quality = results.baseline.quality
    rule = (
        "A ratio counts where the mean drop in top-1 is at most δ points and every repeat reached "
        f"the ratio; {said}. Blank: no ratio does. Bold: the largest of a column."
    )
    before = (
        f"Baseline: top-1 {quality.top1:.2f} % on {quality.images:,} images; a single image is "
        f"{decimal(Fraction(100, quality.images), 4)} points."
    )
    lines = [rule, before]
    if results.baseline.macs is None:
        lines.append("CR-F is not known: the MACs of the network could not be counted.")
    cells = (cell for table in tables for row in table.rows for cell in row.cells)
    if not any(cell is not None for cell in cells):
        lines.append("No ratio of the sweep keeps the drop within any δ asked for.")
    return lines


def _on_paper(results: Results, paper: Published, *, any_beside: bool) -> list[str]:
    """Make the notes on the comparison with the paper."""
    before = ", ".join(
        f"{_MEASURES[measure]} {decimal(value)} %" for measure, value in paper.baseline.items()
    )
    who = f"The paper's {paper.network} on {paper.data}: {before}."
    lines = [f"{who} Bold there: the largest among the paper's."]
    retrained = [epochs for epochs in results.amounts if epochs]
    if retrained and any_beside:
        sweep_epochs = ", ".join(map(str, retrained))
        lines.append(
            f"The paper retrains for {paper.retrain_epochs} epochs; this sweep for {sweep_epochs}."
        )
    if not any_beside:
        amounts = " or ".join(short(Fraction(epochs)) for epochs in results.amounts)
        lines.append(
            "The paper prints nothing legible to set beside these results "
            f"(after {amounts} epochs of retraining, at the δ asked for)."
        )
    return lines + paper.notes


_MEASURES = {"top1": "top-1", "top5": "top-5", "iou": "intersection over union"}
