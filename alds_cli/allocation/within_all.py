"""The least maximum of the errors where several budgets must hold at once.

At a level each layer offers the options whose error is at most the level; whether some
choice of them keeps all budgets is a knapsack again: minimise what one resource is taken
under the budgets of the others, and compare with the budget of that one. Both answers
come with a proof: a selection, or a bound by multipliers on the budgets (Lagrange). Where
neither is found a level stays open, and the gap says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from alds_cli.allocation.dominance import undominated, undominated_options
from alds_cli.allocation.frontiers import Frontiers, first_of_equals, frontier
from alds_cli.allocation.instance import Instance
from alds_cli.allocation.knapsack import solve, unmet
from alds_cli.allocation.options import InfeasibleError, LayerOptions
from alds_cli.allocation.result import Allocation
from alds_cli.records import FloatArray, IntArray


def minimax_within_all(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> Allocation:
    """The least maximum of the layers' errors within several budgets, and a bound on it.

    What the budgets leave is spent on the worst layer again and again, on the better
    option that takes the smallest shares of the budgets.

    Args:
        layers: the options of every layer, at least one, with costs (n, D).
        budgets: for each of the D resources, what the chosen options may take together.

    Raises:
        InfeasibleError: no allocation within the budgets exists, or none was found.
    """
    kept = [undominated_options(options.errors, options.costs) for options in layers]
    search = _LevelSearch(
        [
            (options.errors[own], options.costs[own], own)
            for options, own in zip(layers, kept, strict=True)
        ],
        budgets,
    )
    levels = _levels(layers, budgets)
    first_open, found = search.narrow(levels)
    positions = _spend_the_rest(search.pieces, found, search.budgets)
    picked = list(zip(search.pieces, positions, strict=True))
    chosen = [
        first_of_equals(options, int(own[at]))
        for options, ((_, _, own), at) in zip(layers, picked, strict=True)
    ]
    objective = max(float(errors[at]) for (errors, _, _), at in picked)
    return Allocation(chosen, objective, min(float(levels[first_open]), objective))


Piece = tuple[FloatArray, IntArray, IntArray]
"""A layer's undominated options: errors (n,), costs (n, D) and their indices (n,)."""


def _levels(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> FloatArray:
    """The distinct errors, ascending, from the level that the budgets one by one allow.

    Raises:
        InfeasibleError: even the cheapest options exceed one of the budgets.
    """
    floor = 0.0
    for resource, budget in enumerate(budgets):
        alone = [
            LayerOptions(own.name, own.costs[:, [resource]], own.errors, own.choices)
            for own in layers
        ]
        joined = Frontiers.join([frontier(options) for options in alone])
        floor = max(floor, joined.lowest_level(int(budget)))
    levels = np.unique(np.concatenate([own.errors for own in layers]))
    return levels[levels >= floor]


@dataclass(slots=True)
class _LevelSearch:
    """What is known of the levels: selections for some, proof that there is none for others.

    `found` holds by level the position of every layer's option, or None, and `refuted`
    whether it is proven that there is no selection.
    """

    pieces: list[Piece]
    budgets: Sequence[int]
    found: dict[int, list[int] | None] = field(default_factory=dict)
    refuted: dict[int, bool] = field(default_factory=dict)

    def narrow(self, levels: FloatArray) -> tuple[int, list[int]]:
        """The first level that is not refuted, and the selection at the first one that has one.

        Raises:
            ValueError: not even the last level has one.
        """
        low, high = 0, len(levels) - 1
        self._try(high, levels)
        while low < high:
            middle = (low + high) // 2
            self._try(middle, levels)
            if self.found[middle] is not None:
                high = middle
            else:
                low = middle + 1
        selection = self.found[high] if high in self.found else self._tried(high, levels)
        if selection is None:
            raise InfeasibleError(unmet(np.inf if self.refuted[high] else 0.0))
        low = 1 + max((at for at, refuted in self.refuted.items() if refuted), default=-1)
        while low < high:
            middle = (low + high) // 2
            self._try(middle, levels)
            if self.refuted[middle]:
                low = middle + 1
            else:
                high = middle
        return low, selection

    def _tried(self, at: int, levels: FloatArray) -> list[int] | None:
        self._try(at, levels)
        return self.found[at]

    def _try(self, at: int, levels: FloatArray) -> None:
        """Look for a selection at a level, or for a proof that there is none."""
        if at in self.found:
            return
        offered = [_offered(piece, float(levels[at])) for piece in self.pieces]
        instance = Instance.join(offered, self.budgets[1:])
        limit = float(self.budgets[0])
        positions, lower_bound = solve(instance, limit)
        good = positions is not None and instance.value(positions) <= limit
        self.found[at] = instance.indices[positions].tolist() if good else None
        self.refuted[at] = lower_bound > limit


def _offered(piece: Piece, level: float) -> Piece:
    """The options worth having within a level, with the first resource as their value."""
    errors, costs, _ = piece
    (within,) = np.nonzero(errors <= level)
    own = within[undominated(costs[within, 0], costs[within, 1:])]
    return costs[own, 0].astype(np.float64), costs[own, 1:], own


def _spend_the_rest(
    pieces: Sequence[Piece], positions: Sequence[int], budgets: Sequence[int]
) -> list[int]:
    """Improve the worst layer again and again; one that cannot improve is settled."""
    positions = list(positions)
    scale = np.maximum(np.array(budgets, dtype=np.int64), 1)
    taken = np.array([costs[at] for (_, costs, _), at in zip(pieces, positions, strict=True)])
    slack = np.array(budgets, dtype=np.int64) - taken.sum(axis=0)
    unsettled = set(range(len(pieces)))
    while unsettled:
        worst = max(unsettled, key=lambda layer: (pieces[layer][0][positions[layer]], -layer))
        errors, costs, _ = pieces[worst]
        extra = costs - costs[positions[worst]]
        better = (errors < errors[positions[worst]]) & np.all(extra <= slack, axis=1)
        (candidates,) = np.nonzero(better)
        if not len(candidates):
            unsettled.remove(worst)
            continue
        shares = (extra[candidates] / scale).sum(axis=1)
        positions[worst] = int(candidates[np.argmin(shares)])
        slack = slack - extra[positions[worst]]
    return positions
