"""How much a network may still need, and what to say when that cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation import LayerOptions, Prices, RankPrices
from alds_cli.compression.resources import Resource
from alds_cli.compression.selection import LEFT_OUT
from alds_cli.errors import BudgetError, ContractError, RatioUnreachableError
from alds_cli.records import FloatArray, IntArray, LayerSpec

Offered = Callable[[LayerSpec, IntArray], NDArray[np.bool_]]
"""`offered(spec, choices)`: which of the pairs (n, 3) may be chosen, (n,)."""

_NOUNS = {"params": "parameters", "macs": "MACs", "bytes": "bytes", "latency": "ns"}

_LIMITS = {
    "params": "--max-params",
    "macs": "--max-macs",
    "bytes": "--max-size",
    "latency": "--max-latency",
}


_MORE_LAYERS = "decompose more layers (--include, --exclude)"


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `allowed` of a resource; `ratio` is the fraction to remove, if that was asked.

    `margin` is held back where the sum of the layers' prices is not quite what comes out.
    """

    resource: Resource
    allowed: int
    ratio: Fraction | None = None
    margin: int = 0

    @classmethod
    def of_ratio(cls, resource: Resource, ratio: Fraction) -> Budget:
        """What is left when a fraction is removed, towards zero: never less than asked."""
        return cls(resource, int((1 - ratio) * resource.before), ratio)

    @property
    def for_options(self) -> int:
        """What the layers that may be decomposed can take together."""
        return self.allowed - self.margin - self.resource.fixed


def prices_of(budgets: Sequence[Budget], offered: Offered | None) -> Prices | None:
    """What options take of every budget's resource; None where parameters are all there is."""
    if offered is None and [budget.resource.name for budget in budgets] == ["params"]:
        return None

    def prices(spec: LayerSpec, choices: IntArray) -> IntArray:
        priced = np.stack([budget.resource.prices(spec, choices) for budget in budgets], axis=1)
        if offered is not None:
            priced[(choices[:, 1] > 0) & ~offered(spec, choices)] = -1
        return priced

    return prices


def rank_prices_of(budgets: Sequence[Budget]) -> RankPrices | None:
    """What a rank takes of the budgets; of several, the shares of them added up."""
    if [budget.resource.name for budget in budgets] == ["params"]:
        return None
    if len(budgets) == 1:
        return budgets[0].resource.rank_prices

    def shares(spec: LayerSpec, choices: IntArray) -> FloatArray:
        parts = [b.resource.rank_prices(spec, choices) / max(b.allowed, 1) for b in budgets]
        return np.asarray(np.sum(parts, axis=0))

    return shares


def refusal(
    budgets: Sequence[Budget], layers: Sequence[LayerOptions], kept: str, *, faster_only: bool
) -> ContractError:
    """Why no plan fits: the budget that cannot be met even alone, else all of them together.

    Args:
        budgets: what was asked.
        layers: what was on offer.
        kept: which layers were not, in words; empty where all were.
        faster_only: whether that left out what measures slower.
    """
    made = "make with pairs that each measure faster" if faster_only else "make"
    for column, budget in enumerate(budgets):
        least = budget.resource.fixed + sum(int(own.costs[:, column].min()) for own in layers)
        if least > budget.allowed - budget.margin:
            return out_of_reach(budget, least, made, kept)
    asked = ", ".join(_asked(budget) for budget in budgets)
    return BudgetError(
        f"no plan was found within all of these together: {asked}",
        tip="loosen one of them; each can be had alone",
    )


def out_of_reach(budget: Budget, least: int, made: str, kept: str | None = None) -> ContractError:
    """Why a budget cannot be met.

    Args:
        budget: what was asked.
        least: what the smallest network takes.
        made: how it is made, after "that this method can".
        kept: which layers are not made smaller, in words; None where that is not known.
    """
    resource = budget.resource
    why = f"; {kept}" if kept else ""
    smallest = (
        f"the smallest network that this method can {made} has {_amount(resource, least)} "
        f"of {_amount(resource, resource.before)}"
    )
    largest = max(0, (resource.before - least) * 10_000 // resource.before) / 10_000
    otherwise = f", or {_MORE_LAYERS}" if kept is None or LEFT_OUT in kept else ""
    if least >= resource.before or (budget.ratio is not None and largest == 0):
        nearest = "no layer of this network can be made smaller"
    elif budget.ratio is None:
        nearest = f"{_LIMITS[resource.name]} {_written(resource, least)}{otherwise}"
    else:
        nearest = f"--ratio {largest:.4f}{otherwise}"
    if budget.ratio is None:
        return BudgetError(f"{_asked(budget)} cannot be reached: {smallest}{why}", tip=nearest)
    return RatioUnreachableError(
        f"a ratio of {float(budget.ratio):g} cannot be reached: {smallest}; "
        f"the largest ratio is {largest:.4f}{why}",
        largest=largest,
        tip=nearest,
    )


def broken(budget: Budget, reached: int) -> ContractError:
    """A network that was to meet a budget does not."""
    resource = budget.resource
    if budget.ratio is None:
        return BudgetError(
            f"the network has {_amount(resource, reached)}, "
            f"more than the {_amount(resource, budget.allowed)} allowed"
        )
    return ContractError(
        f"the plan removes {1 - reached / resource.before:.4f} of the "
        f"{_NOUNS[resource.name] if resource.name != 'latency' else 'latency'}, "
        f"less than the {float(budget.ratio):g} asked for",
        tip="lower some j in the plan, or leave out --ratio",
    )


def too_slow(budget: Budget, original_ms: float, best_ms: float, saved: float) -> ContractError:
    """The fastest network that was made is still too slow.

    Args:
        budget: of time.
        original_ms: median time of the original network.
        best_ms: of the fastest that was made of it.
        saved: the fraction of time that it saves.
    """
    fact = (
        f"the fastest network that was made takes {best_ms:.3f} ms where the original takes "
        f"{original_ms:.3f} ms, measured in turns"
    )
    tip = f"{_MORE_LAYERS}, or try another --batch-size or --device"
    if budget.ratio is None:
        return BudgetError(f"{_asked(budget)} cannot be reached: {fact}", tip=tip)
    largest = max(0, int(saved * 10_000)) / 10_000
    return RatioUnreachableError(
        f"a ratio of {float(budget.ratio):g} of the latency cannot be reached: {fact}; "
        f"that is a ratio of {largest:.4f}",
        largest=largest,
        tip=tip,
    )


def _asked(budget: Budget) -> str:
    resource = budget.resource
    if budget.ratio is None:
        return f"{_LIMITS[resource.name]} {_written(resource, budget.allowed)}"
    return f"--ratio {float(budget.ratio):g} of the {resource.name}"


def _amount(resource: Resource, value: int) -> str:
    if resource.name == "latency":
        return f"{value / 1e6:.3f} ms"
    return f"{value:,} {_NOUNS[resource.name]}"


def _written(resource: Resource, value: int) -> str:
    """As the command line takes it."""
    return f"{value / 1e6:.3f}ms" if resource.name == "latency" else str(value)
