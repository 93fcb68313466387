"""Look into model files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.inspect_options import InspectOptions
from alds_cli.options.keywords import takes_fields

if TYPE_CHECKING:
    from alds_cli.inspecting.inspection import Contents, Inspection


@takes_fields(InspectOptions)
def inspect(options: InspectOptions) -> Contents | Inspection:
    """Look into a model file, an artefact or not.

    Returns what is inside layer by layer, and what each layer costs before and after; or, where no
    network is named and none is recognised, what the file holds.

    Raises:
        ArchitectureError: times or files are asked for, but the network is not known.
        OptionError: times are, but what it takes is not known, or the device is not there.
        OutputError: a file cannot be written.
        AldsError: the model cannot be read.
    """
    from alds_cli.inspecting import inspection  # noqa: PLC0415 - it imports torch

    if not options.writes:
        return inspection.inspect(options)
    from alds_cli.reporting import inspection_files  # noqa: PLC0415 - slow to import

    return inspection_files.inspect_and_write(options)
