"""What carrying a plan out gives."""

from __future__ import annotations

from dataclasses import dataclass

from alds_cli.latency import NetworkComparison
from alds_cli.network.networks import Network
from alds_cli.network.verification import Verification
from alds_cli.records import LayerReport, Tuning


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
