"""Measured times as a compression needs them: of layers, of pairs, of whole networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from alds_cli.network.networks import Network
from alds_cli.records import (
    Choice,
    IntArray,
    LayerSpec,
    Plan,
    ProgressCallback,
)
from alds_cli.runtime.devices import time_networks
from alds_cli.tracing.trace import Trace

_SURPRISES = 8
"""So many plans may hold pairs that turn out slower before only measured ones are offered."""


class LatencyModel:
    """Times of one network and of what may become of its layers.

    Nothing is measured before it is asked for.

    Args:
        network: as it is before anything is decomposed; not changed.
        specs: its layers that may be decomposed.
        before: a forward pass.
        target: says on which device, and with how many samples at a time.
        schemes: folding schemes of the pairs to time.
        rank_multiple: their ranks are multiples of it.
        cache: read and keep times in the user's cache folder.
        progress: told of measurements.
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
        self._limits: list[tuple[str, Choice]] = []
        self._surprises = 0

    @cached_property
    def network_ns(self) -> int:
        """The whole network's time of one forward pass."""
        times = time_networks(
            {"network": self._network.module},
            self._inputs(),
            batch_size=self._target.batch_size,
            device=self._target.where(),
        )
        return round(float(np.median(times["network"])) * 1e9)

    @cached_property
    def measured(self) -> dict[str, LayerLatency]:
        """Times of all layers that may be decomposed, and of a grid of pairs for each."""
        return self._measure(
            {
                name: latency_candidates(spec, self._schemes, self._rank_multiple)
                for name, spec in self._specs.items()
            }
        )

    def offered(self, spec: LayerSpec, choices: IntArray) -> NDArray[np.bool_]:
        """Which pairs (n, 3) may be chosen, if none may be slower than its layer, (n,).

        Where time is budgeted only measured pairs are priced, and those that measured
        faster are on offer. Elsewhere ranks between those of the grid may be chosen too,
        up to the highest that measured faster; `slower` then measures what was chosen.
        Where that went wrong too often, only what measured faster is on offer any more.
        """
        found = np.zeros(len(choices), np.bool_)
        own = self.measured.get(spec.name)
        if own is None:
            return found
        if self._surprises >= _SURPRISES:
            for choice in own.faster:
                found |= _is(choices, choice)
        else:
            for (scheme, k), j in _highest(own.faster).items():
                found |= (choices[:, 0] == scheme) & (choices[:, 1] == k) & (choices[:, 2] <= j)
        banned = {choice for name, choice in self._banned if name == spec.name}
        for choice in banned | (own.pairs.keys() - own.faster):
            found &= ~_is(choices, choice)
        for name, limit in self._limits:
            if name == spec.name:
                found &= ~_at_least(choices, limit)
        return found

    def fastest(self, method: str) -> Plan:
        """The plan that takes the least time by the sum of its layers' times."""
        choices: dict[str, Choice | None] = {}
        for name, own in self.measured.items():
            measured = list(own.faster)
            rows = np.array([(c.scheme, c.k, c.j) for c in measured]).reshape(-1, 3)
            offered = self.offered(self._specs[name], rows)
            times = {c: own.pairs[c] for c, free in zip(measured, offered, strict=True) if free}
            choices[name] = min(times, key=lambda choice: (times[choice], choice), default=None)
        return Plan(choices, method=method)

    def slower(self, plan: Plan) -> bool:
        """Measure the plan's pairs; whether one is not faster, which is not offered again."""
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
        """The layers whose pairs are not surely faster in the network that was made.

        They are timed beside the layers they replaced; such a pair is not offered again, nor
        are higher ranks of its slices.
        """
        found = slower_layers(
            self._network.module,
            compressed,
            list(plan.decomposed),
            self._before,
            batch_size=self._target.batch_size,
            device=self._target.where(),
        )
        self._limits += [(name, plan.decomposed[name]) for name in found]
        return list(found)

    def compare(self, compressed: nn.Module) -> NetworkComparison:
        """The compressed network against the original, in turns."""
        return compare_latency(
            self._network.module,
            compressed,
            self._inputs(),
            batch_size=self._target.batch_size,
            device=self._target.where(),
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
        )

    def _inputs(self) -> InputSpec:
        inputs = self._network.inputs
        if inputs is None or self._before.failure is not None:
            raise OptionError(
                f"times can only be measured of a network that runs: {self._before.failure}",
                tip=inputs_tip(inputs),
            )
        inputs.require_batch(self._target.batch_size)
        return inputs


def _highest(choices: Collection[Choice]) -> dict[tuple[int, int], int]:
    """The highest rank of each (scheme, k)."""
    found: dict[tuple[int, int], int] = {}
    for choice in choices:
        at = (choice.scheme, choice.k)
        found[at] = max(found.get(at, 0), choice.j)
    return found


def _is(choices: IntArray, choice: Choice) -> NDArray[np.bool_]:
    """Which rows (n, 3) are that choice."""
    found: NDArray[np.bool_] = np.all(choices == (choice.scheme, choice.k, choice.j), axis=1)
    return found


def _at_least(choices: IntArray, choice: Choice) -> NDArray[np.bool_]:
    """Which rows (n, 3) have the same slices and no lower rank."""
    found: NDArray[np.bool_] = np.all(choices[:, :2] == (choice.scheme, choice.k), axis=1)
    found &= choices[:, 2] >= choice.j
    return found
