"""Timing a compressed network, and its layers, against the original."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alds_cli.inputs import InputSpec
from alds_cli.latency.configurations import Filler, configurations_of
from alds_cli.latency.timed_layers import SECONDS_PER_LAYER, time_parts
from alds_cli.records import PLAIN, Inference, Latency
from alds_cli.runtime.devices import (
    Paired,
    as_latency,
    paired,
    pick_device,
    time_networks,
)
from alds_cli.surgery import find_layers, layer_at
from alds_cli.surgery.inference_form import laid_out
from alds_cli.tracing.trace import Trace


@dataclass(frozen=True, slots=True)
class NetworkComparison:
    """The times of two networks that were run in turns.

    `ratio` is compressed time / original time, taken round by round.
    """

    original: Latency
    compressed: Latency
    ratio: Paired

    @property
    def saved(self) -> float:
        """The fraction of the original's time that is saved: the median over the rounds."""
        return 1 - self.ratio.median

    @property
    def surely_saved(self) -> float:
        """The fraction of the original's time that is saved at least, with 95 % confidence."""
        return 1 - self.ratio.at_most

    def saves(self, share: float) -> bool:
        """Return whether at least this share of the time is saved, with 95 % confidence."""
        return self.ratio.at_most <= 1 - share


def compare_latency(
    original: nn.Module,
    compressed: nn.Module,
    inputs: InputSpec | tuple[int, ...],
    *,
    batch_size: int = 1,
    device: torch.device | None = None,
    runs: int | None = None,
    warmup: int = 3,
) -> NetworkComparison:
    """Time two networks in turns and leave both unchanged.

    Args:
        original: the reference.
        compressed: the network that is compared with it.
        inputs: what they take, or the shape of one sample, e.g. (3, 224, 224).
        batch_size: samples in one forward pass.
        device: where to compute; None means `pick_device()`.
        runs: timed forward passes of each network; None means as many as take about two
            seconds for each.
        warmup: untimed forward passes of each network before those.

    Raises:
        OptionError: `batch_size`, `runs` or `warmup` is out of range.
        DataError: a network does not accept inputs of this shape.
    """
    device = device or pick_device()
    times = time_networks(
        {"original": original, "compressed": compressed},
        inputs,
        batch_size=batch_size,
        device=device,
        runs=runs,
        warmup=warmup,
    )
    return NetworkComparison(
        as_latency(times["original"], batch_size, device),
        as_latency(times["compressed"], batch_size, device),
        paired(times["compressed"], times["original"]),
    )


def slower_layers(
    original: nn.Module,
    compressed: nn.Module,
    names: Iterable[str],
    trace: Trace,
    *,
    batch_size: int = 1,
    device: torch.device | None = None,
    seconds_per_layer: float = SECONDS_PER_LAYER,
    form: Inference = PLAIN,
) -> dict[str, Paired]:
    """Find the pairs of a compressed network that may be slower than the layers they replace.

    Each pair is timed in turns with the layer that it replaces, on an input of the real shape.
    Pairs of equal shape that replace layers of equal configuration are timed once. A pair
    passes if the median of pair time / layer time is at most 1 with 95 % confidence. There is
    no tolerance: pairs were planned with a margin (`network_times.MARGIN`), which later
    measurements can use up, and a wrong suspicion costs only one option among many. The margin
    alone is not enough. When one layer and a few pairs are timed in quick succession, the
    layer finds its weights in the processor's cache; among the many layers of a network it
    does not. Pairs near the margin have turned out slower by up to 9 %.

    Args:
        original: the network before compression.
        compressed: the network with pairs. Both networks are left unchanged.
        names: the decomposed layers to check.
        trace: a forward pass of `original`; layers that it does not call are skipped.
        batch_size: samples in a forward pass.
        device: where to compute; None means `pick_device()`.
        seconds_per_layer: approximate time to spend on each pair.
        form: how the weights of convolutions lie while they are timed.

    Returns:
        Pair time / layer time of the pairs that do not pass, by layer name.
    """
    device = device or pick_device()
    specs = find_layers(original, trace)
    filler = Filler(device)
    known: dict[tuple[Any, ...], Paired] = {}
    slower: dict[str, Paired] = {}
    for name in names:
        call = trace.calls.get(name)
        if call is None or not call.shapes:
            continue
        layer, pair = layer_at(original, name), compressed.get_submodule(name)
        configurations = configurations_of(layer, specs[name].kind, call, batch_size, device, form)
        key = (
            frozenset(configurations.items()),
            *(tuple(half.shape) for half in pair.parameters()),
        )
        if key not in known:
            layer, pair = (laid_out(copy.deepcopy(own), form) for own in (layer, pair))
            inputs = [each.inputs(filler) for each in configurations.elements()]
            runs = {"layer": (layer, inputs), "pair": (pair, inputs)}
            times = time_parts(runs, device, seconds_per_layer)
            known[key] = paired(times["pair"], times["layer"])
        if known[key].at_most > 1:
            slower[name] = known[key]
    return slower
