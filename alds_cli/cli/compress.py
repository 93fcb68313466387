"""`alds compress`."""

from __future__ import annotations

from dataclasses import replace

from alds_cli.cli.verbs import verb
from alds_cli.options.compress_options import CompressOptions
from alds_cli.options.declaring import arguments
from alds_cli.options.reporting_options import ComputingReporting


@verb(CompressOptions, ComputingReporting)
def command(options: CompressOptions, reporting: ComputingReporting) -> None:
    """Write a smaller network that runs.

    Convolutions, linear layers and embeddings become low-rank pairs where that saves parameters;
    how much each keeps is decided for the whole network at once.

    [bold]alds compress model.pt --ratio 0.5 -o small.pt[/]

    Several budgets hold at the same time; several ratios make a family from one profile:

    [bold]alds compress model.pt --max-size 5MB --max-macs 300M -o small.pt[/]

    [bold]alds compress model.pt --ratio 0.2,0.4,0.6 -o 'small-{ratio}.pt'[/]
    """
    from alds_cli.api.compress import compress_family  # noqa: PLC0415 - it imports torch
    from alds_cli.checkpoint.mapped_files import weights_in_files  # noqa: PLC0415
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.cli.streams import folder_beside, output_name, output_path  # noqa: PLC0415
    from alds_cli.errors import OptionError  # noqa: PLC0415

    output, plan_output = output_name(options.output), output_path(options.plan_output)
    interface = Interface(
        reporting,
        binary_stdout=(output == "-" and not options.dry_run) or plan_output != options.plan_output,
    )
    if output is None and plan_output is None and not options.dry_run:
        raise OptionError("no output is named", tip="-o small.pt, or --dry-run")
    with interface.progress() as progress, weights_in_files(folder_beside(output)):
        changed = replace(
            options,
            output=output,
            plan_output=plan_output,
            dry_run=options.dry_run or output is None,
            progress=progress,
        )
        asked = arguments(changed)
        ratios = asked.pop("ratio")
        results = compress_family(ratios=[None] if ratios is None else ratios, **asked)
    for result in results:
        if options.dry_run or reporting.verbose:
            interface.show(rendering.layer_table(result.report.layers))
    if len(results) > 1:
        interface.show(rendering.family(str(options.model), results))
        interface.remark(rendering.FAMILY_LEGEND)
        interface.show_json(lambda: documents.family(results))
    else:
        interface.show(rendering.compression_summary(str(options.model), results[0]))
        interface.remark(f"time: {rendering.seconds(results[0].report.seconds)}")
        interface.show_json(lambda: documents.compression(results[0]))
    if options.plan is None:  # a given plan had its budgets when it was made
        advised = (rendering.advice(result.report) for result in results)
        if told := next(filter(None, advised), None):
            interface.remark(told)
