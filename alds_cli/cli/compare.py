"""`alds compare`."""

from __future__ import annotations

from dataclasses import replace

from alds_cli.cli.verbs import verb
from alds_cli.options.compare_options import CompareOptions
from alds_cli.options.declaring import arguments
from alds_cli.options.reporting_options import ComputingReporting


@verb(CompareOptions, ComputingReporting)
def command(options: CompareOptions, reporting: ComputingReporting) -> None:
    """Compare models with the first: sizes, errors, and on images accuracy and latency.

    [bold]alds compare model.pt a.pt b.pt --data imagefolder:val[/]
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import comparison_table, documents  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface(reporting)
    with interface.progress() as progress:
        found = api.compare(**arguments(replace(options, progress=progress)))
    interface.show(comparison_table.comparison(found))
    interface.show_json(lambda: documents.model_comparison(found))
