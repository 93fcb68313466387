"""`alds iterate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.iterate_options import IterateOptions
from alds_cli.options.reporting_options import ComputingReporting
from alds_cli.text import per_cent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alds_cli.cli.interface import Rows
    from alds_cli.records import IterationStage, ProgressCallback, ProgressEvent


@verb(IterateOptions, ComputingReporting)
def command(options: IterateOptions, reporting: ComputingReporting) -> None:
    """Compress and retrain in turns, a little more in every step.

    [bold]alds iterate model.pt --steps 5 --to 0.8 --epochs-per-step 3 --data … -o small.pt[/]

    Before every further step the pairs are multiplied back, and the network is compressed
    anew from its dense form. Every finished step is kept in a folder beside the output, and
    [bold]--resume[/] goes on after an interruption, with the same result.
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface(reporting)

    def told(stage: IterationStage) -> None:
        interface.say(_line(stage, options.steps))

    try:
        with interface.progress() as progress:
            asked = replace(options, watcher=told, progress=_of_any_step(progress))
            result = api.iterate(**arguments(asked))
    except KeyboardInterrupt:
        folder = Path(f"{options.output}.iterate")
        if folder.is_dir():
            interface.say(f"interrupted: finished steps are kept in {folder}; --resume goes on")
        raise
    interface.show(_stages(result.stages))
    source = rendering.place(str(options.model), "input")
    interface.remark(f"{source} → {result.output} in {result.seconds:.1f} s")
    interface.show_json(lambda: documents.iteration(result))


def _of_any_step(progress: ProgressCallback | None) -> ProgressCallback | None:
    """Let one bar show a part of every step: a terminal has too few lines for a bar each."""
    if progress is None:
        return None

    def told(event: ProgressEvent) -> None:
        progress(replace(event, task=event.task.partition(" ")[2]))

    return told


def _line(stage: IterationStage, steps: int) -> str:
    """Say in a line what a step did."""
    last, seconds = stage.trained, sum(stage.seconds.values())
    return (
        f"[{stage.step}/{steps}] {100 * stage.left:.2f} % of the parameters left; loss "
        f"{last.loss:.4f}, accuracy {per_cent(last.accuracy)} in {seconds:.1f} s"
    )


def _stages(stages: Sequence[IterationStage]) -> Rows:
    """Show all steps, each beside the original."""
    from alds_cli.cli.interface import table  # noqa: PLC0415 - slow to import

    made = table(
        None, "step", "parameters", "left", "MACs left", "largest error", "loss", "accuracy"
    )
    for stage in stages:
        before, after = stage.macs_before, stage.macs_after
        error, last = stage.max_relative_error, stage.trained
        made.add_row(
            str(stage.step),
            f"{stage.params_after:,}",
            f"{100 * stage.left:.2f} %",
            f"{100 * after / before:.2f} %" if before and after is not None else "–",
            "–" if error is None else f"{error:.4f}",
            f"{last.loss:.4f}",
            per_cent(last.accuracy),
        )
    return made
