"""What a method is."""

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
"""From error tables, prices and budgets to a plan; raises ValueError where the budgets cannot
be met."""

Pruner = Callable[[PruningProblem], Removal]
"""From groups of channels and budgets to those that go; raises InfeasibleError likewise."""

ALDS_PAPER = "Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, https://arxiv.org/abs/2107.11442"
"""Where the methods of the family come from."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to make networks smaller: what it is, its paper, and what it needs.

    Attributes:
        summary: in a line.
        paper: where it comes from, with a link and the equation.
        plan: chooses for every layer; None for one that removes filters.
        solvers: the error definition that each of its optimisers takes by itself; the first
            is its own. Empty where it has but one way.
        schemes: the folding schemes that its error tables must cover.
        arguments: its own options with their usual values.
        needs: what it must know of the network's behaviour on images.
        factorisation: how the factors of its pairs are made.
        seeded: whether it draws random numbers, so that repeating it is worth while.
        targets: what it can plan for.
        prune: chooses the filters that go; None for one that decomposes layers.
        checks: functions of all its options that raise OptionError where a value makes no
            sense, so that it is found out before any work is done.
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
        """Refuse names in the place of statistics: a method of the user's own may have them."""
        for need in self.needs:
            if not hasattr(need, "gather"):
                raise TypeError(
                    f"needs are statistics such as alds_cli.calibration.RESPONSES, not {need!r}"
                )

    def settled_arguments(
        self, name: str, given: Mapping[str, ArgumentValue]
    ) -> dict[str, ArgumentValue]:
        """All arguments, those given in the place of the usual ones.

        Args:
            name: the method's, for messages.
            given: by name.

        Raises:
            OptionError: the method has no such argument, none of that type or of that value.
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
    """Whether a value has the type that the usual one shows; whole numbers are numbers too."""
    return type(value) is type(usual) or (type(usual) is float and type(value) is int)
