"""Algorithm 1 of the paper: alternate between ranks and numbers of slices.

From each of several starts: with the slices fixed, find the ranks for which all layers
have about equal error at the budget (OptimalRanks, by root finding over the error);
with each layer's size fixed, find the slices that give it the least error
(OptimalSubspaces); until the error stops falling. A local optimum, so the best start wins.

Source: Liebenwein et al., NeurIPS 2021, Algorithm 1 and supplement A.4, A.5.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from alds_cli.allocation.layer_options import (
    Allocation,
    Frontier,
    Frontiers,
    InfeasibleError,
    LayerOptions,
    first_of_equals,
    frontier,
)
from alds_cli.records import FloatArray

FIXED_STARTS = 5
"""So many starts have k = 1, 2, … in every layer; the others draw it at random."""

Variant = tuple[int, int]
"""(scheme, k): what OptimalSubspaces chooses for a layer."""


def alternating(
    layers: Sequence[LayerOptions],
    budgets: Sequence[int],
    *,
    seed: int = 0,
    starts: int = 15,
    randomised: bool = False,
) -> Allocation:
    """The best local optimum of the paper's Algorithm 1; it proves nothing about the optimum.

    Args:
        layers: the options of every layer.
        budgets: what the chosen options' costs may add up to; one number, since the
            algorithm knows no other case.
        seed: for the random starts.
        starts: n_seed of the paper (its Tables 3 and 4: 15).
        randomised: OptimalRanks finds real ranks and rounds them at random (supplement A.5).

    Raises:
        ValueError: even the cheapest options exceed the budget, or there are several.
    """
    if len(budgets) != 1:
        raise ValueError("the alternating solver spends one budget")
    if not layers:
        return Allocation([], 0.0, 0.0)
    (budget,) = budgets
    searches = [_LayerSearch.of(options) for options in layers]
    best: list[int] | None = None
    best_error = np.inf
    generator = random.Random(seed)  # noqa: S311 - no secrets here
    optimal_ranks = partial(_rounded_ranks, generator=generator) if randomised else _whole_ranks
    for start in list(_starts(searches, generator, starts)):
        found = _descend(searches, start, budget, optimal_ranks)
        if found is not None and found[0] < best_error:
            best_error, best = found
    if best is None:
        raise InfeasibleError("even the cheapest options exceed the budget")
    chosen = [first_of_equals(own, index) for own, index in zip(layers, best, strict=True)]
    return Allocation(chosen, best_error, 0.0)


@dataclass(frozen=True, slots=True)
class _LayerSearch:
    """A layer's options, and for every (scheme, k) the frontier of its ranks and keeping."""

    options: LayerOptions
    variants: dict[Variant, Frontier]

    @classmethod
    def of(cls, options: LayerOptions) -> _LayerSearch:
        """Sort a layer's options by variant; a layer that can only be kept has variant (0, 0)."""
        scheme, k, _ = options.choices.T
        pairs = sorted({(int(s), int(n)) for s, n in zip(scheme, k, strict=True) if n}) or [(0, 0)]
        variants = {}
        for own_scheme, own_k in pairs:
            (chosen,) = np.nonzero(((scheme == own_scheme) & (k == own_k)) | (k == 0))
            mask = np.zeros(len(k), dtype=np.bool_)
            mask[chosen] = True
            own = frontier(options.subset(mask))
            variants[own_scheme, own_k] = Frontier(own.costs, own.errors, chosen[own.indices])
        return cls(options, variants)

    def nearest(self, k: int) -> Variant:
        """The variant of the first scheme whose k is closest to the one asked for."""
        return min(self.variants, key=lambda variant: (variant[0], abs(variant[1] - k), variant[1]))

    def best_within(self, size: int, current: Variant) -> Variant:
        """OptimalSubspaces (line 7): the variant with the least error at no more than `size`.

        Keeping the layer is no variant's merit, so it does not count; where nothing else
        fits, the current variant stays.
        """
        errors = {
            variant: self.options.errors[index]
            for variant, own in self.variants.items()
            for index in [_best_pair(self.options, own, size)]
            if index is not None
        }
        return min(errors, key=lambda variant: (errors[variant], variant), default=current)


def _best_pair(options: LayerOptions, own: Frontier, size: int) -> int | None:
    """Index of the best low-rank option that costs at most `size`, if there is one."""
    fitting = own.indices[(own.costs <= size) & (options.choices[own.indices, 1] > 0)]
    return int(fitting[-1]) if len(fitting) else None


def _starts(
    searches: Sequence[_LayerSearch], generator: random.Random, count: int
) -> Iterator[list[Variant]]:
    for number in range(1, count + 1):
        if number <= FIXED_STARTS:
            yield [search.nearest(number) for search in searches]
        else:
            yield [generator.choice(list(search.variants)) for search in searches]


OptimalRanks = Callable[[Sequence[Frontier], int], tuple[float, list[int]]]
"""Line 4: from frontiers and a budget to the error and each layer's position."""


def _whole_ranks(frontiers: Sequence[Frontier], budget: int) -> tuple[float, list[int]]:
    """The ranks of equal error, found among whole ones."""
    level = Frontiers.join(frontiers).lowest_level(budget)
    return level, [own.cheapest(level) for own in frontiers]


def _rounded_ranks(
    frontiers: Sequence[Frontier], budget: int, *, generator: random.Random
) -> tuple[float, list[int]]:
    """The ranks of equal error, found among real ones and rounded at random."""
    positions = randomised_rounding(frontiers, budget, generator)
    level = max(float(own.errors[at]) for own, at in zip(frontiers, positions, strict=True))
    return level, positions


def _descend(
    searches: Sequence[_LayerSearch],
    variants: list[Variant],
    budget: int,
    optimal_ranks: OptimalRanks,
) -> tuple[float, list[int]] | None:
    """Iterate from one start; (error, option indices), or None where it is infeasible."""
    best: tuple[float, list[int]] | None = None
    while True:
        frontiers = [s.variants[variant] for s, variant in zip(searches, variants, strict=True)]
        if sum(int(own.costs[0]) for own in frontiers) > budget:
            return best
        level, positions = optimal_ranks(frontiers, budget)
        if best is not None and level >= best[0]:
            return best
        chosen = [int(own.indices[at]) for own, at in zip(frontiers, positions, strict=True)]
        best = level, chosen
        variants = [
            search.best_within(int(own.costs[at]), variant)
            for search, own, at, variant in zip(
                searches, frontiers, positions, variants, strict=True
            )
        ]


DRAWS = 100
"""So many times the real ranks are rounded."""


def relaxed_positions(frontiers: Sequence[Frontier], budget: int) -> list[float]:
    """Where on its frontier each layer stands in the relaxation's optimum.

    Position p + t, with 0 ≤ t < 1, lies the fraction t of the way from option p to p + 1.

    Args:
        frontiers: costs rise, errors fall; their cheapest options fit into the budget.
        budget: what the interpolated costs may add up to.
    """
    levels = np.unique(np.concatenate([own.errors for own in frontiers]))
    # The highest level costs least. Bisect for the two neighbours around the budget.
    low, high = 0, len(levels) - 1
    if _cost(frontiers, float(levels[0])) <= budget:
        high = 0
    while high - low > 1:
        middle = (low + high) // 2
        if _cost(frontiers, float(levels[middle])) <= budget:
            high = middle
        else:
            low = middle
    level = float(levels[high])
    if high > low:
        below, above = (_cost(frontiers, float(levels[at])) for at in (low, high))
        share = (budget - above) / (below - above)
        level -= share * (level - float(levels[low]))
    return [_position(own, level) for own in frontiers]


def randomised_rounding(
    frontiers: Sequence[Frontier], budget: int, generator: random.Random, draws: int = DRAWS
) -> list[int]:
    """The best of several random roundings of the relaxation's optimum that fit the budget.

    Args:
        frontiers: of all layers; their cheapest options fit into the budget.
        budget: what the chosen options' costs may add up to.
        generator: the only source of random numbers.
        draws: how many roundings to try.
    """
    real = relaxed_positions(frontiers, budget)
    lower = [int(position) for position in real]
    chances = [position - whole for position, whole in zip(real, lower, strict=True)]
    # Rounding down all of them costs no more than the relaxation, which fits.
    best, least = lower, _worst(frontiers, lower)
    for _ in range(draws):
        drawn = [
            whole + (generator.random() < chance)
            for whole, chance in zip(lower, chances, strict=True)
        ]
        cost = sum(int(own.costs[at]) for own, at in zip(frontiers, drawn, strict=True))
        worst = _worst(frontiers, drawn)
        if cost <= budget and worst < least:
            best, least = drawn, worst
    return best


def _worst(frontiers: Sequence[Frontier], positions: Sequence[int]) -> float:
    return max(float(own.errors[at]) for own, at in zip(frontiers, positions, strict=True))


def _position(own: Frontier, level: float) -> float:
    """The real position at which a layer's error is the level, or the nearest it has."""
    return float(np.interp(-level, -own.errors, np.arange(len(own.errors))))


def _cost(frontiers: Sequence[Frontier], level: float) -> float:
    """What all layers cost together at a level."""
    return float(sum(np.interp(_position(own, level), _steps(own), own.costs) for own in frontiers))


def _steps(own: Frontier) -> FloatArray:
    return np.arange(len(own.costs), dtype=np.float64)
