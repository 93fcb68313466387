"""The times of all layers of a network, read from the cache or measured."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import nn

from alds_cli.checkpoint.latencies import LayerTimes, load_latencies, store_latencies
from alds_cli.latency.configurations import Configuration, configurations_of
from alds_cli.latency.measuring import Measure, RealMeasure, measure_layer
from alds_cli.records import (
    PLAIN,
    Choice,
    Inference,
    LayerSpec,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.runtime.devices import device_name, pick_device
from alds_cli.surgery import layer_at
from alds_cli.tracing.trace import Trace

logger = logging.getLogger(__name__)

MARGIN = 0.03
"""The fraction of a layer's time that a pair must save to be planned where no layer may become
slower. Repeated measurements of a layer that takes a tenth of a millisecond differ by 1 to 2 %
on a quiet machine, so a pair without any margin would turn out slower every other time."""

_SECONDS = 60.0
_LEAST_SECONDS = 0.5

_RESTLESS = 0.3
"""The scatter of one layer's times in a turn above which the machine is taken to be busy; on a
quiet machine the scatter is 0.02 to 0.05."""

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
"""Environment variables that change how fast the same code runs. For example, a MobileNetV2
takes twice as long if waiting threads sleep instead of spinning."""


@dataclass(frozen=True, slots=True)
class LayerLatency:
    """Times of one layer in one forward pass, summed over its calls, in nanoseconds.

    `pairs` holds all choices that were measured, including slower ones, and `at_most` what their
    medians are below with 95 % confidence. `faster` holds those that are faster by `MARGIN` with
    that confidence.
    """

    dense_ns: int
    pairs: dict[Choice, int]
    faster: frozenset[Choice]
    at_most: Mapping[Choice, int] = field(default_factory=dict)


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
    form: Inference = PLAIN,
) -> dict[str, LayerLatency]:
    """Measure layers and their candidate pairs; equal configurations are measured once.

    Args:
        module: the network; only the shapes and dtypes of its layers are used.
        specs: its layers.
        trace: a forward pass, for the input shapes and the number of calls.
        candidates: the choices to measure for each layer, see `latency_candidates`; a layer
            without any is measured alone.
        batch_size: samples in a forward pass.
        device: where to compute; None means `pick_device()`.
        cache: whether to read times from the user's cache folder and to store them there.
        progress: called after each configuration, with the task `measure`.
        seconds: approximate time for all measurements together.
        measure: how to measure; None measures on the device.
        now: returns seconds since 1970.
        form: how the weights of convolutions lie.

    Returns:
        The times of the layers in `candidates` that the trace calls, by name, each summed over
        the calls of one forward pass.
    """
    device = device or pick_device()
    wanted = _configurations(module, specs, trace, candidates, batch_size, device, form)
    asked: dict[Configuration, dict[Choice, None]] = {}
    for name, configurations in wanted.items():
        for configuration in configurations:
            asked.setdefault(configuration, {}).update(dict.fromkeys(candidates[name]))
    conditions = measuring_conditions(device)
    known = load_latencies(conditions, now=now()) if cache else {}
    missing = {
        configuration: _unknown(known.get(configuration.key), choices)
        for configuration, choices in asked.items()
        if configuration.key not in known or _unknown(known[configuration.key], choices)
    }
    start = time.monotonic()
    measure = measure or RealMeasure(device)
    calm: dict[str, LayerTimes] = {}
    scatters: list[float] = []
    for done, (configuration, todo) in enumerate(missing.items(), start=1):
        key = configuration.key
        # Time that one configuration does not use is shared among those that remain.
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
        name: _all_calls([(known[c.key], calls) for c, calls in counts.items()], candidates[name])
        for name, counts in wanted.items()
    }


def _warn_if_restless(scatters: Sequence[float]) -> None:
    """Warn if the times of half of the layers or more are unreliable."""
    if scatters and median(scatters) > _RESTLESS:
        logger.warning(
            "the same layer's time varies by %.0f %% from run to run: the machine is busy with "
            "something else, or has fewer free cores than the %d threads used; these times are "
            "not kept",
            100 * median(scatters),
            torch.get_num_threads(),
        )


def measuring_conditions(device: torch.device) -> dict[str, Any]:
    """Describe what times depend on besides the layer: hardware, software, threads, settings."""
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
    """Predict the time of the network under a plan, in nanoseconds.

    Args:
        network_ns: measured time of the original network.
        latencies: the times of its layers.
        choices: the plan; a layer that it does not name, or names with None, is kept.

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
    form: Inference,
) -> dict[str, Counter[Configuration]]:
    """Count the configurations in which the trace calls each candidate layer, by name."""
    return {
        name: configurations_of(
            layer_at(module, name), specs[name].kind, trace.calls[name], batch_size, device, form
        )
        for name in candidates
        if name in trace.calls and trace.calls[name].shapes
    }


def _unknown(known: LayerTimes | None, asked: Iterable[Choice]) -> list[Choice]:
    """List the choices whose times are not known yet."""
    return [choice for choice in asked if known is None or choice not in known.pairs]


def _joined(old: LayerTimes | None, new: LayerTimes) -> LayerTimes:
    """Join earlier and later times: fractions of the layer's own time stay comparable."""
    if old is None:
        return new
    # The oldest measurement decides when all of them expire.
    return replace(new, pairs={**old.pairs, **new.pairs}, measured=old.measured)


def _all_calls(parts: Sequence[tuple[LayerTimes, int]], offered: Sequence[Choice]) -> LayerLatency:
    """Add up the times over (times of a configuration, number of its calls)."""
    dense = sum(times.dense_ns * calls for times, calls in parts)
    pairs: dict[Choice, int] = {}
    at_most: dict[Choice, int] = {}
    faster: set[Choice] = set()
    for choice in offered:
        by_configuration = [(times.pairs[choice], times.dense_ns * calls) for times, calls in parts]
        known = [(pair, ns) for pair, ns in by_configuration if pair is not None]
        if len(known) == len(by_configuration):
            pairs[choice] = round(sum(pair.median * ns for pair, ns in known))
            at_most[choice] = round(sum(pair.at_most * ns for pair, ns in known))
            if at_most[choice] <= (1 - MARGIN) * dense:
                faster.add(choice)
    return LayerLatency(round(dense), pairs, frozenset(faster), at_most)
