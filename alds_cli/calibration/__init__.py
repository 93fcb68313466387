"""Statistics of a network's activations on a sample of images."""

from alds_cli.calibration.observing import (
    Call,
    Observer,
    calibration_batches,
    observe,
)
from alds_cli.calibration.responses import (
    Responses,
    gather_responses,
    keep_unobserved,
    response_energies,
)
from alds_cli.calibration.sensitivities import channel_sensitivities

__all__ = [
    "Call",
    "Observer",
    "Responses",
    "calibration_batches",
    "channel_sensitivities",
    "gather_responses",
    "keep_unobserved",
    "observe",
    "response_energies",
]
