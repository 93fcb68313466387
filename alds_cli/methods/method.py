"""The definition of a method: its entry in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alds_cli.allocation import Problem
from alds_cli.allocation.channel_pruning import PruningProblem, Removal
from alds_cli.errors import OptionError
from alds_cli.methods.factorisation import Factorisation, SvdOfSlices
from alds_cli.records import ArgumentValue, Plan

if TYPE_CHECKING:  # only methods that look at images import how that is done
    from alds_cli.calibration import Statistic

Planner = Callable[[Problem], Plan]
"""Maps error tables, prices and budgets to a plan; raises ValueError where the budgets cannot be
met."""

Pruner = Callable[[PruningProblem], Removal]
"""Maps groups of channels and budgets to those to remove; raises InfeasibleError likewise."""

ALDS_PAPER = "Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, https://arxiv.org/abs/2107.11442"
"""The source of the ALDS methods."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to make networks smaller: what it is, its paper, and what it needs.

    Attributes:
        summary: the method in one line.
        paper: its source, with a link and the equation.
        plan: chooses for every layer; None for a method that removes filters.
        solvers: its optimisers, each with its default error definition; the first is the default.
            Empty for a method with only one way to plan.
        schemes: the folding schemes that its error tables must cover.
        arguments: its own arguments with their defaults.
        needs: the statistics of the network's behaviour on images that it needs.
        factorisation: makes the factors of its pairs.
        seeded: whether it draws random numbers, so that repeating it is useful.
        targets: the resources that it can plan for.
        prune: chooses the filters to remove; None for a method that decomposes layers.
        checks: functions of all its arguments that raise OptionError where a value makes no
            sense, so that this is found before any work is done.

    Raises:
        TypeError: `needs` holds something other than statistics.
    """

    summary: str
    paper: str
    plan: Planner | None
    solvers: Mapping[str, str] = field(default_factory=dict)
    schemes: tuple[int, ...] = (0,)
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    needs: tuple[Statistic[Any], ...] = ()
    factorisation: Factorisation = field(default_factory=SvdOfSlices)
    seeded: bool = False
    targets: tuple[str, ...] = ("params", "macs", "bytes", "latency")
    prune: Pruner | None = None
    checks: tuple[Callable[[Mapping[str, ArgumentValue]], object], ...] = ()

    def __post_init__(self) -> None:
        """Refuse names in place of statistics, which a user-defined method may give."""
        for need in self.needs:
            if not hasattr(need, "gather"):
                raise TypeError(
                    f"needs are statistics such as alds_cli.calibration.RESPONSES, not {need!r}"
                )

    def settled_arguments(
        self, name: str, given: Mapping[str, ArgumentValue]
    ) -> dict[str, ArgumentValue]:
        """Return all arguments, with the defaults where none is given.

        Args:
            name: the method's name, for messages.
            given: the given arguments, by name.

        Raises:
            OptionError: the method has no such argument, or its type or value is wrong.
        """
        for key, value in given.items():
            if key not in self.arguments:
                listed = ", ".join(self.arguments) or "none"
                raise OptionError(
                    f"the method {name} has no argument '{key}'", tip=f"its arguments: {listed}"
                )
            usual = self.arguments[key]
            if usual is not None and not _alike(value, usual):
                raise OptionError(
                    f"the method {name}: {key} is {value!r}, not of the kind of {usual!r}",
                    tip=f"--method-arg {key}={usual}",
                )
        settled = {**self.arguments, **given}
        for check in self.checks:
            check(settled)
        return settled


def _alike(value: ArgumentValue, usual: ArgumentValue) -> bool:
    """Return whether a value has the type of the default; whole numbers count as numbers too."""
    return type(value) is type(usual) or (type(usual) is float and type(value) is int)
