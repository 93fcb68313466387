"""The one table of every method, with where each comes from.

A method sees error tables and a budget and gives a plan; it never sees a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from alds_cli.errors import OptionError
from alds_cli.methods import alds
from alds_cli.records import LayerTable, Plan

__all__ = ["METHODS", "Method", "Planner", "method_named"]


class Planner(Protocol):
    """From error tables and a budget in weights to a plan."""

    def __call__(
        self, tables: Sequence[LayerTable], budget: int, *, solver: str, bound: str, seed: int
    ) -> Plan:
        """Choose for every layer; raises ValueError where the budget cannot be met."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """A way to plan: what it is, its paper, the folding schemes its tables need."""

    summary: str
    paper: str
    plan: Planner
    solvers: tuple[str, ...]
    schemes: tuple[int, ...] = (0,)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "alds": Method(
            "channel slicing; the largest relative error over the layers is minimised",
            "Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, https://arxiv.org/abs/2107.11442",
            alds.plan,
            tuple(alds.SOLVERS),
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
