"""Compression of one network for several targets, or by a given plan.

The network is loaded, traced and profiled once for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import nn

from alds_cli.allocation import Spending
from alds_cli.checkpoint import read_plan, require_apart, write_plan
from alds_cli.compression.calibration_texts import with_texts
from alds_cli.compression.latency_model import LatencyModel
from alds_cli.compression.low_rank import LowRankStrategy, require_able, settled_names
from alds_cli.compression.run import planned
from alds_cli.compression.targets import Budget, Offered, Target, parse_target
from alds_cli.compression.traced_model import CostModel, TracedModel, schemes_needed
from alds_cli.datasets import Batches, LabelledImages, is_text, opened, tensor_files
from alds_cli.errors import OptionError
from alds_cli.inputs import InputSpec
from alds_cli.methods import method_named
from alds_cli.network.networks import Network
from alds_cli.network.opening import (
    open_network,
    require_form,
    require_target,
    settled_preprocessing,
    trace_network,
)
from alds_cli.network.verification import unverifiable
from alds_cli.options.compress_options import CompressOptions
from alds_cli.options.planning_options import Ratio
from alds_cli.records import Candidate, CompressionReport, LayerReport, LayerSpec, Plan
from alds_cli.runtime.devices import Clock
from alds_cli.surgery import find_layers
from alds_cli.surgery.channels import Channels
from alds_cli.surgery.layers import select_layers
from alds_cli.tracing.trace import count_parameters

if TYPE_CHECKING:
    from alds_cli.compression.refitting import Refitter
    from alds_cli.compression.tuning import Tuner

PLACEHOLDER = "{ratio}"
"""The text in the names of several results that stands for each one's ratio."""


@dataclass(frozen=True, slots=True)
class CompressionResult:
    """The compressed network (None after a dry run), its plan, its report and its file."""

    network: Network | None
    plan: Plan
    report: CompressionReport
    output: str | None = None


def compress_networks(options: CompressOptions) -> list[CompressionResult]:
    """Compress a network once for every ratio, from one profile.

    All plans are made before the first file is written, so that one ratio out of reach stops the
    whole call. The file names of several results contain `{ratio}`.

    Raises:
        OptionError: options make no sense, alone or together.
        ContractError: a ratio or a limit cannot be reached.
        AldsError: the model cannot be read, or a result cannot be written.
    """
    ratios = _ratios(options)
    targets = [parse_target(options, ratio) for ratio in ratios]
    given = _given_plan(options.plan, targets)
    if given is None:
        for target in targets:
            require_able(options.method, target.planned_for)
    outputs, plans = require_files(options, ratios)
    session = Session(options, given)
    runs = [
        planned(session, target, name or "artefact.pt", given)
        for target, name in zip(targets, outputs, strict=True)
    ]
    for run, name in zip(runs, plans, strict=True):
        if name is not None:
            write_plan(run.plan, Path(name))
    if options.dry_run:
        return [CompressionResult(None, run.plan, run.outlook()) for run in runs]
    results = []
    for number, (run, name) in enumerate(zip(runs, outputs, strict=True), start=1):
        network, report = run.finished(name, last=number == len(runs))
        results.append(CompressionResult(network, run.plan, report, name))
    return results


def _ratios(options: CompressOptions) -> Sequence[Ratio]:
    """Return the ratio of each result; None where only absolute limits count."""
    ratio = options.ratio
    if isinstance(ratio, Sequence) and not isinstance(ratio, str):
        return ratio
    return [ratio]


def require_files(
    options: CompressOptions, ratios: Sequence[Ratio]
) -> tuple[list[str | None], list[str | None]]:
    """Return the artefact and the plan to write for each ratio, after checking that they can be.

    Raises:
        OptionError: several results have one name.
        OutputError: a file cannot be written, or would replace another.
    """
    outputs, plans = (_names(name, ratios) for name in (options.output, options.plan_output))
    files = [name for name in [*([] if options.dry_run else outputs), *plans] if name]
    for file in files:
        require_target(file)
    _require_apart(files, outputs, plans, options)
    return outputs, plans


def _require_apart(
    targets: Sequence[str],
    outputs: Sequence[str | None],
    plans: Sequence[str | None],
    options: CompressOptions,
) -> None:
    """Check that no result replaces another, nor a table, plan or data; it may replace the model.

    Raises:
        OutputError: one would.
    """
    files = [table for table in (options.table,) if isinstance(table, (str, Path))]
    if isinstance(options.plan, (str, Path)) and str(options.plan) in map(str, outputs):
        files.append(options.plan)
    if options.data is not None:
        files += tensor_files(options.data)
    require_apart(targets, files)
    model = options.model
    require_apart(filter(None, plans), [model] if isinstance(model, (str, Path)) else [])


def _given_plan(plan: Plan | str | Path | None, targets: Sequence[Target]) -> Plan | None:
    """Return the plan to replay, if any; it may come from another method than the one named."""
    if plan is None and not all(target.resources for target in targets):
        raise OptionError(
            "how small? Neither a ratio nor a limit nor a plan is given",
            tip="--ratio 0.5 leaves at most half of the parameters",
        )
    if plan is not None and len(targets) > 1:
        raise OptionError("one plan cannot have several ratios", tip="give one ratio, or none")
    return plan if plan is None or isinstance(plan, Plan) else read_plan(Path(plan))


def _names(name: str | Path | None, ratios: Sequence[Ratio]) -> list[str | None]:
    """Return the file name of each ratio's result."""
    if name is None:
        return [None] * len(ratios)
    if len(ratios) > 1 and PLACEHOLDER not in str(name):
        raise OptionError(
            f"{len(ratios)} results cannot all be written to {name}",
            tip=f"put {PLACEHOLDER} into the name, as in 'small-{PLACEHOLDER}.pt'",
        )
    names = [str(name).replace(PLACEHOLDER, str(ratio).strip()) for ratio in ratios]
    if len(set(names)) < len(names):
        raise OptionError("a ratio is given twice", tip="name each once")
    return list(names)


logger = logging.getLogger(__name__)


class Session:
    """A network, traced once, from which any number of smaller ones are made.

    Args:
        options: what was asked.
        given: the plan to carry out; None makes one.
    """

    def __init__(self, options: CompressOptions, given: Plan | None = None) -> None:
        self.clock = Clock()
        if options.data is not None and not is_text(options.data):
            with self.clock("load"):
                images = opened(options.data, split="train", download=options.download)
            options = replace(options, data=images)  # once, for all who look at them
        self.options = options
        self.tuner: Tuner | None = None
        if self._tunes:
            self._require_tunable(given)
        self.refitter: Refitter | None = None
        if options.refit:
            self._require_refittable(given)
        self._schemes = schemes_needed(options, given)
        with self.clock("load"):
            self.network = open_network(options.model, options.source, multiply_back=True)
            if options.output is not None and not options.dry_run:
                require_form(self.network, options.output)
            if is_text(options.data):
                options = self.options = with_texts(options, self.network)
            if self.network.inputs is None and isinstance(options.data, LabelledImages):
                self.network.inputs = self._inputs_of_images(options.data)
            self.before = trace_network(self.network)
            specs = select_layers(
                find_layers(self.network.module, self.before), options.include, options.exclude
            )
            if any(spec.reason is None for spec in specs.values()):
                self._require_run()
            self.params = count_parameters(self.network.module)
        if self._tunes and not (options.dry_run and options.max_drop is None):
            self.tuner = self._made_tuner(specs)
        traced = TracedModel(self.network, self.before, specs, options, given, self.clock)
        planned_only = options.dry_run and options.max_drop is None and not compares(traced)
        if options.refit and not planned_only:
            self.refitter = self._made_refitter(specs)
        self.strategy = strategy_for(traced, self.refitter)

    def _inputs_of_images(self, images: LabelledImages) -> InputSpec | None:
        """Return inputs as the images are; None where it is not known how they are prepared."""
        options = self.options
        try:
            prepared = settled_preprocessing(options.preprocessing, self.network)
        except OptionError:
            return None
        return InputSpec.of_sample(Batches(images, prepared, batch_size=1).input_shape)

    @property
    def _tunes(self) -> bool:
        """Whether tuning is asked for; nothing of it is imported otherwise."""
        steps, minutes = self.options.tune_steps, self.options.tune_minutes
        return minutes != 0 and (steps != 0 or minutes is not None)

    def _require_tunable(self, given: Plan | None) -> None:
        from alds_cli.compression.tuning import require_tunable  # noqa: PLC0415 - see `_tunes`

        require_tunable(self.options, given)

    def _made_tuner(self, specs: Mapping[str, LayerSpec]) -> Tuner:
        from alds_cli.compression.tuning import Tuner  # noqa: PLC0415 - see `_tunes`

        with self.clock("tune"):
            return Tuner(self.network, specs, self.options)

    @property
    def untouched(self) -> bool:
        """Whether networks stay as plans made them, so that the original is not needed for more."""
        return self.tuner is None and self.refitter is None

    def _require_refittable(self, given: Plan | None) -> None:
        from alds_cli.compression.refitting import require_refittable  # noqa: PLC0415 - as above

        require_refittable(self.options, given)

    def _made_refitter(self, specs: Mapping[str, LayerSpec]) -> Refitter:
        from alds_cli.compression.refitting import Refitter  # noqa: PLC0415 - as above

        with self.clock("refit"):
            return Refitter(self.network, specs, self.options)

    def _require_run(self) -> None:
        """Refuse a network that could not be run, unless the user accepts that it is not run.

        Raises:
            OptionError: no forward pass was possible.
        """
        if self.before.failure is None:
            return
        if self.options.dry_run or self.options.unverified:
            logger.warning("nothing was run: %s", self.before.failure)
            return
        raise unverifiable(self.before.failure, self.network.inputs)

    def cost_model(self, target: Target, output: str) -> CostModel:
        """Return the costs of the network in the resources of a target.

        Args:
            target: what is asked.
            output: the artefact's file name, which determines its format.
        """
        options = self.options
        solver, bound = settled_names(
            options.method, options.solver, options.bound, target.resources
        )
        specs = {name: spec for name, spec in self.strategy.specs.items() if spec.reason is None}
        return CostModel(
            self.network,
            specs,
            self.before,
            target,
            weights_hash=self.strategy.weights_hash,
            channels=self.strategy.channels,
            naming=Plan(
                {},
                method=options.method,
                solver=solver,
                bound=bound,
                seed=options.seed,
                arguments=options.method_args,
            ),
            output=output,
            measuring=lambda: LatencyModel(
                self.network,
                specs,
                self.before,
                target,
                schemes=self._schemes,
                rank_multiple=options.rank_multiple,
                cache=options.cache,
                progress=options.progress,
            ),
        )


class Strategy(Protocol):
    """A way to make a network smaller.

    Attributes:
        specs: the network's layers, with the reasons of those that must stay as they are.
        weights_hash: the hash of the layers' weights.
    """

    specs: Mapping[str, LayerSpec]
    weights_hash: str

    @property
    def method(self) -> str:
        """The method that makes the factors of plans that nothing but time has chosen."""
        ...

    @property
    def channels(self) -> Channels | None:
        """The channels that can be removed; None where layers become pairs."""
        ...

    def planned(
        self, budgets: Sequence[Budget], offered: Offered | None, spending: Spending
    ) -> Plan:
        """Return a plan within the budgets; raise ContractError where there is none."""
        ...

    def comparison(self, plan: Plan) -> Sequence[Candidate]:
        """Return the methods that were compared when a plan was made, if any."""
        ...

    def require_fitting(self, plan: Plan) -> None:
        """Raise PlanError where a plan cannot be carried out."""
        ...

    def outlook(self, plan: Plan) -> list[LayerReport]:
        """Report what a plan makes of every layer, before it is carried out."""
        ...

    def carry_out(self, module: nn.Module, plan: Plan) -> list[LayerReport]:
        """Change the network, or a copy of it, in place, and report on every layer."""
        ...


def compares(traced: TracedModel) -> bool:
    """Return whether plans of several methods are carried out and compared."""
    return traced.given is None and bool(method_named(traced.method).candidates)


def strategy_for(traced: TracedModel, refitter: Refitter | None = None) -> Strategy:
    """Return the strategy of the method, or of the given plan.

    Args:
        traced: the network and what is asked of it.
        refitter: fits pairs again before methods are compared; None leaves it out.

    Raises:
        OptionError: the method lacks what it needs, or the plan both prunes and decomposes.
        AldsError: tables or images cannot be read.
    """
    given = traced.given
    if given is None:
        prunes = method_named(traced.method).prune is not None
    else:
        prunes = bool(given.pruned)
        if prunes and given.decomposed:
            raise OptionError("a plan either prunes or decomposes", tip="remove one of the two")
    if prunes:
        # Following filters through a network takes many modules, which pairs do without.
        from alds_cli.compression.filter_pruning import FilterPruningStrategy  # noqa: PLC0415

        return FilterPruningStrategy(traced)
    if compares(traced):
        from alds_cli.compression.automatic import AutomaticStrategy  # noqa: PLC0415 - so is this

        return AutomaticStrategy(traced, refitter)
    return LowRankStrategy(traced)
