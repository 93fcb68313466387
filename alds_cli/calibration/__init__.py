"""Statistics of a network's activations on a sample of images."""

from alds_cli.calibration.observing import (
    Call,
    Observer,
    calibration_batches,
    draw_sample,
    observe,
)
from alds_cli.calibration.responses import (
    RESPONSES,
    Responses,
    gather_responses,
    response_energies,
)
from alds_cli.calibration.sensitivities import SENSITIVITIES, channel_sensitivities
from alds_cli.calibration.statistic import Statistic, keep_unobserved

__all__ = [
    "RESPONSES",
    "SENSITIVITIES",
    "Call",
    "Observer",
    "Responses",
    "Statistic",
    "calibration_batches",
    "channel_sensitivities",
    "draw_sample",
    "gather_responses",
    "keep_unobserved",
    "observe",
    "response_energies",
]
