"""`alds sweep`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.reporting_options import ComputingReporting
from alds_cli.options.sweep_options import SweepOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from alds_cli.records import SweepRecord
    from alds_cli.sweeping.runner import SweepResult


@verb(SweepOptions, ComputingReporting)
def command(options: SweepOptions, reporting: ComputingReporting) -> None:
    """Compare methods: compress with each at every ratio, retrain, evaluate.

    [bold]alds sweep model.pt --data imagefolder:val --methods alds,svd -o runs/model[/]

    Every finished run is a small file in the folder. The same command continues
    after an interruption; methods, ratios, repeats and amounts of retraining can
    be added to a folder; several processes with this command share the work.

    [bold]alds report runs/model[/] makes tables and curves from the runs.
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.cli.sweep_display import watching  # noqa: PLC0415

    interface = Interface(reporting)
    with watching(interface, Path(options.output)) as (watcher, progress):
        result = api.sweep(**arguments(replace(options, watcher=watcher, progress=progress)))
    interface.show(_summary(result))
    interface.remark(f"tables and curves: alds report {result.folder}")
    interface.show_json(lambda: documents.sweep(result))


def _summary(result: SweepResult) -> RenderableType:
    """Show the results, method by method, beside the original's."""
    from rich.console import Group  # noqa: PLC0415 - slow to import

    from alds_cli.cli.interface import line, table  # noqa: PLC0415

    base = result.baseline
    made = table(
        f"{base.model} ({base.architecture}) → {result.folder}",
        "method",
        "runs",
        "out of reach",
        "largest ratio",
        _top1_heading(result.records),
    )
    for method in dict.fromkeys(record.method for record in result.records):
        made.add_row(method, *_cells([run for run in result.records if run.method == method]))
    total = len(result.records)
    origin = f"{result.made:,} made now, {total - result.made:,} found"
    lines = (
        f"{total:,} runs: {origin}; {result.unreachable:,} out of reach",
        f"top-1 of the original: {base.quality.top1:.2f} % on {base.quality.images:,} images",
    )
    return Group(made, *(line(text) for text in lines))


def _top1_heading(records: Sequence[SweepRecord]) -> str:
    """Return the heading of the accuracy, which is that after the longest retraining."""
    most = max(record.retrain_epochs for record in records)
    return f"its top-1 after retraining ({most})" if most else "its top-1"


def _cells(records: Sequence[SweepRecord]) -> list[str]:
    """Return the cells of one method."""
    from fractions import Fraction  # noqa: PLC0415

    reached = [run for run in records if run.reached and run.quality is not None]
    unreachable = len(records) - len(reached)
    if not reached:
        return [str(len(records)), str(unreachable), "–", "–"]
    last = max(reached, key=lambda run: (Fraction(run.ratio), run.retrain_epochs))
    alike = [
        run.quality.top1
        for run in reached
        if run.quality and (run.ratio, run.retrain_epochs) == (last.ratio, last.retrain_epochs)
    ]
    top1 = f"{sum(alike) / len(alike):.2f} %"
    return [str(len(records)), str(unreachable), f"{float(Fraction(last.ratio)):g}", top1]
