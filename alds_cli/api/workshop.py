"""One network, profiled once, and all that is made of it."""

from __future__ import annotations

import logging

from alds_cli.api.crafts import craft_for
from alds_cli.api.examined import Examined
from alds_cli.api.goals import Goal
from alds_cli.api.ledger import Ledger
from alds_cli.api.models import Model, Source, open_network, trace_network
from alds_cli.api.settings import Settings
from alds_cli.api.stopwatch import Stopwatch
from alds_cli.api.timing import Clock
from alds_cli.compression import select_layers, settled_names
from alds_cli.numerics.counting import count_parameters
from alds_cli.records import Plan
from alds_cli.surgery import find_layers
from alds_cli.verification import unverifiable

logger = logging.getLogger(__name__)


class Workshop:
    """A network, examined once, from which any number of smaller ones are made.

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
        examined = Examined(self.network, self.before, specs, settings, given, self.clock)
        self.craft = craft_for(examined)

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

    def ledger(self, goal: Goal, output: str) -> Ledger:
        """What the network costs in the currencies of a goal.

        Args:
            goal: what is asked.
            output: the artefact's name, for its format.
        """
        own = self.settings
        solver, bound = settled_names(own.method, own.solver, own.bound, goal.resources)
        specs = {name: spec for name, spec in self.craft.specs.items() if spec.reason is None}
        stopwatch = Stopwatch(
            self.network,
            specs,
            self.before,
            goal,
            schemes=self._schemes,
            rank_multiple=self.settings.rank_multiple,
            cache=self.settings.cache,
            progress=self.settings.progress,
        )
        return Ledger(
            self.network,
            specs,
            self.before,
            goal,
            weights_hash=self.craft.weights_hash,
            channels=self.craft.channels,
            naming=Plan(
                {},
                method=own.method,
                solver=solver,
                bound=bound,
                seed=own.seed,
                arguments=own.method_args,
            ),
            output=output,
            stopwatch=stopwatch,
        )
