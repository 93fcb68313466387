"""The form in which a network answers fastest on a device, found by measuring."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.errors import AldsError
from alds_cli.inputs import InputSpec, example_call
from alds_cli.latency.configurations import Filler
from alds_cli.network.networks import Network
from alds_cli.records import FloatArray, Inference, Latency, ProgressCallback, ProgressEvent
from alds_cli.runtime.devices import (
    Paired,
    as_latency,
    evaluating,
    in_turns,
    paired,
    time_networks,
)
from alds_cli.surgery.inference_form import (
    can_vary,
    foldable_norms,
    groups_of_half,
    laid_out,
    merged,
    multiplied,
    padded,
    put_into_inference_form,
)
from alds_cli.tracing.trace import floating_type

_ROUNDS = (7, 25)
"""The least and the greatest number of rounds in which the ways to run a pair take turns."""

_SECONDS_PER_PAIR = 0.3

_GAIN = 0.95
"""A pair is run in another way only if that takes at most this part of the time."""

_MOST_WEIGHTS = 1 << 24
"""The most weights, zeros included, that a half of merged groups may have."""

_MULTIPLES = (4, 8, 16, 32)
"""The ranks that suit processors are multiples of their vectors."""

_Way = tuple[Literal["as it is", "merged", "padded", "multiplied"], int]
"""A way to run a pair: how many groups of its first half are one, or the rank of its slices."""

_PLAIN: _Way = ("as it is", 1)


@dataclass(frozen=True, slots=True)
class FastestForm:
    """The form that was found, and the times of the network as it was and in this form.

    `ratio` is the second time over the first, round by round.
    """

    inference: Inference
    before: Latency
    after: Latency
    ratio: Paired

    @property
    def saved(self) -> float:
        """The fraction of the time that is saved: the median over the rounds."""
        return 1 - self.ratio.median


def fastest_form(
    network: nn.Module,
    inputs: InputSpec,
    *,
    pairs: Collection[str] = (),
    batch_size: int = 1,
    device: torch.device,
    progress: ProgressCallback | None = None,
) -> FastestForm:
    """Find the fastest of the forms that compute the same.

    Normalisations are folded wherever that is exact. Then the network's forms are timed in turns:
    as it is, folded, with weights channels-last, with weights packed, with its pairs in the ways
    in which each of them alone is fastest, and with all of them as the layers that they stand for,
    so that a network with pairs is no slower than the one without. Where pairs run in other ways
    than before, another layout may be the fastest, so that all are timed again.

    Args:
        network: it is not changed.
        inputs: what it takes.
        pairs: the names of the layers that are pairs.
        batch_size: samples in a forward pass.
        device: where it is to run.
        progress: called with the task `time`, counting pairs.

    Raises:
        DataError: the network does not take inputs of this shape.
        OptionError: the batch is too large.
    """
    search = _Search(network, inputs, batch_size, device, progress or (lambda _: None))
    plain = Inference(foldable_norms(network))
    layouts = {"as it is": Inference(), "folded": plain}
    if search.runs_channels_last():
        layouts["channels-last"] = replace(plain, channels_last=True)
        layouts["packed"] = replace(plain, channels_last=True, packed=True)
    forms = layouts
    best, times = search.fastest(forms)
    if varying := search.varying(pairs):
        varied = {
            "pairs as layers": replace(forms[best], multiplied=varying),
            "pairs in other ways": search.varied(forms[best], varying),
        }
        distinct = {name: form for name, form in varied.items() if form != forms[best]}
        forms = {"as it is": Inference(), best: forms[best]} | distinct
        best, times = search.fastest(forms)
        if best in distinct:
            forms = {"as it is": Inference()} | {
                name: _with_ways_of(forms[best], layout)
                for name, layout in layouts.items()
                if name != "as it is"
            }
            best, times = search.fastest(forms)
    before, after = times["as it is"], times[best]
    return FastestForm(
        forms[best],
        as_latency(before, batch_size, device),
        as_latency(after, batch_size, device),
        paired(after, before),
    )


def _with_ways_of(form: Inference, layout: Inference) -> Inference:
    """Return a layout in which pairs run in the ways of another form."""
    ways = {name: getattr(form, name) for name in ("merged", "padded", "multiplied")}
    return replace(layout, **ways)


def with_fastest_form(
    network: Network, inputs: InputSpec, *, batch_size: int, device: torch.device
) -> Network:
    """Return a network that answers in its fastest form: its own, where it was optimised.

    Args:
        network: its module is shared.
        inputs: what it takes.
        batch_size: samples in a forward pass.
        device: where it is to run.

    Raises:
        AldsError: as `fastest_form`.
    """
    if network.inference is not None:
        return network
    found = fastest_form(
        network.module,
        inputs,
        pairs=network.plan.decomposed,
        batch_size=batch_size,
        device=device,
    )
    return replace(network, inference=found.inference)


def in_form(network: nn.Module, form: Inference) -> nn.Module:
    """Return a copy of a network in a form."""
    return put_into_inference_form(copy.deepcopy(network), form)


@dataclass(frozen=True, slots=True)
class _Search:
    """A search for the fastest form of a network, and what it is timed with."""

    network: nn.Module
    inputs: InputSpec
    batch_size: int
    device: torch.device
    progress: ProgressCallback

    def fastest(self, forms: Mapping[str, Inference]) -> tuple[str, Mapping[str, FloatArray]]:
        """Return the name of the fastest form, and the seconds of each in every round."""
        modules = {name: in_form(self.network, form) for name, form in forms.items()}
        times = time_networks(modules, self.inputs, batch_size=self.batch_size, device=self.device)
        first = times["as it is"]
        return min(times, key=lambda each: float(np.median(times[each] / first))), times

    def runs_channels_last(self) -> bool:
        """Return whether there are convolutions to lay out so, and the network's code takes it."""
        if not any(isinstance(part, nn.Conv2d) for part in self.network.modules()):
            return False
        laid_out = in_form(self.network, Inference(channels_last=True))
        with evaluating(laid_out, self.device) as module, torch.inference_mode():
            try:
                self._called(module)
            except (AldsError, RuntimeError, ValueError):  # a view of what is not contiguous
                return False
        return True

    def varying(self, pairs: Collection[str]) -> list[str]:
        """Return those of the pairs that can run in other ways."""
        return [name for name in pairs if can_vary(self.network.get_submodule(name))]

    def varied(self, form: Inference, varying: Collection[str]) -> Inference:
        """Return the form with every pair in the way in which it alone is fastest."""
        module = in_form(self.network, replace(form, packed=False))
        ways: dict[str, _Way] = {}
        known: dict[tuple[Any, ...], _Way] = {}
        with evaluating(module, self.device) as placed, torch.inference_mode():
            shapes = self._input_shapes(placed, varying)
            for done, (name, shape) in enumerate(shapes.items()):
                self.progress(ProgressEvent("time", done, len(shapes)))
                pair = placed.get_submodule(name)
                key = (shape, str(pair))
                if key not in known:
                    known[key] = _best_way(pair, shape, form, self.device)
                ways[name] = known[key]
        self.progress(ProgressEvent("time", len(shapes), len(shapes)))
        return replace(
            form,
            merged={name: number for name, (kind, number) in ways.items() if kind == "merged"},
            padded={name: number for name, (kind, number) in ways.items() if kind == "padded"},
            multiplied=[name for name, (kind, _) in ways.items() if kind == "multiplied"],
        )

    def _input_shapes(self, module: nn.Module, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs of modules in a forward pass."""
        shapes: dict[str, tuple[int, ...]] = {}
        with ExitStack() as stack:
            for name in names:

                def note(_module: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                    shapes[name] = tuple(given[0].shape)

                handle = module.get_submodule(name).register_forward_pre_hook(note)
                stack.callback(handle.remove)
            self._called(module)
        return shapes

    def _called(self, module: nn.Module) -> None:
        dtype = floating_type(module)
        example_call(self.inputs, dtype=dtype, device=self.device, batch_size=self.batch_size)(
            module
        )


def _best_way(pair: Any, shape: tuple[int, ...], form: Inference, device: torch.device) -> _Way:
    """Return the fastest way to run a pair; as it is, where none is faster by a margin."""
    dtype = pair.first.weight.dtype
    inputs = Filler(device).tensor(shape, dtype, channels_last=form.channels_last)
    ways = {name: laid_out(copy.deepcopy(way), form) for name, way in _ways(pair)}
    least, most = _ROUNDS

    def rounds(one: float) -> int:
        return min(most, max(least, int(_SECONDS_PER_PAIR / max(one, 1e-9))))

    runs = {name: partial(way, inputs) for name, way in ways.items()}
    times = in_turns(runs, device, rounds=rounds, warmup=2)
    shares = {name: paired(own, times[_PLAIN]).median for name, own in times.items()}
    best = min(shares, key=lambda name: shares[name])
    return best if shares[best] <= _GAIN else _PLAIN


def _ways(pair: Any) -> Iterator[tuple[_Way, nn.Module]]:
    """Yield the ways to run a pair."""
    yield _PLAIN, pair
    groups = groups_of_half(pair.first)
    for together in range(2, groups + 1):
        weights = pair.first.weight.numel() * together
        if groups % together == 0 and weights <= _MOST_WEIGHTS:
            yield ("merged", together), nn.Sequential(merged(pair.first, together), pair.second)
    rank = pair.first.weight.shape[0] // groups
    for higher in sorted({-(-rank // multiple) * multiple for multiple in _MULTIPLES} - {rank}):
        yield ("padded", higher), padded(pair, higher)
    yield ("multiplied", 0), multiplied(pair)
