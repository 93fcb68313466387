"""Running times of layers and of their pairs on a device, and comparisons of whole networks."""

from alds_cli.latency.candidates import latency_candidates
from alds_cli.latency.comparing import NetworkComparison, compare_latency, slower_layers
from alds_cli.latency.network_times import (
    MARGIN,
    LayerLatency,
    layer_latencies,
    measuring_conditions,
    predicted_ns,
)
from alds_cli.latency.timed_layers import LayerTime, Timed, layer_times

__all__ = [
    "MARGIN",
    "LayerLatency",
    "LayerTime",
    "NetworkComparison",
    "Timed",
    "compare_latency",
    "latency_candidates",
    "layer_latencies",
    "layer_times",
    "measuring_conditions",
    "predicted_ns",
    "slower_layers",
]
