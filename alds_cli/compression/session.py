"""One network, profiled once, and all that is made of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn

from alds_cli.allocation import Spending
from alds_cli.compression.cost_model import CostModel
from alds_cli.compression.filter_pruning import FilterPruningStrategy
from alds_cli.compression.latency_model import LatencyModel
from alds_cli.compression.layer_reports import select_layers
from alds_cli.compression.low_rank import LowRankStrategy, settled_names
from alds_cli.compression.settings import Settings
from alds_cli.compression.strategy import TracedModel
from alds_cli.compression.targets import Budget, Offered, Target
from alds_cli.errors import OptionError
from alds_cli.methods import method_named
from alds_cli.network.opening import (
    Model,
    Source,
    open_network,
    trace_network,
)
from alds_cli.network.verification import unverifiable
from alds_cli.records import LayerReport, LayerSpec, Plan
from alds_cli.runtime.devices import Clock
from alds_cli.surgery import find_layers
from alds_cli.surgery.channels import Channels
from alds_cli.tracing.trace import count_parameters

logger = logging.getLogger(__name__)


class Session:
    """A network, traced once, from which any number of smaller ones are made.

    Args:
        model: the network; pairs of an artefact are multiplied back first.
        source: how to read its file.
        settings: how to plan, which layers may change, where tables may be kept.
        given: the plan to carry out, instead of making one.
    """

    def __init__(
        self, model: Model, source: Source, settings: Settings, given: Plan | None = None
    ) -> None:
        self.clock = Clock()
        self.settings = settings
        self._schemes = settings.schemes(given)
        with self.clock("load"):
            self.network = open_network(model, source, multiply_back=True)
            self.before = trace_network(self.network)
            specs = select_layers(
                find_layers(self.network.module, self.before), settings.include, settings.exclude
            )
            if any(spec.reason is None for spec in specs.values()):
                self._require_run()
            self.params = count_parameters(self.network.module)
        traced = TracedModel(self.network, self.before, specs, settings, given, self.clock)
        self.strategy = strategy_for(traced)

    def _require_run(self) -> None:
        """Refuse a network that was not run, unless the user knows that it will not be.

        Raises:
            OptionError: no forward pass could be made of it.
        """
        if self.before.failure is None:
            return
        if self.settings.dry_run or self.settings.unverified:
            logger.warning(
                "nothing was run, so linear layers take one slice: %s", self.before.failure
            )
            return
        raise unverifiable(self.before.failure, self.network.inputs)

    def cost_model(self, target: Target, output: str) -> CostModel:
        """What the network costs in the currencies of a target.

        Args:
            target: what is asked.
            output: the artefact's name, for its format.
        """
        own = self.settings
        solver, bound = settled_names(own.method, own.solver, own.bound, target.resources)
        specs = {name: spec for name, spec in self.strategy.specs.items() if spec.reason is None}
        latency_model = LatencyModel(
            self.network,
            specs,
            self.before,
            target,
            schemes=self._schemes,
            rank_multiple=self.settings.rank_multiple,
            cache=self.settings.cache,
            progress=self.settings.progress,
        )
        return CostModel(
            self.network,
            specs,
            self.before,
            target,
            weights_hash=self.strategy.weights_hash,
            channels=self.strategy.channels,
            naming=Plan(
                {},
                method=own.method,
                solver=solver,
                bound=bound,
                seed=own.seed,
                arguments=own.method_args,
            ),
            output=output,
            latency_model=latency_model,
        )


class Strategy(Protocol):
    """One of the ways.

    Attributes:
        specs: the network's layers, and why some of them stay as they are.
        weights_hash: of the layers' weights.
    """

    specs: Mapping[str, LayerSpec]
    weights_hash: str

    @property
    def channels(self) -> Channels | None:
        """What can be removed; None where layers become pairs."""
        ...

    def planned(
        self, budgets: Sequence[Budget], offered: Offered | None, spending: Spending
    ) -> Plan:
        """A plan within the budgets; raises ContractError where there is none."""
        ...

    def require_fitting(self, plan: Plan) -> None:
        """Raise PlanError where a plan cannot be carried out."""
        ...

    def outlook(self, plan: Plan) -> list[LayerReport]:
        """What a plan makes of every layer, before it is carried out."""
        ...

    def carry_out(self, module: nn.Module, plan: Plan) -> list[LayerReport]:
        """Change a copy of the network, or itself, and say what became of every layer."""
        ...


def strategy_for(traced: TracedModel) -> Strategy:
    """The way that the method goes, or the plan that is given.

    Raises:
        OptionError: the method lacks what it needs.
        AldsError: tables cannot be read, or images not be used.
    """
    given = traced.given
    if given is None:
        prunes = method_named(traced.method).prune is not None
    else:
        prunes = bool(given.pruned)
        if prunes and given.decomposed:
            raise OptionError("a plan either prunes or decomposes", tip="remove one of the two")
    return FilterPruningStrategy(traced) if prunes else LowRankStrategy(traced)
