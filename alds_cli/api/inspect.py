"""Look into model files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.declaring import takes_fields
from alds_cli.options.inspect_options import InspectOptions

if TYPE_CHECKING:
    from alds_cli.inspecting.inspection import Contents, Inspection


@takes_fields(InspectOptions)
def inspect(options: InspectOptions) -> Contents | Inspection:
    """Look into a model file, an artefact or not.

    Returns what is inside layer by layer, and what each layer costs before and after; or, where no
    network is named and none is recognised, what the file holds.

    Raises:
        ArchitectureError: times are asked for, but the network is not known.
        OptionError: they are, but what the network takes is not known, or the device is not there.
        AldsError: the model cannot be read.
    """
    from alds_cli.inspecting import inspection  # noqa: PLC0415 - it imports torch

    return inspection.inspect(options)
