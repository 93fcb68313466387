"""`alds inspect`."""

from __future__ import annotations

import logging

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.inspect_options import InspectOptions
from alds_cli.options.reporting_options import Reporting

logger = logging.getLogger(__name__)


@verb(InspectOptions, Reporting)
def command(options: InspectOptions, reporting: Reporting) -> None:
    """Show what a model file holds: its layers, or its tensors if the network is not known."""
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.contents import contents_table  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface(reporting)
    found = api.inspect(**arguments(options))
    if isinstance(found, api.Contents):
        logger.warning("%s", found.reason)
        if found.tip is not None:
            logger.warning("to see its layers, %s", found.tip)
        interface.show(contents_table(found))
        interface.show_json(lambda: documents.contents(found))
        return
    interface.show(rendering.inspection(found))
    interface.show_json(lambda: documents.inspection(found))
