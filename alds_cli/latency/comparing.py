"""A compressed network, and its layers, timed against the original's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.inputs import InputSpec
from alds_cli.latency.configurations import Filler, configurations_of
from alds_cli.records import Latency
from alds_cli.runtime.devices import pick_device, ready
from alds_cli.runtime.timing import (
    Paired,
    as_latency,
    in_turns,
    paired,
    time_networks,
)
from alds_cli.surgery import find_layers, layer_at
from alds_cli.tracing.trace import Trace

_ROUNDS = (25, 400)
_SECONDS_PER_LAYER = 0.25


@dataclass(frozen=True, slots=True)
class NetworkComparison:
    """Two networks that took turns; `ratio` is compressed time / original time, by round."""

    original: Latency
    compressed: Latency
    ratio: Paired

    @property
    def saved(self) -> float:
        """The fraction of the original's time that is saved, the median over the rounds."""
        return 1 - self.ratio.median

    def saves(self, share: float) -> bool:
        """Whether that is at least `share` with 95 % confidence."""
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
    """Time two networks in turns; they are left as they were found.

    Args:
        original: the reference.
        compressed: what is compared with it.
        inputs: what they take, or the shape of one sample, e.g. (3, 224, 224).
        batch_size: samples in one forward pass.
        device: where to compute; None is `pick_device()`.
        runs: timed passes of each; None takes as many as go into two seconds a network.
        warmup: passes of each before that, not timed.

    Raises:
        OptionError: a number makes no sense.
        DataError: a network does not take inputs of this shape.
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
    seconds_per_layer: float = _SECONDS_PER_LAYER,
) -> dict[str, Paired]:
    """Those of a compressed network's pairs that are not surely faster than their layers.

    Each pair takes turns with the layer it replaced, on an input of its real shape; pairs
    of the same shape in the place of layers of the same configuration are timed once. A
    pair passes if its median quotient is at most 1 with 95 % confidence. There is no
    tolerance: what was planned with a margin (`tables.MARGIN`) has that left when anybody
    measures again, and a wrong suspicion costs one option among many. It is needed beside
    the margin, since a layer whose turns come so close finds its weights in the
    processor's cache, where among many pairs, as in a network, it does not: pairs near the
    margin have been seen to become slower by up to 9 %.

    Args:
        original: the network before.
        compressed: the network with pairs; both are left as they were found.
        names: layers to look at, decomposed ones.
        trace: a forward pass of `original`. Layers that it did not see called are passed over.
        batch_size: samples in a forward pass.
        device: where to compute; None is `pick_device()`.
        seconds_per_layer: for the turns of one pair, about.

    Returns:
        Pair time / layer time of those that do not pass.
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
        own = configurations_of(layer, specs[name].kind, call, batch_size, device)
        key = (frozenset(own.items()), *(tuple(half.shape) for half in pair.parameters()))
        if key not in known:
            inputs = [filler.tensor(c.input_shape, getattr(torch, c.dtype)) for c in own.elements()]
            known[key] = _side_by_side(layer, pair, inputs, device, seconds_per_layer)
        if known[key].at_most > 1:
            slower[name] = known[key]
    return slower


def _side_by_side(
    layer: nn.Module,
    pair: nn.Module,
    inputs: Sequence[Tensor],
    device: torch.device,
    seconds: float,
) -> Paired:
    """Pair time / layer time, each applied to all inputs in one turn."""
    least, most = _ROUNDS

    def rounds(one: float) -> int:
        return min(most, max(least, int(seconds / max(one, 1e-9))))

    def calls(run: Callable[[Tensor], object]) -> None:
        for tensor in inputs:
            run(tensor)

    with torch.inference_mode(), ready(layer, device) as dense, ready(pair, device) as halves:
        times = in_turns(
            {"layer": partial(calls, dense), "pair": partial(calls, halves)},
            device,
            rounds=rounds,
            warmup=3,
        )
    return paired(times["pair"], times["layer"])
