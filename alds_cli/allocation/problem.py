"""What a method is asked to solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alds_cli.allocation.options import LayerOptions, Prices, RankPrices, layer_options
from alds_cli.records import Choice, LayerTable

Refine = Callable[[Sequence[tuple[str, Choice]]], Sequence[float]]
"""`refine([(layer, choice), …])`: the true relative errors ‖W − Ŵ‖₂ / ‖W‖₂ of choices."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Tables, budgets, and what options cost.

    `tables` are those of the layers that may be decomposed; `budgets` says how much of
    each of D resources these layers may take together, `prices` what their options take
    (None: parameters), and `rank_prices` what a rank more takes of all of them together.
    Only ranks that are multiples of `rank_multiple` are on offer. `refine` gives true errors
    to whoever minimises them.
    """

    tables: Sequence[LayerTable]
    budgets: Sequence[int]
    prices: Prices | None = None
    rank_prices: RankPrices | None = None
    rank_multiple: int = 1
    refine: Refine | None = None

    def options(self, bound: str, schemes: Sequence[int] = (0,)) -> list[LayerOptions]:
        """The options of every layer, with their errors by that definition."""
        return [
            layer_options(
                table,
                bound=bound,
                schemes=schemes,
                rank_multiple=self.rank_multiple,
                prices=self.prices,
                rank_prices=self.rank_prices,
            )
            for table in self.tables
        ]
