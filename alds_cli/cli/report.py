"""`alds report`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.report_options import ReportOptions
from alds_cli.options.reporting_options import Reporting


@verb(ReportOptions, Reporting)
def command(options: ReportOptions, reporting: Reporting) -> None:
    """Tell what a sweep found: the largest ratios within a drop in accuracy, and the curves.

    [bold]alds report runs/resnet20 --paper cifar10-resnet20[/]
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, report_tables  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface(reporting)
    output = Path(options.folder) / "report" if options.output is None else options.output
    with interface.progress() as progress:
        result = api.report(**arguments(replace(options, output=output, progress=progress)))
    for part in report_tables.shown(result.report, interface.results):
        interface.show(part)
    written = [own for own in result.files if own != str(options.html)]
    interface.remark(f"written to {Path(written[0]).parent}: {len(written)} files")
    if options.html is not None:
        interface.remark(f"written to {options.html}")
    interface.show_json(lambda: documents.report(result))
