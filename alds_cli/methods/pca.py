"""PCA: pairs from the principal components of responses, with ranks by the product of energies.

The energy that a layer keeps at rank j is the sum of the j largest eigenvalues of the covariance of
its responses. The paper maximises the product of the layers' energies greedily (its Eq. 14 and the
algorithm below it): all layers start whole, and repeatedly the eigenvalue is removed that costs the
least relative energy ΔE / E per complexity ΔC that it saves.

The first eigenvalues to be removed from a layer save nothing, since a pair near full rank is larger
than the layer, and such a pair is never made. So a step may remove several eigenvalues at once
here: from each state a layer goes to the rank with the least ΔE / E per ΔC. Between pairs, where
each eigenvalue saves as much as any other, that is the next smaller rank, as in the paper. The last
step goes no further than the budgets require.

Source: Zhang, Zou, He, Sun, TPAMI 2016, https://arxiv.org/abs/1505.06798, Secs. 3.1 and 3.3,
Eq. 14, in the symmetric and linear version (Liebenwein et al., NeurIPS 2021, supplement B.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

import numpy as np
import torch

from alds_cli.allocation import (
    Allocation,
    InfeasibleError,
    LayerOptions,
    Problem,
)
from alds_cli.calibration import RESPONSES, Responses
from alds_cli.methods.method import Factors, FactorTask, Method
from alds_cli.methods.solvers import observed, offering, plan_of
from alds_cli.numerics.fold import factors_to_weights, fold
from alds_cli.numerics.pca_factors import constant_left, response_factors
from alds_cli.records import OPERATOR, Choice, FloatArray, IntArray, Plan


def plan(problem: Problem) -> Plan:
    """Keep the largest product of energies that the greedy algorithm finds.

    Layers whose responses are not known are kept. Where several resources are budgeted,
    complexity is the sum of their shares in the budgets.

    Raises:
        OptionError: no responses are known at all.
        ValueError: the budgets cannot be met.
    """
    known = observed(problem, RESPONSES, "pca", "observes the layers' responses to them")
    layers = []
    for options in problem.options("frobenius"):
        whole = options.choices[:, 1] == 0
        energies = known.get(options.name)
        if energies is None:
            layers.append(options.subset(whole))
            continue
        single = options.subset(
            whole | ((options.choices[:, 0] == 0) & (options.choices[:, 1] == 1))
        )
        lost = energy_lost(energies)[single.choices[:, 2]]
        lost[single.choices[:, 1] == 0] = 0.0
        layers.append(LayerOptions(options.name, single.costs, lost, single.choices))
    with offering(layers):
        chosen = greedy_product(layers, problem.budgets)
    return plan_of(layers, Allocation(chosen, 0.0, 0.0), problem, "pca")


def energy_lost(energies: FloatArray) -> FloatArray:
    """Return the share of the energy that rank j = 0 … J leaves out, (J + 1,); 0 if all is 0."""
    tail = np.append(np.cumsum(energies[::-1])[::-1], 0.0)
    return np.asarray(tail / tail[0] if tail[0] > 0 else np.zeros_like(tail))


def greedy_product(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> list[int]:
    """Return the option of each layer at which the greedy algorithm meets the budgets.

    Args:
        layers: the options of every layer. An option's error is the share of energy it loses, and
            the option that keeps the layer, with error 0, is among them.
        budgets: the most that the options' costs may add up to.

    Raises:
        InfeasibleError: all steps together do not meet the budgets.
    """
    allowed = np.asarray(budgets)
    states = [_State.whole(options, allowed) for options in layers]
    spent: IntArray = np.sum(
        [options.costs[state.at] for options, state in zip(layers, states, strict=True)], axis=0
    )
    queue = [
        (step.price, index, step) for index, state in enumerate(states) if (step := state.next())
    ]
    heapify(queue)
    while np.any(spent > allowed):
        if not queue:
            raise InfeasibleError("even the least ranks exceed the budget")
        _, index, step = queue[0]
        state, costs = states[index], layers[index].costs
        others = spent - costs[state.at]
        to = step.to
        if np.all(others + costs[to] <= allowed):
            to = state.least_that_fits(to, allowed - others)
        spent, state.at = others + costs[to], to
        following = state.next()
        if following is None:
            heappop(queue)
        else:
            heapreplace(queue, (following.price, index, following))
    return [state.at for state in states]


@dataclass(frozen=True, slots=True, order=True)
class _Step:
    """A step to another option of a layer, at a price: ΔE / E per ΔC."""

    price: float
    to: int


@dataclass(slots=True)
class _State:
    """The option that a layer has reached, and the `complexity` (n,) of all its options."""

    options: LayerOptions
    complexity: FloatArray
    at: int

    @classmethod
    def whole(cls, options: LayerOptions, allowed: IntArray) -> _State:
        """Return the state that keeps the layer."""
        shares = options.costs / np.maximum(allowed, 1)
        (kept,) = np.nonzero(options.choices[:, 1] == 0)
        return cls(options, shares.sum(axis=1), int(kept[0]))

    def next(self) -> _Step | None:
        """Return the step with the lowest price; of equals, the one that loses and saves least."""
        (simpler,) = np.nonzero(self.complexity < self.complexity[self.at])
        if not len(simpler):
            return None
        lost = self.options.errors
        saved = self.complexity[self.at] - self.complexity[simpler]
        prices = (lost[simpler] - lost[self.at]) / (1 - lost[self.at]) / saved
        best = np.lexsort((saved, lost[simpler], prices))[0]
        return _Step(float(prices[best]), int(simpler[best]))

    def least_that_fits(self, to: int, left: IntArray) -> int:
        """Return the option that loses least on the way to `to` and fits into what is `left`."""
        between = (self.complexity >= self.complexity[to]) & np.all(
            self.options.costs <= left, axis=1
        )
        (fitting,) = np.nonzero(between)
        return int(fitting[np.lexsort((self.complexity[fitting], self.options.errors[fitting]))[0]])


class PrincipalComponents:
    """Projection on the principal components of the responses, with a constant for the rest.

    See `factorisation.Factorisation`.
    """

    schemes = (OPERATOR,)
    tabled = False

    def complaint(self, choice: Choice) -> str | None:
        """Return a complaint unless there is one slice: components belong to the whole layer."""
        if choice.k == 1:
            return None
        return f"principal components of responses are those of one slice, not of {choice.k}"

    def nbytes(self, task: FactorTask) -> int:
        """Return the approximate bytes of the moments' eigenvectors and the weight in float64."""
        responses: Responses = task.statistics[RESPONSES.name]
        return 8 * (3 * responses.moments.numel() + 2 * task.weight.numel())

    def __call__(self, task: FactorTask) -> Factors:
        """Project the weight on the leading components.

        Raises:
            ValueError: the choice has several slices.
        """
        if complaint := self.complaint(task.choice):
            raise ValueError(complaint)
        responses: Responses = task.statistics[RESPONSES.name]
        left, right, basis = response_factors(
            fold(task.weight, OPERATOR),
            responses.moments,
            responses.frame,
            task.choice.j,
            task.weight.dtype,
        )
        shape = tuple(task.weight.shape)
        tensors = factors_to_weights(left, right, shape, OPERATOR, task.spec.groups)
        if responses.absorber is None:
            return Factors(tensors)
        mean = responses.mean
        rest = mean if task.bias is None else mean - task.bias.to("cpu", torch.float64)
        return Factors(tensors, constant_left(basis, rest), responses.absorber)


METHOD = Method(
    "principal components of the layers' responses to images; the product of energies",
    "Zhang, Zou, He, Sun, TPAMI 2016, https://arxiv.org/abs/1505.06798, Sec. 3.1, Eq. 14",
    plan,
    needs=(RESPONSES,),
    factorisation=PrincipalComponents(),
)
