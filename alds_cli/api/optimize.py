"""Make a network answer faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.keywords import takes_fields
from alds_cli.options.optimize_options import OptimizeOptions

if TYPE_CHECKING:
    from alds_cli.optimising import OptimizeResult


@takes_fields(OptimizeOptions)
def optimize(options: OptimizeOptions) -> OptimizeResult:
    """Write a network in the form in which it gives the same answers fastest.

    The file holds the plain network and a list of the changes, which `load` makes. So it can still
    be trained and compressed.

    Raises:
        OptionError: what the network takes is not known, or the device is not there.
        VerificationError: the network in the new form computes something else.
        AldsError: the model cannot be read, or the result not be written.
    """
    from alds_cli import optimising  # noqa: PLC0415 - it imports torch

    return optimising.optimize(options)
