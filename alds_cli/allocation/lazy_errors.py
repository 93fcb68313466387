"""The optimum for errors that are expensive to compute, found from lower bounds on them.

A solver that is given lower bounds in place of errors finds something no worse than the optimum;
where it chooses only options whose true error is known, that is the optimum. So true errors are
requested until that happens. Which ones to request is guessed by solving with estimates, so that
few are needed and most are computed side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation.layer_options import Allocation, LayerOptions
from alds_cli.records import FloatArray, IntArray

Solve = Callable[[Sequence[LayerOptions], Sequence[int]], Allocation]
"""A solver whose result is no worse for smaller errors: `minimax` or `knapsack`."""

Request = tuple[int, int]
"""A layer's position and the index of one of its options."""


def refined(
    solve: Solve,
    layers: Sequence[LayerOptions],
    known: Sequence[NDArray[np.bool_]],
    budgets: Sequence[int],
    refine: Callable[[Sequence[Request]], Sequence[float]],
    guesses: Sequence[FloatArray] | None = None,
) -> tuple[Allocation, list[LayerOptions]]:
    """Solve with true errors while computing as few of them as possible.

    The result is what `solve` would find if all errors were known. Proof: let a solution of the
    lower bounds contain only known errors. Any other allocation has true errors no smaller than
    its lower bounds, one by one, hence also once they are sorted from worst to best or added up;
    and those bounds are no better than the errors of the solution, which are true. This holds for
    the lexicographic minimum, for any maximum and for any sum that rises with the errors. A
    `lower_bound` holds for the true errors for the same reason.

    Args:
        solve: minimises an objective that no smaller error can raise.
        layers: options whose errors are true where they are known, else lower bounds.
        known: for every layer, which errors are true (n,).
        budgets: as `solve` takes them.
        refine: computes the true errors of (layer position, option index) pairs; none is
            requested twice. Those of one (scheme, k) must not rise with j.
        guesses: for every layer, estimates of the true errors (n,), from which the search starts;
            None takes the lower bounds. Good ones save work, bad ones do no harm.

    Returns:
        The allocation, and the layers with everything that was learnt: true errors and raised
        lower bounds.

    Raises:
        InfeasibleError: raised by the solver.
    """
    states = [
        _Layer(*fields)
        for fields in zip(
            layers, known, guesses or [options.errors for options in layers], strict=True
        )
    ]
    while True:
        guess = solve([state.estimated() for state in states], budgets)
        requests = [
            (position, index)
            for position, (state, chosen) in enumerate(zip(states, guess.chosen, strict=True))
            for index in state.to_ask(chosen)
        ]
        if not requests:
            bounded = [state.bounded() for state in states]
            allocation = solve(bounded, budgets)
            requests = [
                (position, index)
                for position, (state, chosen, guessed) in enumerate(
                    zip(states, allocation.chosen, guess.chosen, strict=True)
                )
                for index in state.to_refute(chosen, guessed)
            ]
            if not requests:
                return allocation, bounded
        for (position, index), error in zip(requests, refine(requests), strict=True):
            states[position].learn(index, float(error))


@dataclass(slots=True)
class _Layer:
    """The knowledge about a layer's errors.

    `errors` (n,) are true errors or lower bounds, `guesses` (n,) the estimates at the start and
    `estimates` (n,) the current ones. `curve` (n,) numbers the (scheme, k) of the options.
    """

    options: LayerOptions
    known: NDArray[np.bool_]
    guesses: FloatArray
    errors: FloatArray = field(init=False)
    estimates: FloatArray = field(init=False)
    curve: IntArray = field(init=False)

    def __post_init__(self) -> None:
        self.known = self.known.copy()
        self.errors = self.options.errors.copy()
        self.guesses = np.maximum(self.guesses, self.errors)
        self.estimates = np.where(self.known, self.errors, self.guesses)
        _, curve = np.unique(self.options.choices[:, :2], axis=0, return_inverse=True)
        self.curve = curve.astype(np.int64)

    def bounded(self) -> LayerOptions:
        """Return the options with the current lower bounds."""
        return replace(self.options, errors=self.errors.copy())

    def estimated(self) -> LayerOptions:
        """Return the options with the current estimates of their errors."""
        return replace(self.options, errors=self.estimates)

    def learn(self, index: int, error: float) -> None:
        """Record a true error; it is also a lower bound for smaller ranks of the same slices."""
        self.errors[index], self.known[index] = error, True
        j = self.options.choices[:, 2]
        (on_curve,) = np.nonzero(self.curve == self.curve[index])
        on_curve = on_curve[np.argsort(j[on_curve])]
        smaller = on_curve[(j[on_curve] < j[index]) & ~self.known[on_curve]]
        self.errors[smaller] = np.maximum(self.errors[smaller], error)
        self.estimates[on_curve] = self._corrected(on_curve)

    def _corrected(self, on_curve: IntArray) -> FloatArray:
        """Estimate errors along a curve, where their ratio to the guesses varies slowly with j."""
        j, known, errors = (
            self.options.choices[on_curve, 2],
            self.known[on_curve],
            self.errors[on_curve],
        )
        positive = known & (self.guesses[on_curve] > 0) & (errors > 0)
        estimates = self.guesses[on_curve]
        if positive.any():
            logs = np.log(errors[positive] / estimates[positive])
            estimates = estimates * np.exp(np.interp(j, j[positive], logs))
        ceiling = np.minimum.accumulate(np.where(known, errors, np.inf))
        return np.where(known, errors, np.maximum(np.minimum(estimates, ceiling), errors))

    def to_ask(self, chosen: int) -> list[int]:
        """Return the options whose errors must be known before a choice can stand in this layer.

        These are the choice itself and, of every (scheme, k) that might have as small an error at
        no higher cost but is not estimated to, the largest such rank: if its error is indeed
        larger, so are those of all smaller ranks.
        """
        asked = [] if self.known[chosen] else [chosen]
        return [*asked, *self._rivals(chosen, float(self.estimates[chosen]))]

    def to_refute(self, chosen: int, guessed: int) -> list[int]:
        """Return what to compute so that a choice made only for its lower bound is not made again.

        That is one rank of every (scheme, k). Where the choice costs more than the guess, it is the
        largest rank that costs no more than the choice, since similar ones would be chosen next;
        otherwise the largest up to the cost at which so small an error is estimated to be possible.
        """
        if self.known[chosen]:
            return []
        bound = float(self.errors[chosen])
        costs = self.options.costs
        if np.any(costs[chosen] > costs[guessed]):
            rivals = self._rivals(chosen, float(self.estimates[guessed]))
            return [chosen, *(index for index in rivals if self.curve[index] != self.curve[chosen])]
        (enough,) = np.nonzero(self.estimates <= bound)
        if not len(enough):
            return [chosen]
        shares = (costs / np.maximum(costs.max(axis=0), 1)).sum(axis=1)
        needed = int(enough[np.argmin(shares[enough])])
        rivals = [index for index in self._rivals(needed, bound) if self.estimates[index] > bound]
        return rivals or [chosen]

    def _rivals(self, chosen: int, error: float) -> list[int]:
        """Return, for every (scheme, k), the largest unknown rank that may beat this error."""
        costs = self.options.costs
        dearer = np.any(costs > costs[chosen], axis=1)
        cheaper = np.any(costs < costs[chosen], axis=1)
        rival = ~self.known & ~dearer & ((self.errors < error) | cheaper & (self.errors <= error))
        rival[chosen] = False
        (rivals,) = np.nonzero(rival)
        rivals = rivals[np.lexsort((self.options.choices[rivals, 2], self.curve[rivals]))]
        last = np.append(np.diff(self.curve[rivals]) > 0, True)[: len(rivals)]
        return [int(index) for index in rivals[last]]
