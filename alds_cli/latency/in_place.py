"""What layers take within their network, where other layers' weights leave theirs no cache."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import nn

from alds_cli.inputs import InputSpec, example_call
from alds_cli.latency.network_times import LayerLatency
from alds_cli.numerics.fold import pair_params
from alds_cli.records import LayerSpec
from alds_cli.runtime.devices import evaluating
from alds_cli.tracing.trace import floating_type

_ROUNDS = 25
_WARMUP = 5


def times_in_place(
    module: nn.Module,
    inputs: InputSpec,
    names: Iterable[str],
    *,
    batch_size: int = 1,
    device: torch.device,
) -> dict[str, float]:
    """Return the median time of each layer in a forward pass of its network, in nanoseconds.

    Args:
        module: the network; it is left as it was.
        inputs: what it takes.
        names: modules of it; names of what is no module are left out.
        batch_size: samples in a forward pass.
        device: where it runs. Only a CPU's times can be taken apart: on a GPU, nothing is returned.
    """
    if device.type != "cpu":
        return {}
    parts = dict(module.named_modules())
    passes: list[dict[str, int]] = []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        placed = stack.enter_context(evaluating(module, device))
        begun: dict[str, int] = {}
        for name in names:
            if name not in parts:
                continue

            def begin(*_: Any, name: str = name) -> None:
                begun[name] = time.perf_counter_ns()

            def end(*_: Any, name: str = name) -> None:
                passes[-1][name] += time.perf_counter_ns() - begun[name]

            stack.callback(parts[name].register_forward_pre_hook(begin).remove)
            stack.callback(parts[name].register_forward_hook(end).remove)
        call = example_call(
            inputs, dtype=floating_type(placed), device=device, batch_size=batch_size
        )
        for _ in range(_WARMUP + _ROUNDS):
            passes.append(defaultdict(int))
            call(placed)
    kept = passes[_WARMUP:]
    return {name: float(median(own[name] for own in kept)) for name in kept[0]}


def put_in_place(
    latencies: Mapping[str, LayerLatency],
    specs: Mapping[str, LayerSpec],
    in_place: Mapping[str, float],
) -> dict[str, LayerLatency]:
    """Correct times that layers and pairs take alone for what they take in the network.

    A layer that is timed again and again finds its weights in the processor's caches. What it takes
    longer in its network is the fetching of them, and a pair has as much less to fetch as it has
    fewer weights. Pairs are taken at the upper ends of their confidence intervals: of many pairs,
    those that seem fastest are those whose times came out too short.

    Args:
        latencies: the times of layers alone and of pairs, by name.
        specs: the layers.
        in_place: the times of layers in their network; layers that it does not name stay.
    """
    found = dict(latencies)
    for name, times in latencies.items():
        fetching = max(0.0, in_place.get(name, 0.0) - times.dense_ns)
        spec = specs[name]
        found[name] = replace(
            times,
            dense_ns=round(times.dense_ns + fetching),
            pairs={
                choice: round(
                    own
                    + fetching
                    * pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)
                    / spec.weight_params
                )
                for choice, own in (times.at_most or times.pairs).items()
            },
        )
    return found
