"""`alds train`."""

from __future__ import annotations

from dataclasses import replace

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.reporting_options import ComputingReporting
from alds_cli.options.train_options import TrainOptions


@verb(TrainOptions, ComputingReporting, purpose="train")
def command(options: TrainOptions, reporting: ComputingReporting) -> None:
    """Train a network from random weights.

    The state after every epoch is kept beside the output until the run is done, so that
    [bold]--resume[/] can continue after an interruption. Equal seeds and equal numbers of
    threads give equal weights.
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering, training_tables  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.cli.streams import output_name  # noqa: PLC0415

    output = str(output_name(options.output))
    interface = Interface(reporting, binary_stdout=output == "-")
    with interface.progress() as progress:
        result = api.train(**arguments(replace(options, output=output, progress=progress)))
    interface.show(training_tables.history(result.history))
    places = f"{result.network.architecture} → {rendering.place(output, 'output')}"
    interface.remark(f"{places} in {result.seconds:.1f} s")
    if result.kept < len(result.history):
        interface.remark(f"epoch {result.kept} judged best and is what was written")
    interface.show_json(lambda: documents.retraining(result))
