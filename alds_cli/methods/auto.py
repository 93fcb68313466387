"""No method of its own: the best of several on images that none of them has seen."""

from __future__ import annotations

from alds_cli.calibration.fisher_traces import FISHER_TRACES
from alds_cli.calibration.input_moments import INPUT_MOMENTS
from alds_cli.methods.method import ALDS_PAPER, Method

METHOD = Method(
    "alds-fisher, alds-data and alds; whichever changes the answers least on images held back",
    f"{ALDS_PAPER}, for what it compares",
    None,
    needs=(INPUT_MOMENTS, FISHER_TRACES),
    candidates=("alds-fisher", "alds-data", "alds"),
)
