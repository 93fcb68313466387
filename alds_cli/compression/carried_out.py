"""What carrying a plan out gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alds_cli.latency import NetworkComparison
from alds_cli.network.networks import Network
from alds_cli.network.verification import Verification
from alds_cli.records import LayerReport, Plan, Refit, Tuning
from alds_cli.runtime.devices import Clock

if TYPE_CHECKING:
    from alds_cli.compression.refitting import Refitter
    from alds_cli.compression.tuning import Tuner


@dataclass(frozen=True, slots=True)
class Made:
    """A compressed network, the reports on its layers, and its MACs."""

    network: Network
    layers: list[LayerReport]
    macs: int | None


@dataclass(frozen=True, slots=True)
class CarriedOut:
    """A verified network that holds the contract; `nbytes` and `times` only where limited."""

    network: Network
    layers: list[LayerReport]
    macs: int | None
    params: int
    nbytes: int | None
    times: NetworkComparison | None
    verification: Verification
    tuning: Tuning | None
    refit: Refit | None


def improved(
    made: Made, plan: Plan, refitter: Refitter | None, tuner: Tuner | None, clock: Clock
) -> tuple[Made, Refit | None, Tuning | None]:
    """Fit pairs again and tune them where that is asked for; the network's costs stay as they are.

    Args:
        made: the network with pairs, which is changed in place.
        plan: its plan.
        refitter: fits them again; None leaves it out.
        tuner: tunes the network; None leaves it out.
        clock: measures the stages.
    """
    refit: Refit | None = None
    tuning: Tuning | None = None
    module, layers = made.network.module, made.layers
    if refitter is not None and plan.decomposed:
        with clock("refit"):
            refit, layers = refitter.refit(module, plan, layers)
    if tuner is not None and plan.decomposed:
        with clock("tune"):
            tuning = tuner.tune(module, plan)
            layers = tuner.reports(module, layers) if tuning.best_step else layers
    return replace(made, layers=layers), refit, tuning
