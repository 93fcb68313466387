"""What a solver hands back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allocation:
    """One option for every layer, and how good that provably is.

    `chosen` holds the index of each layer's option; `objective` is what was minimised, the
    largest error or the sum of the errors; no allocation within the budgets lies below
    `lower_bound`, which equals the objective where that is proven to be the optimum.
    """

    chosen: list[int]
    objective: float
    lower_bound: float

    @property
    def gap(self) -> float:
        """How far above the optimum the objective is at most."""
        return self.objective - self.lower_bound
