"""`alds inspect`."""

from __future__ import annotations

import logging
from dataclasses import replace

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.inspect_options import InspectOptions
from alds_cli.options.reporting_options import ComputingReporting

logger = logging.getLogger(__name__)


@verb(InspectOptions, ComputingReporting)
def command(options: InspectOptions, reporting: ComputingReporting) -> None:
    """Show a model file's layers and what each costs, or its tensors if its network is not known.

    [bold]alds inspect small.pt --time[/]
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents  # noqa: PLC0415
    from alds_cli.cli.contents import contents_table  # noqa: PLC0415
    from alds_cli.cli.inspection_table import inspection  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface(reporting)
    with interface.progress() as progress:
        found = api.inspect(**arguments(replace(options, progress=progress)))
    if isinstance(found, api.Contents):
        logger.warning("%s", found.reason)
        if found.tip is not None:
            logger.warning("to see its layers, %s", found.tip)
        interface.show(contents_table(found))
        interface.show_json(lambda: documents.contents(found))
        return
    interface.show(inspection(found))
    for written in (options.plot, options.html):
        if written is not None:
            interface.remark(f"written to {written}")
    interface.show_json(lambda: documents.inspection(found))
