"""`alds evaluate`."""

from __future__ import annotations

from dataclasses import replace

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.evaluate_options import EvaluateOptions
from alds_cli.options.reporting_options import ComputingReporting


@verb(EvaluateOptions, ComputingReporting)
def command(options: EvaluateOptions, reporting: ComputingReporting) -> None:
    """Measure accuracy, size, MACs and latency; exit with 1 where a bound is not kept.

    [bold]alds evaluate small.pt --data imagefolder:val --baseline model.pt --max-drop 0.5[/]
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, evaluation_table, gate_reports  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.errors import OptionError  # noqa: PLC0415

    if options.model == options.baseline == "-":
        raise OptionError("only one model can come from standard input")
    interface = Interface(reporting)
    with interface.progress() as progress:
        # An artefact states its network, so the options on the model are meant for the original.
        asked = replace(options, baseline_source=options.source, progress=progress)
        result = api.evaluate(**arguments(asked))
    interface.show(evaluation_table.evaluation(result))
    if result.gates:
        interface.show(gate_reports.gate_table(result.gates))
    interface.show_json(lambda: documents.evaluation(result))
    gate_reports.require_passed(result.gates)
