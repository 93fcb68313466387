"""Look into model files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.declaring import takes_fields
from alds_cli.options.inspect_options import InspectOptions

if TYPE_CHECKING:
    from alds_cli.network.inspection import Contents, Inspection


@takes_fields(InspectOptions)
def inspect(options: InspectOptions) -> Contents | Inspection:
    """Look into a model file, an artefact or not.

    Returns what is inside layer by layer; or, where no network is named and none is recognised,
    what the file holds.

    Raises:
        AldsError: the model cannot be read.
    """
    from alds_cli.network import inspection  # noqa: PLC0415 - it imports torch

    return inspection.inspect(options)
