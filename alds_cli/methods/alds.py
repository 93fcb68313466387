"""ALDS: channel slicing and the minimax allocation over (k, j) of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from alds_cli.allocation import LayerOptions, alternating, layer_options, minimax
from alds_cli.records import LayerTable, Plan


class Solver(Protocol):
    """Chooses one option per layer within a budget."""

    def __call__(self, layers: Sequence[LayerOptions], budget: int, *, seed: int) -> list[int]:
        """For every layer the index of its option."""
        ...


def _exact(layers: Sequence[LayerOptions], budget: int, *, seed: int) -> list[int]:
    """The exact solver draws no random numbers; it takes the seed to fit the protocol."""
    del seed
    return minimax(layers, budget)


SOLVERS: Mapping[str, Solver] = MappingProxyType({"exact": _exact, "alternating": alternating})
"""`exact` is the global optimum; `alternating` the paper's Algorithm 1."""


def plan(tables: Sequence[LayerTable], budget: int, *, solver: str, bound: str, seed: int) -> Plan:
    """The allocation that minimises the largest relative error (paper, Eq. 8).

    Args:
        tables: the error tables of the layers that may be decomposed.
        budget: how many weights those layers may have together.
        solver: a key of `SOLVERS`.
        bound: the error definition, a key of `allocation.ERROR_DEFINITIONS`.
        seed: for solvers that draw random numbers.

    Raises:
        ValueError: the budget is below what the cheapest options need.
    """
    layers = [layer_options(table, bound=bound) for table in tables]
    chosen = SOLVERS[solver](layers, budget, seed=seed)
    picked = list(zip(layers, chosen, strict=True))
    return Plan(
        {options.name: options.choice(index) for options, index in picked},
        method="alds",
        solver=solver,
        bound=bound,
        seed=seed,
        objective=max((float(options.errors[index]) for options, index in picked), default=0.0),
    )
