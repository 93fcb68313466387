"""Targets, budgets and resources of a compression.

A resource is something that a network costs, divided among its layers: parameters, MACs, bytes or
time. A target is what the user asks, and a budget is what that allows of one resource.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from alds_cli.allocation import Prices, RankPrices
from alds_cli.errors import OptionError
from alds_cli.numerics.fold import by_scheme, option_costs, option_macs
from alds_cli.options.choices import TARGETS, require_known
from alds_cli.options.compress_options import CompressOptions
from alds_cli.options.planning_options import Ratio
from alds_cli.records import (
    Choice,
    FloatArray,
    IntArray,
    Kept,
    LayerSpec,
)
from alds_cli.runtime.devices import pick_device
from alds_cli.surgery import form_of
from alds_cli.surgery.channels import Channels, Member
from alds_cli.text import parse_limits, parse_ratio
from alds_cli.tracing.trace import LayerCall

Price = Callable[[LayerSpec, IntArray], IntArray]
"""`price(spec, choices)`: the whole units (n,) that pairs (n, 3) cost; negative if not known."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that a network costs, in whole units.

    Attributes:
        name: `params`, `macs`, `bytes` or `latency` (nanoseconds).
        before: the cost of the whole network, which ratios refer to.
        fixed: the cost in the result of everything but the layers that may be decomposed.
        kept: the cost of each of these layers as it is, by name.
        price: the cost of pairs in its place.
        overhead: the part of a pair's cost that does not depend on its rank.
    """

    name: str
    before: int
    fixed: int
    kept: Mapping[str, int]
    price: Price
    overhead: int = 0

    def prices(self, spec: LayerSpec, choices: IntArray) -> IntArray:
        """Return the cost (n,) of choices (n, 3), where k = 0 keeps the layer."""
        kept = choices[:, 1] == 0
        costs = np.empty(len(choices), np.int64)
        costs[kept] = self.kept[spec.name]
        costs[~kept] = self.price(spec, choices[~kept])
        return costs

    def rank_prices(self, spec: LayerSpec, choices: IntArray) -> FloatArray:
        """Return the average cost (n,) of one more rank in every slice of pairs (n, 3).

        Where ranks are free, as in a layer that is never called, they still cost a little.
        """
        spent = self.price(spec, choices) - self.overhead
        return np.maximum(spent / choices[:, 2], 1e-3)


def parameters(specs: Mapping[str, LayerSpec], total: int) -> Resource:
    """Return the resource of parameters. Biases are not the layers' own, since they always stay.

    Args:
        specs: the layers that may be decomposed, by name.
        total: the parameters of the whole network.
    """
    kept = {name: spec.weight_params for name, spec in specs.items()}
    return Resource("params", total, total - sum(kept.values()), kept, option_costs)


def file_bytes(
    specs: Mapping[str, LayerSpec],
    before: int,
    all_kept: int,
    item_sizes: Mapping[str, int],
    per_pair: int,
) -> Resource:
    """Return the resource of bytes of the artefact.

    Args:
        specs: the layers that may be decomposed, by name.
        before: the bytes of the file that the network came from.
        all_kept: the bytes of the artefact if every layer is kept.
        item_sizes: the bytes of one number of each layer's weight.
        per_pair: the approximate bytes of a pair's names and entries, beside its numbers.
    """

    def price(spec: LayerSpec, choices: IntArray) -> IntArray:
        numbers = option_costs(spec, choices) * item_sizes[spec.name]
        return numbers + _extra_bytes(spec, choices) + per_pair

    kept = {name: spec.weight_params * item_sizes[name] for name, spec in specs.items()}
    return Resource("bytes", before, all_kept - sum(kept.values()), kept, price, per_pair)


def _extra_bytes(spec: LayerSpec, choices: IntArray) -> IntArray:
    """Return the bytes (n,) that pairs (n, 3) hold beside their weights, as their form requires."""
    extra = np.zeros(len(choices), np.int64)
    for scheme, rows in by_scheme(choices):
        extra[rows] = form_of(scheme).extra_bytes(spec, choices[rows])
    return extra


def multiply_accumulates(
    specs: Mapping[str, LayerSpec], total: int, calls: Mapping[str, LayerCall]
) -> Resource:
    """Return the resource of MACs of one sample.

    Args:
        specs: the layers that may be decomposed, by name.
        total: the MACs of the whole network.
        calls: how a forward pass called its layers; a layer without a call costs none.
    """

    def price(spec: LayerSpec, choices: IntArray) -> IntArray:
        if spec.name not in calls:
            return np.zeros(len(choices), np.int64)
        return option_macs(spec, calls[spec.name].shapes, choices)

    kept = {name: calls[name].macs if name in calls else 0 for name in specs}
    return Resource("macs", total, total - sum(kept.values()), kept, price)


def nanoseconds(
    total: int, kept: Mapping[str, int], pairs: Mapping[str, Mapping[Choice, int]]
) -> Resource:
    """Return the resource of time of one forward pass, as the sum of the layers' measured times.

    Args:
        total: the time of the whole network, in nanoseconds.
        kept: the times of the layers that may be decomposed.
        pairs: the times of the choices that were measured; no others are offered.
    """

    def price(spec: LayerSpec, choices: IntArray) -> IntArray:
        known = pairs.get(spec.name, {})
        rows = (Choice(*(int(value) for value in row)) for row in choices)
        return np.array([known.get(choice, -1) for choice in rows], np.int64)

    return Resource("latency", total, total - sum(kept.values()), kept, price)


def time_per_saving(latency: Resource, other: Resource, efficiency: Fraction) -> Resource:
    """Return the resource of which no more than the whole time T may be spent to be efficient.

    A network that saves the share s of the other resource shall save efficiency · s of the time,
    which is to say that its time and efficiency · s · T are at most T together. Both are sums over
    the layers.

    Args:
        latency: the resource of time.
        other: the resource that is saved beside it.
        efficiency: in [0, 1].
    """
    rate = float(efficiency) * latency.before / other.before

    def price(spec: LayerSpec, choices: IntArray) -> IntArray:
        times = latency.price(spec, choices)
        saved = other.kept[spec.name] - other.price(spec, choices)
        return np.where(times < 0, times, times + np.rint(rate * saved).astype(np.int64))

    return Resource("efficiency", latency.before, latency.fixed, latency.kept, price)


_LIMITED = (*TARGETS, "efficiency")
"""The resources that can be limited."""

TIMED = ("latency", "efficiency")
"""The resources whose budgets only timing a whole network can tell to be kept."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of a compressed network: a ratio of a resource, absolute limits, or both.

    Attributes:
        ratio: the fraction of the resource to remove; None where only limits count.
        resource: the resource that the ratio refers to, one of `TARGETS`.
        limits: the most that is allowed, by resource; latency in nanoseconds.
        never_slower: whether no layer may be replaced by one that measures slower.
        batch_size: samples in a forward pass that is timed.
        device: where times are measured; None means CUDA where present.
        efficiency: the share of the time that must be saved for each share of the resource.
        optimised: whether networks are timed in the form in which the original is fastest.
    """

    ratio: Fraction | None
    resource: str
    limits: Mapping[str, int]
    never_slower: bool = False
    batch_size: int = 1
    device: str | None = None
    efficiency: Fraction | None = None
    optimised: bool = False

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources that are limited in any way, in the order of `TARGETS`."""
        limited = {*self.limits, *([self.resource] if self.ratio is not None else [])}
        if self.efficiency is not None:
            limited.add("efficiency")
        return tuple(name for name in _LIMITED if name in limited)

    @property
    def timed(self) -> bool:
        """Whether any times have to be measured."""
        return self.never_slower or not set(TIMED).isdisjoint(self.resources)

    @property
    def planned_for(self) -> frozenset[str]:
        """The resources that a method must be able to plan for: also time, where it is measured."""
        return frozenset({*self.resources, *(("latency",) if self.timed else ())})

    def where(self) -> torch.device:
        """Return the device to measure on.

        Raises:
            OptionError: there is no such device here.
        """
        return pick_device(self.device)


def parse_target(options: CompressOptions, ratio: Ratio) -> Target:
    """Return the target that the options ask for at one ratio.

    Raises:
        OptionError: a value makes no sense.
    """
    target = options.target
    require_known("target", target, TARGETS)
    if options.batch_size < 1:
        raise OptionError(f"a batch of {options.batch_size} images cannot be timed")
    limits = parse_limits(
        max_params=options.max_params,
        max_macs=options.max_macs,
        max_size=options.max_size,
        max_latency=options.max_latency,
    )
    asked = None if ratio is None else parse_ratio(ratio)
    efficiency = _efficiency(options, asked)
    return Target(
        asked,
        target,
        limits,
        options.never_slower,
        options.batch_size,
        options.device,
        efficiency,
        options.optimized or efficiency is not None,
    )


def _efficiency(options: CompressOptions, ratio: Fraction | None) -> Fraction | None:
    """Return the efficiency asked for, which says something only of a ratio of another resource."""
    if options.efficiency is None:
        return None
    if ratio is None or options.target == "latency":
        raise OptionError(
            "--efficiency says how much time a ratio of something else must save",
            tip="give a --ratio, and --target macs or params or bytes",
        )
    return Fraction(str(options.efficiency))


Offered = Callable[[LayerSpec, IntArray], NDArray[np.bool_]]
"""`offered(spec, choices)`: which of the pairs (n, 3) may be chosen, as (n,)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `allowed` of a resource; `ratio` is the fraction to remove, if that was asked.

    `margin` is held back where the sum of the layers' prices is not exactly the result's cost.
    `efficiency` is the share of the time to save for a share of another resource, if asked.
    """

    resource: Resource
    allowed: int
    ratio: Fraction | None = None
    margin: int = 0
    efficiency: Fraction | None = None

    @classmethod
    def of_ratio(cls, resource: Resource, ratio: Fraction) -> Budget:
        """Return the budget that a ratio leaves, rounded down: no less is removed than asked."""
        return cls(resource, int((1 - ratio) * resource.before), ratio)

    @property
    def for_options(self) -> int:
        """The amount that the layers which may be decomposed can cost together."""
        return self.allowed - self.margin - self.resource.fixed


def prices_of(budgets: Sequence[Budget], offered: Offered | None) -> Prices | None:
    """Return the cost of options in every budget's resource; None where only parameters count."""
    if offered is None and [budget.resource.name for budget in budgets] == ["params"]:
        return None

    def prices(spec: LayerSpec, choices: IntArray) -> IntArray:
        priced = np.stack([budget.resource.prices(spec, choices) for budget in budgets], axis=1)
        if offered is not None:
            priced[(choices[:, 1] > 0) & ~offered(spec, choices)] = -1
        return priced

    return prices


def rank_prices_of(budgets: Sequence[Budget]) -> RankPrices | None:
    """Return the cost of a rank in the budget's resource; of several budgets, the sum of shares."""
    if [budget.resource.name for budget in budgets] == ["params"]:
        return None
    if len(budgets) == 1:
        return budgets[0].resource.rank_prices

    def shares(spec: LayerSpec, choices: IntArray) -> FloatArray:
        parts = [b.resource.rank_prices(spec, choices) / max(b.allowed, 1) for b in budgets]
        return np.asarray(np.sum(parts, axis=0))

    return shares


def channel_terms(
    channels: Channels, resource: str, calls: Mapping[str, LayerCall]
) -> Iterator[tuple[str, int, bool]]:
    """Yield (module, units, whether they count per pair of output and input or per output)."""
    for name, member in channels.members.items():
        connected, alone = _units(member, resource, calls.get(name))
        if connected:
            yield name, connected, member.role == "dense"
        if alone:
            yield name, alone, False


def _units(member: Member, resource: str, call: LayerCall | None) -> tuple[int, int]:
    """Return the cost of a module per connection, and its additional cost per output."""
    if resource == "macs":
        if call is None:
            return 0, 0
        dense = member.role == "dense"
        return call.macs // (member.outputs * (member.inputs if dense else 1)), 0
    if resource == "bytes":
        size = member.itemsize
        return member.per_connection * size, (member.per_output + member.buffers) * size
    return member.per_connection, member.per_output


def pruned_amount(
    channels: Channels,
    resource: Resource,
    calls: Mapping[str, LayerCall],
    pruned: Mapping[str, Kept],
) -> int:
    """Return the network's cost after a plan; parameters and MACs are exact.

    Args:
        channels: the channels of the dense network.
        resource: parameters, MACs or bytes.
        calls: how a forward pass called the network's layers.
        pruned: the outputs and inputs that are kept, by module.
    """
    amount = resource.fixed + sum(resource.kept.values())
    for name, units, connected in channel_terms(channels, resource.name, calls):
        member = channels.members[name]
        made, taken = member.left(pruned.get(name, Kept()))
        before = member.outputs * (member.inputs if connected else 1)
        amount += units * (made * (taken if connected else 1) - before)
    return amount
