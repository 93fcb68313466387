"""ALDS in the norm of the data: errors of outputs on images, rather than of weights.

Options are those of ALDS, all slices and ranks of scheme 0. Their errors are E‖(W − Ŵ)x‖² over the
patches x that the layer gets on a sample of images, relative to E‖Wx‖². All solvers and error
definitions work on them; the factors of a choice are then fitted in the same norm. The least sum of
their squares is the default.

Sources: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, Eq. 8, for the allocation; Zhang, Zou, He,
Sun, TPAMI 2016, Sec. 3.1, and Wang et al., ICLR 2025 (SVD-LLM), for the norm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from alds_cli.allocation import Problem
from alds_cli.calibration import Statistic
from alds_cli.calibration.input_moments import INPUT_MOMENTS, InputMoments
from alds_cli.errors import OptionError
from alds_cli.methods.method import ALDS_PAPER, Factors, FactorTask, Method, SvdOfSlices
from alds_cli.methods.solvers import ROUNDING_ARGUMENT, SOLVERS, allocated, default_bounds, observed
from alds_cli.numerics.data_norm import data_factors
from alds_cli.numerics.fold import factors_to_weights, fold, multiply_back
from alds_cli.records import OPERATOR, Choice, Plan


def plan(problem: Problem) -> Plan:
    """Minimise the layers' errors on images over all slices and ranks of scheme 0.

    Raises:
        OptionError: no moments are known, or the solver cannot do what is asked.
        ValueError: the budgets cannot be met.
    """
    seen = require_on_images(problem, "alds-data")
    return allocated(seen, seen.options, "alds-data")


def require_on_images(problem: Problem, method: str) -> Problem:
    """Return the same problem with the errors of layers on images.

    Raises:
        OptionError: no moments are known, or true errors of weights are asked for.
    """
    seen = on_images(problem, INPUT_MOMENTS, method, "measures errors on them")
    if problem.bound == "exact":
        raise OptionError(
            f"the method {method} minimises errors on images, not the true errors of weights",
            tip="--bound sum",
        )
    return seen


def on_images(problem: Problem, statistic: Statistic[Any], method: str, purpose: str) -> Problem:
    """Return the same problem with the layers' errors in the norm of moments.

    Args:
        problem: its tables are of errors of weights.
        statistic: the moments that the method needs.
        method: the method's name, for messages.
        purpose: what it does with images, for messages.

    Raises:
        OptionError: no moments are known.
    """
    known = observed(problem, statistic, method, purpose)
    tables = [replace(known[table.spec.name], spec=table.spec) for table in problem.tables]
    return replace(problem, tables=tables, refine=None)


class DataFitted:
    """Factors that are closest to the layer on its inputs; see `method.Factorisation`.

    Args:
        statistic: `INPUT_MOMENTS`, or other moments of the same kind.
    """

    schemes = (OPERATOR,)
    tabled = False

    def __init__(self, statistic: Statistic[Any] = INPUT_MOMENTS) -> None:
        self._statistic = statistic

    def complaint(self, choice: Choice) -> str | None:
        """Return None: any number of slices can be fitted."""
        del choice
        return None

    def nbytes(self, task: FactorTask) -> int:
        """Return the approximate bytes of the moments in other units and of products with them."""
        found: InputMoments = task.statistics[self._statistic.name]
        return 4 * found.nbytes + 48 * task.weight.numel()

    def __call__(self, task: FactorTask) -> Factors:
        """Fit the factors, and find the constant that keeps the mean of the outputs."""
        found: InputMoments = task.statistics[self._statistic.name]
        weight, choice, groups = task.weight, task.choice, task.spec.groups
        moments = found.moments
        if moments is None:
            tensors = SvdOfSlices()(task).tensors
        else:
            left, right, _ = data_factors(
                fold(weight, OPERATOR), moments, choice.k, choice.j, weight.dtype
            )
            shape = tuple(weight.shape)
            tensors = factors_to_weights(left, right, shape, OPERATOR, groups)
        if found.absorber is None:
            return Factors(tensors)
        first, second = (half.to(torch.float64) for half in tensors)
        pair = multiply_back(first, second, tuple(weight.shape), OPERATOR, choice.k, groups)
        lost = fold(weight.to("cpu", torch.float64) - pair, OPERATOR)
        per_group = lost.reshape(groups, len(lost) // groups, -1)
        constant = (per_group @ found.mean[:, :, None]).flatten()
        return Factors(tensors, constant, found.absorber)


METHOD = Method(
    "channel slicing in the norm of the inputs on images; one allocation of all layers",
    f"{ALDS_PAPER}, Eq. 8; Zhang, Zou, He, Sun, TPAMI 2016, https://arxiv.org/abs/1505.06798, "
    "Sec. 3.1; Wang et al., ICLR 2025, https://arxiv.org/abs/2403.07378",
    plan,
    solvers={"knapsack": SOLVERS["knapsack"].bound, **default_bounds()},
    arguments=ROUNDING_ARGUMENT,
    needs=(INPUT_MOMENTS,),
    factorisation=DataFitted(),
)
