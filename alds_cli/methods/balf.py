"""BALF: pairs that are closest to the layers on images, with ranks by one price on their cost.

A layer with the weight W and second moments C = E[x xᵀ] of its input patches keeps the energy
Σ_{m≤j} σ²_m / Σ σ²_m at rank j, where σ are the singular values of W C^½. The ranks maximise the
sum of these shares over the layers less λ times the cost, which is what `lower_hull.lagrangian`
does, since what is lost is 1 less the share. Every layer counts alike, whatever its outputs' size.

Moments are not centred, and nothing is repaired afterwards: biases and batch normalisations stay.

The paper inverts C^½ by its pseudo-inverse, so that nothing remains of the weight in directions
that the inputs never reach. The projection of `numerics.data_norm` loses as little, and keeps the
weight's own in these directions.

Source: González-Martínez, 2025, https://arxiv.org/abs/2509.25136.
"""

from __future__ import annotations

from alds_cli.allocation import LayerOptions, Problem
from alds_cli.calibration.input_moments import SECOND_MOMENTS
from alds_cli.errors import OptionError
from alds_cli.methods.alds_data import DataFitted, on_images
from alds_cli.methods.equalising import sliced_options
from alds_cli.methods.method import Method
from alds_cli.methods.solvers import allocated, default_bounds
from alds_cli.records import Choice, Plan


def plan(problem: Problem) -> Plan:
    """Maximise the energies that the layers keep on images, over the ranks of one slice.

    Raises:
        OptionError: no moments are known, or another error definition is asked for.
        ValueError: the budgets cannot be met.
    """
    seen = on_images(problem, SECOND_MOMENTS, "balf", "measures the energies of outputs on them")

    def options(bound: str) -> list[LayerOptions]:
        if bound != "frobenius":
            raise OptionError(
                f"the method balf minimises energies of outputs on images, not {bound}",
                tip="leave out --bound",
            )
        return sliced_options(seen, bound, 1)

    return allocated(seen, options, "balf")


class OneSlice(DataFitted):
    """The closest pair of one slice; see `method.Factorisation`."""

    def complaint(self, choice: Choice) -> str | None:
        """Return a complaint unless there is one slice."""
        if choice.k == 1:
            return None
        return f"the method balf makes pairs of one slice, not of {choice.k}"


METHOD = Method(
    "the closest pairs on images in one slice, the most energy kept less a price for size",
    "González-Martínez, 2025, https://arxiv.org/abs/2509.25136",
    plan,
    solvers=default_bounds("lagrangian", "knapsack"),
    needs=(SECOND_MOMENTS,),
    factorisation=OneSlice(SECOND_MOMENTS),
)
