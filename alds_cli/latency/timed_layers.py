"""Timing the layers of a network beside those that they replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.latency.configurations import Filler
from alds_cli.records import FloatArray, ProgressCallback, ProgressEvent
from alds_cli.runtime.devices import computing_dtype, in_turns, ready
from alds_cli.surgery import layer_at
from alds_cli.tracing.trace import Trace, floating_type

_ROUNDS = (25, 400)
"""The least and the greatest number of rounds in which parts take turns."""

SECONDS_PER_LAYER = 0.25
"""The approximate time to spend on a layer and what replaced it."""

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Medians of the time of a layer in a forward pass, over all of its calls, in milliseconds.

    Of a layer that is what it was, both are one measurement.
    """

    before_ms: float
    after_ms: float


@dataclass(frozen=True, slots=True)
class Timed:
    """A network whose layers are timed, its forward pass, and whether it runs channels-last."""

    module: nn.Module
    trace: Trace
    channels_last: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """What stands in the place of a layer, the shapes that it is applied to, and their layout."""

    module: nn.Module
    shapes: Shapes
    channels_last: bool

    @property
    def key(self) -> tuple[object, ...]:
        """What its time depends on."""
        return str(self.module), floating_type(self.module), self.shapes, self.channels_last

    def inputs(self, filler: Filler, device: torch.device) -> list[Tensor]:
        """Return a random input for each call."""
        dtype = computing_dtype(floating_type(self.module), device)
        return [
            filler.tensor(shape, dtype, channels_last=self.channels_last) for shape in self.shapes
        ]


def layer_times(
    before: Timed,
    after: Timed,
    names: Iterable[str],
    *,
    batch_size: int = 1,
    device: torch.device,
    seconds_per_layer: float = SECONDS_PER_LAYER,
    progress: ProgressCallback | None = None,
) -> dict[str, LayerTime]:
    """Time what stands in the place of layers in two networks, in turns, on inputs of real shapes.

    Each layer is timed alone, with random inputs, so that the sum over all layers is not the time
    of the network. Layers that are alike in both networks are timed once.

    Args:
        before: the original network.
        after: the network that was made from it. Both are left unchanged.
        names: the layers.
        batch_size: samples in a forward pass.
        device: where to compute.
        seconds_per_layer: approximate time to spend on each.
        progress: called after each layer, with the task `time`.

    Returns:
        The times by name; layers that the original does not call are left out.
    """
    filler = Filler(device)
    found: dict[str, LayerTime] = {}
    known: dict[tuple[object, ...], LayerTime] = {}
    called = [name for name in names if _shapes(before.trace, name)]
    for done, name in enumerate(called, start=1):
        parts = _parts(before, after, name, batch_size)
        key = tuple(part.key for part in parts)
        if key not in known:
            known[key] = _timed(*parts, filler, device, seconds_per_layer)
        found[name] = known[key]
        if progress is not None:
            progress(ProgressEvent("time", done, len(called)))
    return found


def _parts(before: Timed, after: Timed, name: str, batch_size: int) -> tuple[_Part, _Part]:
    """Return a layer in both networks."""
    given = _shapes(before.trace, name)
    # A pair is not traced itself; it takes what its layer took.
    shapes = given, _shapes(after.trace, name) or given
    old, new = (
        _Part(
            layer_at(own.module, name),
            tuple((shape[0] * batch_size, *shape[1:]) for shape in each),
            own.channels_last,
        )
        for own, each in zip((before, after), shapes, strict=True)
    )
    return old, new


def _shapes(trace: Trace, name: str) -> Shapes:
    """Return the shapes of the tensors that a layer is applied to in a forward pass."""
    return tuple(given for given, _ in trace.calls[name].shapes) if name in trace.calls else ()


def _timed(
    old: _Part, new: _Part, filler: Filler, device: torch.device, seconds: float
) -> LayerTime:
    parts = {"before": old} if old.key == new.key else {"before": old, "after": new}
    runs = {place: (part.module, part.inputs(filler, device)) for place, part in parts.items()}
    times = time_parts(runs, device, seconds)
    medians = [1e3 * float(np.median(own)) for own in times.values()]
    return LayerTime(medians[0], medians[-1])


def time_parts(
    parts: Mapping[str, tuple[nn.Module, Sequence[Tensor]]], device: torch.device, seconds: float
) -> dict[str, FloatArray]:
    """Return the seconds of parts of networks in each round, in turns.

    Args:
        parts: modules by name, each with the inputs to which one turn applies it.
        device: where to compute.
        seconds: the approximate time to spend.
    """
    least, most = _ROUNDS

    def rounds(one: float) -> int:
        return min(most, max(least, int(seconds / max(one, 1e-9))))

    def calls(run: Callable[[Tensor], Any], inputs: Sequence[Tensor]) -> None:
        for tensor in inputs:
            run(tensor)

    with torch.inference_mode(), ExitStack() as stack:
        runs = {
            name: partial(calls, stack.enter_context(ready(module, device)), inputs)
            for name, (module, inputs) in parts.items()
        }
        return in_turns(runs, device, rounds=rounds, warmup=3)
