"""The compression strategy that compares several methods on images held back, and takes the best.

Errors of layers, however they are measured, only stand for what they do to the answers of the
network. So every candidate's plan is carried out, and the answers are compared with those of the
original on images that no candidate has seen. Where pairs are to be fitted again, those of every
candidate are, before they are compared.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from alds_cli.allocation import Spending
from alds_cli.compression.held_back import Judge, Judged, chosen, divided, without_logits
from alds_cli.compression.low_rank import Findings, LowRankStrategy
from alds_cli.compression.targets import Budget, Offered
from alds_cli.compression.traced_model import TracedModel
from alds_cli.datasets import Samples, is_text, opened_samples
from alds_cli.errors import ContractError, DataError, NoLogitsError, OptionError
from alds_cli.methods import method_named
from alds_cli.options.compress_options import CompressOptions
from alds_cli.records import Candidate, LayerReport, LayerSpec, Plan
from alds_cli.surgery.channels import Channels

if TYPE_CHECKING:
    from alds_cli.compression.refitting import Refitted, Refitter

_log = logging.getLogger(__name__)


class AutomaticStrategy:
    """The strategy that plans by several methods and keeps one that changes answers least.

    Args:
        traced: the network and what is asked of it, by a method with candidates.
        refitter: fits the pairs of every candidate again; None leaves it out.

    Raises:
        OptionError: no images are named, or there is only one.
        AldsError: tables or images cannot be read.
    """

    channels: Channels | None = None

    def __init__(self, traced: TracedModel, refitter: Refitter | None = None) -> None:
        options = traced.options
        fitting, judging = _divided(options, traced.method)
        try:
            self._judge = Judge(traced.network, options, judging)
        except NoLogitsError as error:
            raise NoLogitsError(
                f"no methods can be compared by the answers: {error}",
                tip=without_logits("--method alds-data, balf or pca", texts=is_text(options.data)),
            ) from error
        self._module = traced.network.module
        self._refitter = refitter
        self._compared: list[tuple[Plan, Sequence[Candidate]]] = []
        self._strategies: dict[str, LowRankStrategy] = {}
        findings = Findings()
        refusals: list[DataError] = []
        for name in method_named(traced.method).candidates:
            own = replace(traced, options=replace(fitting, method=name))
            try:
                self._strategies[name] = LowRankStrategy(own, findings)
            except DataError as error:
                _log.warning("%s is not compared: %s", name, error)
                refusals.append(error)
        if refusals and not any(method_named(name).needs for name in self._strategies):
            raise refusals[0]  # the images themselves are no use
        self.method = next(iter(self._strategies))  # the one that is expected to rank first
        # Of the layers that some method keeps, others may still make pairs.
        widest = max(self._strategies.values(), key=_open_layers)
        self.specs: Mapping[str, LayerSpec] = widest.specs
        self.weights_hash = widest.weights_hash

    def planned(
        self, budgets: Sequence[Budget], offered: Offered | None, spending: Spending
    ) -> Plan:
        """Plan by every candidate, carry the plans out, and return the best one."""
        plans: dict[str, Plan] = {}
        refusals: list[ContractError] = []
        for name, strategy in self._strategies.items():
            try:
                plans[name] = strategy.planned(budgets, offered, spending)
            except ContractError as error:
                refusals.append(error)
        if not plans:
            raise refusals[0]
        found = {name: self._measured(name, plan) for name, plan in plans.items()}
        best = list(plans)[chosen([judged for judged, _ in found.values()])]
        refitted = found[best][1]
        if refitted is not None and self._refitter is not None:
            self._refitter.remember(refitted)
        compared = [
            Candidate(name, judged.divergence, judged.agreement, self._judge.images)
            for name, (judged, _) in found.items()
        ]
        self._compared.append((plans[best], compared))
        return plans[best]

    def _measured(self, name: str, plan: Plan) -> tuple[Judged, Refitted | None]:
        """Carry a plan out and return how good it is; see `Refitter.fitted`."""
        made = copy.deepcopy(self._module)
        self._strategies[name].carry_out(made, plan)
        if self._refitter is None or not plan.decomposed:
            return self._judge.measured(made), None
        refitted = self._refitter.fitted(made, plan)
        return refitted.judged, refitted

    def comparison(self, plan: Plan) -> Sequence[Candidate]:
        """Return what was compared when a plan was made."""
        return next((found for own, found in self._compared if own is plan), ())

    def require_fitting(self, plan: Plan) -> None:
        """Check that every choice fits its layer and that its factors can be made."""
        self._strategies[plan.method].require_fitting(plan)

    def outlook(self, plan: Plan) -> list[LayerReport]:
        """Report on every layer, as far as the tables tell."""
        return self._strategies[plan.method].outlook(plan)

    def carry_out(self, module: nn.Module, plan: Plan) -> list[LayerReport]:
        """Replace the plan's layers by pairs."""
        return self._strategies[plan.method].carry_out(module, plan)


def _open_layers(strategy: LowRankStrategy) -> int:
    return sum(spec.reason is None for spec in strategy.specs.values())


def _divided(options: CompressOptions, method: str) -> tuple[CompressOptions, Samples]:
    """Return the options under which candidates draw their images, and the images held back.

    Raises:
        OptionError: there are none to hold back.
    """
    if options.data is None:
        raise OptionError(
            f"the method {method} compares others on images, and none are named",
            tip="--data tensors:FILE, imagefolder:DIR or cifar10:DIR: training images, whose "
            "labels are not used",
        )
    images = opened_samples(options.data, split="train", download=options.download)
    count = min(options.samples, len(images))
    if count < 2:
        raise OptionError(
            f"the method {method} needs at least two images, one of them to compare on",
            tip="--samples 512, or --method alds-data",
        )
    fitted, judging = divided(images, count, options.seed)
    return replace(options, data=images, samples=fitted), judging
