"""The times of all layers of a network, from the cache where they are, measured where not."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import nn

from alds_cli.checkpoint.latencies import LayerTimes, load_latencies, store_latencies
from alds_cli.latency.configurations import Configuration, configurations_of
from alds_cli.latency.measuring import Measure, RealMeasure, measure_layer
from alds_cli.records import (
    Choice,
    LayerSpec,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.runtime.devices import device_name, pick_device
from alds_cli.surgery import layer_at
from alds_cli.tracing.trace import Trace

logger = logging.getLogger(__name__)

MARGIN = 0.03
"""By so much a pair must be faster to be planned with where no layer may become slower. A
repeated measurement of a layer of a tenth of a millisecond differs by 1 to 2 % on a quiet
machine; a pair at the very edge would be slower every other time."""

_SECONDS = 60.0
_LEAST_SECONDS = 0.5

_RESTLESS = 0.3
"""Times of one layer that scatter by so much in one turn are those of a busy machine; on a
quiet one they scatter by 2 to 5 %."""

_ENVIRONMENT = (
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_CONF",
    "MALLOC_TRIM_THRESHOLD_",
)
"""Variables that change how fast the same code runs: waiting threads that sleep instead of
spin double the time of a MobileNetV2."""


@dataclass(frozen=True, slots=True)
class LayerLatency:
    """Times of one layer in one forward pass, all its calls together, in nanoseconds.

    `pairs` holds the choices that were measured, slower ones too. `faster` are those of
    them that are faster by `MARGIN` with 95 % confidence.
    """

    dense_ns: int
    pairs: Mapping[Choice, int]
    faster: frozenset[Choice]


def layer_latencies(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    trace: Trace,
    candidates: Mapping[str, Sequence[Choice]],
    *,
    batch_size: int = 1,
    device: torch.device | None = None,
    cache: bool = True,
    progress: ProgressCallback | None = None,
    seconds: float = _SECONDS,
    measure: Measure | None = None,
    now: Callable[[], float] = time.time,
) -> dict[str, LayerLatency]:
    """Measure layers and what they may become; equal configurations are measured once.

    Args:
        module: the network; only its layers' shapes and dtype are used.
        specs: its layers.
        trace: a forward pass, for the input shapes and the number of calls.
        candidates: what to offer by layer, see `latency_candidates`; a layer with nothing
            on offer is measured as it is.
        batch_size: samples in a forward pass.
        device: where to compute; None is `pick_device()`.
        cache: read and keep times in the user's cache folder.
        progress: told of every configuration finished; its task is `measure`.
        seconds: for all measurements together, about.
        measure: how to measure; None does so on the device.
        now: seconds since 1970.

    Returns:
        Times of the layers in `candidates` that the trace saw called, all calls of a forward
        pass together.
    """
    device = device or pick_device()
    wanted = _configurations(module, specs, trace, candidates, batch_size, device)
    asked: dict[Configuration, dict[Choice, None]] = {}
    for name, configurations in wanted.items():
        for configuration in configurations:
            asked.setdefault(configuration, {}).update(dict.fromkeys(candidates[name]))
    conditions = measuring_conditions(device)
    known = load_latencies(conditions, now=now()) if cache else {}
    missing = {
        own: _unknown(known.get(own.key), choices)
        for own, choices in asked.items()
        if own.key not in known or _unknown(known[own.key], choices)
    }
    start = time.monotonic()
    measure = measure or RealMeasure(device)
    calm: dict[str, LayerTimes] = {}
    scatters: list[float] = []
    for done, (configuration, todo) in enumerate(missing.items(), start=1):
        key = configuration.key
        # What one does not use the others have.
        share = (seconds - (time.monotonic() - start)) / (len(missing) - done + 1)
        share = max(_LEAST_SECONDS, share)
        measured = measure_layer(configuration, todo, measure, seconds=share, now=now)
        known[key] = _joined(known.get(key), measured.times)
        scatters.append(measured.scatter)
        if measured.scatter <= _RESTLESS:
            calm[key] = known[key]
        if progress is not None:
            progress(ProgressEvent("measure", done, len(missing)))
    _warn_if_restless(scatters)
    if cache and calm:
        store_latencies(conditions, calm, now=now())
    return {
        name: _all_calls([(known[c.key], times) for c, times in own.items()], candidates[name])
        for name, own in wanted.items()
    }


def _warn_if_restless(scatters: Sequence[float]) -> None:
    """Say so where the times of more than half of the layers cannot be relied on."""
    if scatters and median(scatters) > _RESTLESS:
        logger.warning(
            "the same layer's time varies by %.0f %% from run to run: the machine is busy with "
            "something else, or has fewer free cores than the %d threads used; these times are "
            "not kept",
            100 * median(scatters),
            torch.get_num_threads(),
        )


def measuring_conditions(device: torch.device) -> dict[str, Any]:
    """What times depend on beside the layer: hardware, software, threads and settings."""
    conditions: dict[str, Any] = {
        "device": device_name(device),
        "kind": device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "precision": torch.get_float32_matmul_precision(),
        "mkldnn": bool(torch.backends.mkldnn.enabled),
    }
    if device.type == "cuda":
        conditions |= {
            "cuda": torch.version.cuda,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        }
    return conditions


def predicted_ns(
    network_ns: float,
    latencies: Mapping[str, LayerLatency],
    choices: Mapping[str, Choice | None],
) -> float:
    """Time of the network after a plan: its measured time and what each layer gains.

    Args:
        network_ns: measured time of the network as it is.
        latencies: of its layers.
        choices: the plan; layers it does not name, or names with None, are kept.

    Raises:
        KeyError: a choice was not measured.
    """
    return network_ns + sum(
        latencies[name].pairs[choice] - latencies[name].dense_ns
        for name, choice in choices.items()
        if choice is not None
    )


def _configurations(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    trace: Trace,
    candidates: Mapping[str, Sequence[Choice]],
    batch_size: int,
    device: torch.device,
) -> dict[str, Counter[Configuration]]:
    return {
        name: configurations_of(
            layer_at(module, name), specs[name].kind, trace.calls[name], batch_size, device
        )
        for name in candidates
        if name in trace.calls and trace.calls[name].shapes
    }


def _unknown(known: LayerTimes | None, asked: Iterable[Choice]) -> list[Choice]:
    return [choice for choice in asked if known is None or choice not in known.pairs]


def _joined(old: LayerTimes | None, new: LayerTimes) -> LayerTimes:
    """Fractions of the layer's own time may stand beside each other, whenever measured."""
    if old is None:
        return new
    # The oldest decides when all of it is measured again.
    return replace(new, pairs={**old.pairs, **new.pairs}, measured=old.measured)


def _all_calls(parts: Sequence[tuple[LayerTimes, int]], offered: Sequence[Choice]) -> LayerLatency:
    """Add up the calls: each configuration of a layer with the number of its calls."""
    dense = sum(times.dense_ns * calls for times, calls in parts)
    pairs: dict[Choice, int] = {}
    faster: set[Choice] = set()
    for choice in offered:
        own = [(times.pairs[choice], times.dense_ns * calls) for times, calls in parts]
        known = [(pair, ns) for pair, ns in own if pair is not None]
        if len(known) == len(own):
            pairs[choice] = round(sum(pair.median * ns for pair, ns in known))
            if sum(pair.at_most * ns for pair, ns in known) <= (1 - MARGIN) * dense:
                faster.add(choice)
    return LayerLatency(round(dense), pairs, frozenset(faster))
