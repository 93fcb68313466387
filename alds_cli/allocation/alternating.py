"""Algorithm 1 of the paper: alternate between ranks and numbers of slices.

Two steps alternate from each of several starts until the error stops falling. With the slices
fixed, OptimalRanks finds the ranks for which all layers have about equal error at the budget, by
root finding over the error. With each layer's size fixed, OptimalSubspaces finds the slices that
give it the least error. The result is a local optimum, so the best start wins.

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
"""The number of starts that have k = 1, 2, … in every layer; the others draw k at random."""

Variant = tuple[int, int]
"""(scheme, k), which OptimalSubspaces chooses for a layer."""


def alternating(
    layers: Sequence[LayerOptions],
    budgets: Sequence[int],
    *,
    seed: int = 0,
    starts: int = 15,
    randomised: bool = False,
) -> Allocation:
    """Return the best local optimum of the paper's Algorithm 1, without a bound on the optimum.

    Args:
        layers: the options of every layer.
        budgets: the most that the chosen options' costs may add up to: a single number, since
            the algorithm is defined for one budget only.
        seed: the seed of the random starts.
        starts: n_seed of the paper (15 in its Tables 3 and 4).
        randomised: whether OptimalRanks finds real ranks and rounds them at random (supplement
            A.5).

    Returns:
        The allocation; its `lower_bound` is 0.

    Raises:
        ValueError: there is not exactly one budget.
        InfeasibleError: even the cheapest options exceed the budget.
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
    chosen = [first_of_equals(options, index) for options, index in zip(layers, best, strict=True)]
    return Allocation(chosen, best_error, 0.0)


@dataclass(frozen=True, slots=True)
class _LayerSearch:
    """A layer's options, with the frontier of every (scheme, k) including the kept layer."""

    options: LayerOptions
    variants: dict[Variant, Frontier]

    @classmethod
    def of(cls, options: LayerOptions) -> _LayerSearch:
        """Sort a layer's options by variant; a layer that can only be kept has variant (0, 0)."""
        scheme, k, _ = options.choices.T
        pairs = sorted({(int(s), int(n)) for s, n in zip(scheme, k, strict=True) if n}) or [(0, 0)]
        variants = {}
        for one_scheme, one_k in pairs:
            (chosen,) = np.nonzero(((scheme == one_scheme) & (k == one_k)) | (k == 0))
            mask = np.zeros(len(k), dtype=np.bool_)
            mask[chosen] = True
            layer_frontier = frontier(options.subset(mask))
            variants[one_scheme, one_k] = Frontier(
                layer_frontier.costs, layer_frontier.errors, chosen[layer_frontier.indices]
            )
        return cls(options, variants)

    def nearest(self, k: int) -> Variant:
        """Return the variant of the first scheme whose k is closest to the given one."""
        return min(self.variants, key=lambda variant: (variant[0], abs(variant[1] - k), variant[1]))

    def best_within(self, size: int, current: Variant) -> Variant:
        """OptimalSubspaces (line 7): return the variant with the least error within `size`.

        The kept layer does not count, because it belongs to no variant. Where no pair fits, the
        current variant stays.
        """
        errors = {
            variant: self.options.errors[index]
            for variant, layer_frontier in self.variants.items()
            for index in [_best_pair(self.options, layer_frontier, size)]
            if index is not None
        }
        return min(errors, key=lambda variant: (errors[variant], variant), default=current)


def _best_pair(options: LayerOptions, layer_frontier: Frontier, size: int) -> int | None:
    """Return the index of the best low-rank option that costs at most `size`, or None."""
    fitting = layer_frontier.indices[
        (layer_frontier.costs <= size) & (options.choices[layer_frontier.indices, 1] > 0)
    ]
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
"""Line 4: maps frontiers and a budget to the error and each layer's position."""


def _whole_ranks(frontiers: Sequence[Frontier], budget: int) -> tuple[float, list[int]]:
    """Return the whole ranks of equal error."""
    level = Frontiers.join(frontiers).lowest_level(budget)
    return level, [layer_frontier.cheapest(level) for layer_frontier in frontiers]


def _rounded_ranks(
    frontiers: Sequence[Frontier], budget: int, *, generator: random.Random
) -> tuple[float, list[int]]:
    """Return the real ranks of equal error, rounded at random."""
    positions = randomised_rounding(frontiers, budget, generator)
    level = max(
        float(layer_frontier.errors[at])
        for layer_frontier, at in zip(frontiers, positions, strict=True)
    )
    return level, positions


def _descend(
    searches: Sequence[_LayerSearch],
    variants: list[Variant],
    budget: int,
    optimal_ranks: OptimalRanks,
) -> tuple[float, list[int]] | None:
    """Iterate from one start; return (error, option indices), or None where it is infeasible."""
    best: tuple[float, list[int]] | None = None
    while True:
        frontiers = [s.variants[variant] for s, variant in zip(searches, variants, strict=True)]
        if sum(int(layer_frontier.costs[0]) for layer_frontier in frontiers) > budget:
            return best
        level, positions = optimal_ranks(frontiers, budget)
        if best is not None and level >= best[0]:
            return best
        chosen = [
            int(layer_frontier.indices[at])
            for layer_frontier, at in zip(frontiers, positions, strict=True)
        ]
        best = level, chosen
        variants = [
            search.best_within(int(layer_frontier.costs[at]), variant)
            for search, layer_frontier, at, variant in zip(
                searches, frontiers, positions, variants, strict=True
            )
        ]


DRAWS = 100
"""The number of random roundings of the real ranks."""


def relaxed_positions(frontiers: Sequence[Frontier], budget: int) -> list[float]:
    """Return each layer's position on its frontier at the optimum of the relaxation.

    In the continuous relaxation of OptimalRanks, a layer may lie anywhere between two neighbouring
    options of its frontier: position p + t, with 0 ≤ t < 1, is the fraction t of the way from
    option p to p + 1, and cost and error are interpolated. The level at which all layers have the
    same error and together cost the budget is found exactly, since everything is linear between
    two neighbouring errors.

    Args:
        frontiers: costs rise, errors fall; the cheapest options fit into the budget.
        budget: the most that the interpolated costs may add up to.

    Source: Liebenwein et al., NeurIPS 2021, supplement A.5.
    """
    levels = np.unique(np.concatenate([layer_frontier.errors for layer_frontier in frontiers]))
    # The highest level costs least. Bisect for the two neighbouring levels around the budget.
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
    return [_position(layer_frontier, level) for layer_frontier in frontiers]


def randomised_rounding(
    frontiers: Sequence[Frontier], budget: int, generator: random.Random, draws: int = DRAWS
) -> list[int]:
    """Return the best of several random roundings of the relaxation's optimum that fit the budget.

    Each layer takes its next better option with the probability given by its real position, so
    that the expected cost is the budget. Draws that exceed the budget are discarded; of the
    others, the one with the least maximum is returned.

    Args:
        frontiers: the frontiers of all layers; their cheapest options fit into the budget.
        budget: the most that the chosen options' costs may add up to.
        generator: the only source of random numbers.
        draws: the number of roundings to try.

    Returns:
        A position on every frontier.

    Source: Liebenwein et al., NeurIPS 2021, supplement A.5; Raghavan, Tompson, Combinatorica 1987.
    """
    real = relaxed_positions(frontiers, budget)
    lower = [int(position) for position in real]
    chances = [position - whole for position, whole in zip(real, lower, strict=True)]
    # Rounding all of them down costs no more than the relaxation, which fits.
    best, least = lower, _worst(frontiers, lower)
    for _ in range(draws):
        drawn = [
            whole + (generator.random() < chance)
            for whole, chance in zip(lower, chances, strict=True)
        ]
        cost = sum(
            int(layer_frontier.costs[at])
            for layer_frontier, at in zip(frontiers, drawn, strict=True)
        )
        worst = _worst(frontiers, drawn)
        if cost <= budget and worst < least:
            best, least = drawn, worst
    return best


def _worst(frontiers: Sequence[Frontier], positions: Sequence[int]) -> float:
    return max(
        float(layer_frontier.errors[at])
        for layer_frontier, at in zip(frontiers, positions, strict=True)
    )


def _position(layer_frontier: Frontier, level: float) -> float:
    """Return the real position at which a layer's error equals the level, or comes closest."""
    return float(np.interp(-level, -layer_frontier.errors, np.arange(len(layer_frontier.errors))))


def _cost(frontiers: Sequence[Frontier], level: float) -> float:
    """Return the cost of all layers together at a level."""
    return float(
        sum(
            np.interp(
                _position(layer_frontier, level), _steps(layer_frontier), layer_frontier.costs
            )
            for layer_frontier in frontiers
        )
    )


def _steps(layer_frontier: Frontier) -> FloatArray:
    return np.arange(len(layer_frontier.costs), dtype=np.float64)
