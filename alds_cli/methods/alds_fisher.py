"""ALDS in the norm of the data, weighted by how much the network's answers depend on each layer.

The sum over the layers of their squared errors on images, relative to their outputs, counts all
layers alike; Fisher's information estimates what each error does to the answers, but only while
errors are small. The weight of a layer is that estimate to a power between 0, which is the method
`alds-data`, and 1.

Sources: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, Eq. 8, for the allocation; Martens, JMLR
21 (2020), Sec. 5, for the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import exp, log

from alds_cli.allocation import LayerOptions, Problem
from alds_cli.calibration.fisher_traces import FISHER_TRACES, FisherTrace
from alds_cli.calibration.input_moments import INPUT_MOMENTS
from alds_cli.errors import OptionError
from alds_cli.methods.alds_data import DataFitted, require_on_images
from alds_cli.methods.method import ALDS_PAPER, Method
from alds_cli.methods.solvers import ROUNDING_ARGUMENT, SOLVERS, allocated, default_bounds, observed
from alds_cli.records import ArgumentValue, Plan

_LEAST = 1e-9
"""The least importance of a layer, as a share of the largest: none is worth nothing."""


def plan(problem: Problem) -> Plan:
    """Minimise the layers' weighted errors on images over all slices and ranks of scheme 0.

    Raises:
        OptionError: nothing is known of the layers on images, or the solver cannot do what is
            asked.
        ValueError: the budgets cannot be met.
    """
    seen = require_on_images(problem, "alds-fisher")
    traces = observed(problem, FISHER_TRACES, "alds-fisher", "weighs errors by them")
    power = problem.arguments["power"]
    assert isinstance(power, float | int)  # noqa: S101 - the table's checks see to it
    weights = error_weights(
        {table.spec.name: traces[table.spec.name] for table in seen.tables}, power
    )

    def options(bound: str) -> list[LayerOptions]:
        return [
            replace(layer, errors=layer.errors * weights[layer.name])
            for layer in seen.options(bound)
        ]

    return allocated(seen, options, "alds-fisher")


def error_weights(traces: Mapping[str, FisherTrace], power: float) -> dict[str, float]:
    """Return what the layers' errors are multiplied by; the weights' geometric mean is 1.

    Args:
        traces: what is known of each layer.
        power: of the estimated divergence; its root applies to errors, which are not squared.
    """
    if not traces:
        return {}
    most = max(trace.importance for trace in traces.values())
    if not most > 0:
        return dict.fromkeys(traces, 1.0)
    logs = {name: log(max(own.importance / most, _LEAST)) for name, own in traces.items()}
    middle = sum(logs.values()) / len(logs)
    return {name: exp(power / 2 * (own - middle)) for name, own in logs.items()}


def _require_power(arguments: Mapping[str, ArgumentValue]) -> None:
    power = arguments["power"]
    if not (isinstance(power, float | int) and 0 <= power <= 1):
        raise OptionError(
            f"alds-fisher: the power is {power}, not between 0 and 1", tip="--method-arg power=0.5"
        )


METHOD = Method(
    "alds-data, each layer's error weighted by what it does to the answers",
    f"{ALDS_PAPER}, Eq. 8; Martens, JMLR 21 (2020), "
    "https://jmlr.org/papers/v21/17-678.html, Sec. 5",
    plan,
    solvers={"knapsack": SOLVERS["knapsack"].bound, **default_bounds()},
    arguments={**ROUNDING_ARGUMENT, "power": 0.5},
    needs=(INPUT_MOMENTS, FISHER_TRACES),
    factorisation=DataFitted(),
    checks=(_require_power,),
)
