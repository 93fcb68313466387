"""The compression strategy that compares several methods on images held back, and takes the best.

Errors of layers, however they are measured, only stand for what they do to the answers of the
network. So every candidate's plan is carried out, and the answers are compared with those of the
original on images that no candidate has seen.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from alds_cli.allocation import Spending
from alds_cli.calibration import draw_sample
from alds_cli.compression.low_rank import Findings, LowRankStrategy
from alds_cli.compression.targets import Budget, Offered
from alds_cli.compression.traced_model import TracedModel
from alds_cli.datasets import Batches, LabelledImages, opened
from alds_cli.errors import ContractError, DataError, NoLogitsError, OptionError
from alds_cli.evaluation import all_logits, divergence
from alds_cli.methods import method_named
from alds_cli.network.opening import settled_preprocessing
from alds_cli.options.compress_options import CompressOptions
from alds_cli.records import Candidate, LayerReport, LayerSpec, Plan
from alds_cli.runtime.devices import pick_device
from alds_cli.surgery.channels import Channels

_log = logging.getLogger(__name__)

_HELD_BACK = 0.1
"""The share of the images on which methods are compared."""

_MOST_HELD_BACK = 512
"""The most images on which methods are compared."""

_TOGETHER = 64
"""Images in a batch."""


class AutomaticStrategy:
    """The strategy that plans by several methods and keeps the plan that changes answers least.

    Args:
        traced: the network and what is asked of it, by a method with candidates.

    Raises:
        OptionError: no images are named, or there is only one.
        AldsError: tables or images cannot be read.
    """

    channels: Channels | None = None

    def __init__(self, traced: TracedModel) -> None:
        options = traced.options
        fitting, judging = _divided(options, traced.method)
        self._judge = _Judge(traced, judging)
        self._module = traced.network.module
        self._compared: list[tuple[Plan, Sequence[Candidate]]] = []
        self._strategies: dict[str, LowRankStrategy] = {}
        findings = Findings()
        for name in method_named(traced.method).candidates:
            own = replace(traced, options=replace(fitting, method=name))
            try:
                self._strategies[name] = LowRankStrategy(own, findings)
            except DataError as error:
                if not self._strategies:
                    raise
                _log.warning("%s is not compared: %s", name, error)
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
        found = [self._measured(name, plan) for name, plan in plans.items()]
        best = plans[min(found, key=lambda candidate: candidate.divergence).method]
        self._compared.append((best, found))
        return best

    def _measured(self, name: str, plan: Plan) -> Candidate:
        made = copy.deepcopy(self._module)
        self._strategies[name].carry_out(made, plan)
        apart, agreement = self._judge.measured(made)
        return Candidate(name, apart, agreement, self._judge.images)

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


def _divided(options: CompressOptions, method: str) -> tuple[CompressOptions, LabelledImages]:
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
    images = opened(options.data, split="train", download=options.download)
    count = min(options.samples, len(images))
    if count < 2:
        raise OptionError(
            f"the method {method} needs at least two images, one of them to compare on",
            tip="--samples 512, or --method alds-data",
        )
    held = min(_MOST_HELD_BACK, max(1, round(_HELD_BACK * count)))
    drawn, _ = draw_sample(len(images), count, options.seed)
    fitted, _ = draw_sample(len(images), count - held, options.seed)  # a part of those drawn
    judging = images.subset(drawn[torch.isin(drawn, fitted, invert=True)])
    return replace(options, data=images, samples=count - held), judging


class _Judge:
    """Measures how far the answers of networks are from those of the original.

    Args:
        traced: the original, and how to prepare images for it.
        images: the images on which it is measured.

    Raises:
        NoLogitsError: the network does not classify images.
        DataError: the network does not take the images.
    """

    def __init__(self, traced: TracedModel, images: LabelledImages) -> None:
        options = traced.options
        self.images = len(images)
        self._device = pick_device(options.device)
        prepared = settled_preprocessing(options.preprocessing, traced.network)
        self._batches = Batches(images, prepared, batch_size=_TOGETHER, workers=options.workers)
        try:
            self._expected = self._answers(traced.network.module)
        except NoLogitsError as error:
            raise NoLogitsError(
                f"no methods can be compared by the answers: {error}", tip="--method alds-data"
            ) from error

    def _answers(self, module: nn.Module) -> Tensor:
        return all_logits(module, self._batches, device=self._device)

    def measured(self, module: nn.Module) -> tuple[float, float]:
        """Return the mean divergence in nats, and the agreement of the answers in per cent."""
        return divergence(self._expected, self._answers(module))
