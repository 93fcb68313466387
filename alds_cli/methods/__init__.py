"""The one table of every method, with where each comes from.

A method sees error tables and a budget and gives a plan; it never sees a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from alds_cli.allocation import Problem
from alds_cli.errors import OptionError
from alds_cli.methods import alds
from alds_cli.records import Plan

__all__ = ["METHODS", "Method", "Planner", "method_named"]


class Planner(Protocol):
    """From error tables, prices and budgets to a plan."""

    def __call__(self, problem: Problem, *, solver: str, bound: str, seed: int) -> Plan:
        """Choose for every layer; raises ValueError where the budgets cannot be met."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """A way to plan: what it is, its paper, the folding schemes its tables need.

    `solvers` maps each solver's name to the error definition it takes by itself; the first
    is the method's own.
    """

    summary: str
    paper: str
    plan: Planner
    solvers: Mapping[str, str]
    schemes: tuple[int, ...] = (0,)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "alds": Method(
            "channel slicing; one allocation over the slices and ranks of all layers",
            "Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, https://arxiv.org/abs/2107.11442",
            alds.plan,
            {name: solver.bound for name, solver in alds.SOLVERS.items()},
            alds.SCHEMES,
        ),
    }
)


def method_named(name: str) -> Method:
    """Look a method up.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in METHODS:
        raise OptionError(f"unknown method '{name}'", tip=f"choose from {', '.join(METHODS)}")
    return METHODS[name]
