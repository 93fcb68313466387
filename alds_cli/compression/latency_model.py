"""The measured times that a compression needs: of layers, of pairs and of whole networks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from alds_cli.compression.targets import Target
from alds_cli.errors import OptionError
from alds_cli.inputs import InputSpec, inputs_tip
from alds_cli.latency import (
    LayerLatency,
    NetworkComparison,
    compare_latency,
    latency_candidates,
    layer_latencies,
    slower_layers,
)
from alds_cli.latency.fastest_form import fastest_form, in_form
from alds_cli.latency.in_place import put_in_place, times_in_place
from alds_cli.network.networks import Network
from alds_cli.records import (
    PLAIN,
    Choice,
    Inference,
    IntArray,
    LayerSpec,
    Plan,
    ProgressCallback,
)
from alds_cli.runtime.devices import time_networks
from alds_cli.surgery.inference_form import foldable_norms
from alds_cli.tracing.trace import Trace

_SURPRISES = 8
"""The number of plans with a slower pair after which only measured pairs are offered."""


class LatencyModel:
    """The times of one network, of its layers and of the pairs that may replace them.

    Nothing is measured before it is needed.

    Args:
        network: the network before anything is decomposed; it is not changed.
        specs: its layers that may be decomposed, by name.
        before: a recorded forward pass of the network.
        target: states the device and the batch size to measure with.
        schemes: the folding schemes of the pairs to time.
        rank_multiple: only ranks that are multiples of this are timed.
        cache: whether times are read from and kept in the user's cache folder.
        progress: called as measurements are made.
    """

    def __init__(
        self,
        network: Network,
        specs: Mapping[str, LayerSpec],
        before: Trace,
        target: Target,
        *,
        schemes: Sequence[int],
        rank_multiple: int,
        cache: bool,
        progress: ProgressCallback | None,
    ) -> None:
        self._network = network
        self._specs = specs
        self._before = before
        self._target = target
        self._schemes = schemes
        self._rank_multiple = rank_multiple
        self._cache = cache
        self._progress = progress
        self._banned: set[tuple[str, Choice]] = set()
        self._tried: set[tuple[str, Choice]] = set()
        self._limits: list[tuple[str, Choice]] = []
        self._surprises = 0

    @cached_property
    def form(self) -> Inference:
        """The form in which networks are timed: as they are, or that of the fastest original."""
        if not self._target.optimised:
            return PLAIN
        return fastest_form(
            self._network.module,
            self._inputs(),
            batch_size=self._target.batch_size,
            device=self._target.where(),
        ).inference

    @cached_property
    def _original(self) -> nn.Module:
        """The original as it is timed."""
        return self.as_timed(self._network.module)

    def as_timed(self, module: nn.Module) -> nn.Module:
        """Return a network as it is timed; pairs are folded with the normalisations after them."""
        if self.form == PLAIN:
            return module
        folded = foldable_norms(module) if self.form.folded else {}
        return in_form(module, replace(self.form, folded=folded))

    @cached_property
    def network_ns(self) -> int:
        """The time of one forward pass of the whole network, in nanoseconds."""
        times = time_networks(
            {"network": self._original},
            self._inputs(),
            batch_size=self._target.batch_size,
            device=self._target.where(),
        )
        return round(float(np.median(times["network"])) * 1e9)

    @cached_property
    def measured(self) -> dict[str, LayerLatency]:
        """The times of all layers that may be decomposed, and of a grid of pairs for each."""
        alone = self._measure(
            {
                name: latency_candidates(spec, self._schemes, self._rank_multiple)
                for name, spec in self._specs.items()
            }
        )
        if self.form == PLAIN:
            return alone
        in_place = self._times_in_place(self._original, self._specs)
        return put_in_place(alone, self._specs, in_place)

    def learn(self, timed: nn.Module, plan: Plan) -> None:
        """Take the times of a plan's pairs in the network that was made, as it is timed.

        The pairs that are planned tend to be those whose times came out too short. As much as those
        of this plan take longer together than was expected, all that were not tried yet are made
        dearer: else the next plan would be made of other such pairs.
        """
        found = self._times_in_place(timed, plan.decomposed)
        fresh = {
            (name, plan.decomposed[name])
            for name in found
            if (name, plan.decomposed[name]) not in self._tried
        }
        expected = sum(self.measured[name].pairs[choice] for name, choice in fresh)
        surplus = max(1.0, sum(found[name] for name, _ in fresh) / expected) if fresh else 1.0
        self._tried |= fresh
        for name, layer in self.measured.items():
            for choice, time in layer.pairs.items():
                if (name, choice) not in self._tried:
                    layer.pairs[choice] = round(surplus * time)
        for name, in_place in found.items():
            self.measured[name].pairs[plan.decomposed[name]] = round(in_place)

    def _times_in_place(self, module: nn.Module, names: Iterable[str]) -> dict[str, float]:
        return times_in_place(
            module,
            self._inputs(),
            names,
            batch_size=self._target.batch_size,
            device=self._target.where(),
        )

    def offered(self, spec: LayerSpec, choices: IntArray) -> NDArray[np.bool_]:
        """Return which pairs (n, 3) may be chosen if none may be slower than its layer, as (n,).

        Where time is budgeted, only measured pairs have a price, and those that measured faster
        are offered. Otherwise ranks between those of the grid are offered too, up to the highest
        that measured faster; `slower` then measures the pairs that were chosen. After `_SURPRISES`
        plans with slower pairs, only pairs that measured faster are offered.
        """
        found = np.zeros(len(choices), np.bool_)
        times = self.measured.get(spec.name)
        if times is None:
            return found
        if self._surprises >= _SURPRISES:
            for choice in times.faster:
                found |= _is(choices, choice)
        else:
            for (scheme, k), j in _highest(times.faster).items():
                found |= (choices[:, 0] == scheme) & (choices[:, 1] == k) & (choices[:, 2] <= j)
        banned = {choice for name, choice in self._banned if name == spec.name}
        for choice in banned | (times.pairs.keys() - times.faster):
            found &= ~_is(choices, choice)
        for name, limit in self._limits:
            if name == spec.name:
                found &= ~_at_least(choices, limit)
        return found

    def fastest(self, method: str) -> Plan:
        """Return the plan with the least time, by the sum of its layers' times."""
        choices: dict[str, Choice | None] = {}
        for name, layer in self.measured.items():
            measured = list(layer.faster)
            rows = np.array([(c.scheme, c.k, c.j) for c in measured]).reshape(-1, 3)
            offered = self.offered(self._specs[name], rows)
            times = {c: layer.pairs[c] for c, free in zip(measured, offered, strict=True) if free}
            choices[name] = min(times, key=lambda choice: (times[choice], choice), default=None)
        return Plan(choices, method=method)

    def slower(self, plan: Plan) -> bool:
        """Measure the plan's pairs, withdraw slower ones, and return whether there were any."""
        found = self._measure({name: [choice] for name, choice in plan.decomposed.items()})
        fresh = {
            (name, choice)
            for name, choice in plan.decomposed.items()
            if name not in found or choice not in found[name].faster
        }
        self._banned |= fresh
        self._surprises += bool(fresh)
        return bool(fresh)

    def slower_in(self, compressed: nn.Module, plan: Plan) -> list[str]:
        """Return the layers whose pairs are not surely faster in the network that was made.

        Pairs are timed in turns with the layers that they replaced. Those returned are not offered
        again, nor are higher ranks with the same slices.
        """
        found = slower_layers(
            self._network.module,
            compressed,
            list(plan.decomposed),
            self._before,
            batch_size=self._target.batch_size,
            device=self._target.where(),
            form=self.form,
        )
        self._limits += [(name, plan.decomposed[name]) for name in found]
        return list(found)

    def compare(self, timed: nn.Module, runs: int | None = None) -> NetworkComparison:
        """Time a compressed network, as it is timed, and the original in turns.

        Args:
            timed: the compressed network.
            runs: of each; None means about two seconds of them.
        """
        return compare_latency(
            self._original,
            timed,
            self._inputs(),
            batch_size=self._target.batch_size,
            device=self._target.where(),
            runs=runs,
        )

    def _measure(self, candidates: Mapping[str, Sequence[Choice]]) -> dict[str, LayerLatency]:
        self._inputs()
        return layer_latencies(
            self._network.module,
            self._specs,
            self._before,
            candidates,
            batch_size=self._target.batch_size,
            device=self._target.where(),
            cache=self._cache,
            progress=self._progress,
            form=self.form,
        )

    def _inputs(self) -> InputSpec:
        inputs = self._network.inputs
        if inputs is None or self._before.failure is not None:
            raise OptionError(
                f"a network that does not run cannot be timed: {self._before.failure}",
                tip=inputs_tip(inputs),
            )
        inputs.require_batch(self._target.batch_size)
        return inputs


def _highest(choices: Collection[Choice]) -> dict[tuple[int, int], int]:
    """Return the highest rank of each (scheme, k)."""
    found: dict[tuple[int, int], int] = {}
    for choice in choices:
        at = (choice.scheme, choice.k)
        found[at] = max(found.get(at, 0), choice.j)
    return found


def _is(choices: IntArray, choice: Choice) -> NDArray[np.bool_]:
    """Return which rows (n, 3) equal this choice, as (n,)."""
    found: NDArray[np.bool_] = np.all(choices == (choice.scheme, choice.k, choice.j), axis=1)
    return found


def _at_least(choices: IntArray, choice: Choice) -> NDArray[np.bool_]:
    """Return which rows (n, 3) have the slices of this choice and at least its rank, as (n,)."""
    found: NDArray[np.bool_] = np.all(choices[:, :2] == (choice.scheme, choice.k), axis=1)
    found &= choices[:, 2] >= choice.j
    return found
