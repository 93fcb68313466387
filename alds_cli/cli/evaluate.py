"""`alds evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.evaluate_options import EvaluateOptions, GateReporting

if TYPE_CHECKING:
    from alds_cli.api import EvaluationResult
    from alds_cli.cli.interface import Interface


@verb(EvaluateOptions, GateReporting)
def command(options: EvaluateOptions, reporting: GateReporting) -> None:
    """Measure accuracy, size, MACs and latency; exit with 1 where a bound is not kept.

    [bold]alds evaluate small.pt --data imagefolder:val --baseline model.pt --max-drop 0.5[/]
    """
    import time  # noqa: PLC0415 - only here

    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, evaluation_table  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.errors import OptionError  # noqa: PLC0415

    if options.model == options.baseline == "-":
        raise OptionError("only one model can come from standard input")
    _require_reportable(options, reporting)
    interface = Interface(reporting)
    junit = _junit_file(options, reporting)
    start = time.perf_counter()
    with interface.progress() as progress:
        # An artefact states its network, so the options on the model are meant for the original.
        asked = replace(options, baseline_source=options.source, progress=progress)
        result = api.evaluate(**arguments(asked))
    interface.show(evaluation_table.evaluation(result))
    interface.show_json(lambda: documents.evaluation(result))
    if result.gates:
        seconds = time.perf_counter() - start
        _report(interface, str(options.model), reporting.format, junit, result, seconds)


def _require_reportable(options: EvaluateOptions, reporting: GateReporting) -> None:
    """Refuse forms of reports that do not exist, or that would stay empty.

    Raises:
        OptionError: the format contradicts another option, there is no gate, or reports would be
            mixed on standard output.
    """
    from alds_cli.cli.streams import output_name  # noqa: PLC0415
    from alds_cli.errors import OptionError  # noqa: PLC0415

    if reporting.json and reporting.format != "table":
        raise OptionError(f"--json and --format {reporting.format} contradict each other")
    if output_name(reporting.junit) == "-":
        raise OptionError(
            "the report and the tables cannot both go to standard output", tip="--junit FILE"
        )
    if not options.bounded and (reporting.format != "table" or reporting.junit is not None):
        raise OptionError(
            "there is no gate to report",
            tip="set a bound: --max-drop, --max-loss-rise, --max-size, --max-params, --max-macs or "
            "--max-latency",
        )


def _junit_file(options: EvaluateOptions, reporting: GateReporting) -> Path | None:
    """Return where the report goes, after making sure that it can be written there.

    Raises:
        OutputError: it cannot, or would replace what the evaluation begins with.
    """
    from alds_cli.checkpoint import require_apart, require_writable  # noqa: PLC0415 - for torch
    from alds_cli.cli.app import follows  # noqa: PLC0415
    from alds_cli.datasets.sources import tensor_files  # noqa: PLC0415

    path = reporting.junit
    if path is None or follows():
        return None
    require_writable(path)
    read = [options.model, options.baseline, options.classes]
    files = [own for own in read if isinstance(own, (str, Path)) and own != "-"]
    require_apart([path], [*files, *tensor_files(options.data)])
    return path


def _report(
    interface: Interface,
    model: str,
    form: str,
    junit: Path | None,
    result: EvaluationResult,
    seconds: float,
) -> None:
    """Report every gate in all forms that were asked for, then raise where one has failed.

    Raises:
        GateError: a gate has failed.
        OutputError: the report cannot be written.
    """
    from alds_cli.checkpoint import replacing  # noqa: PLC0415 - for torch
    from alds_cli.cli import gate_formats, gate_reports  # noqa: PLC0415

    interface.show(gate_reports.gate_table(result.gates))
    if form == "github":
        interface.write(gate_formats.github_annotations(result.gates, model))
    if junit is not None:
        facts = {"images": str(result.images), "device": result.device}
        with replacing(junit) as temporary:
            temporary.write_bytes(gate_formats.junit(result.gates, model, facts, seconds))
    gate_reports.require_passed(result.gates)
