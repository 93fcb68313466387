"""How much a network's answers depend on the outputs of each layer.

Let p(· | x) be the probabilities of the classes that the network gives an image x, and g the
gradient of log p(y | x) by a layer's output, with y drawn from p itself: E g gᵀ is Fisher's
information. Where every pixel has probabilities of its own, y is the classes of all of them. If
the outputs change by small δ without correlation between their entries, the answers change by

    E KL(p ‖ p') ≈ ½ Σ_i E g_i² · E δ_i².

One number is gathered for each layer, the trace: single entries would take far more images than
people have.

Source: Martens, JMLR 21 (2020), Secs. 5 and 9.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration.observing import calling_copy, whole_attention
from alds_cli.calibration.responses import absorbers
from alds_cli.calibration.statistic import Statistic, require_finite
from alds_cli.datasets import Batch, Batches, MaskedImages
from alds_cli.errors import DataError, first_line
from alds_cli.records import LayerSpec, ProgressCallback, ProgressEvent
from alds_cli.runtime.devices import accepted, placed
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.tracing.logits import each_answer
from alds_cli.tracing.tokens import Inputs, Tokens, call, without_padding
from alds_cli.tracing.trace import floating_type

MOST_IMAGES = 256
"""More images hardly change a sum over all positions, and gradients take longer than outputs."""

_TOGETHER = 8
"""Images in one pass, whose activations are all held until the gradients are known."""

_PIXELS = 2**19
"""The most pixels in one pass of a network that segments."""

_TOKENS = 2**10
"""The most tokens in one pass: each may have as many logits as there are words."""

_SIDE_BY_SIDE = 16
"""The most batches that are read before their passes are added up."""


@dataclass(frozen=True, slots=True)
class FisherTrace:
    """What is known of a layer with f output channels.

    Attributes:
        gradients: E‖g‖² / f: squared gradients, added up over an image's positions and averaged
            over channels and images.
        energy: E‖W x‖² at one position, about its mean where a constant can be absorbed: what
            relative errors on images are relative to.
    """

    gradients: float
    energy: float

    @property
    def importance(self) -> float:
        """Twice the estimated divergence of the answers where all of the output is lost."""
        return self.gradients * self.energy


def gather_fisher_traces(
    network: nn.Module,
    specs: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, FisherTrace]:
    """Gather the trace of Fisher's information of every layer that may be decomposed.

    Args:
        network: gives logits of images, or where these have masks, of pixels; it is left unchanged.
        specs: its layers; those with a reason to be kept are skipped.
        batches: inputs and labels, usually from `calibration_batches`. Labels are not used, and
            no batch after the first `MOST_IMAGES` images is.
        device: where to compute; None means the CPU, where the result has the same bits whatever
            the number of threads.
        progress: called after some batches, with the task `calibrate`.

    Returns:
        The traces by layer name, in the order of `specs`; layers that are never called are
        missing.

    Raises:
        DataError: there are no images, the network does not accept them or gives no logits, or its
            gradients cannot be computed or are not finite.
    """
    wanted = {name: spec for name, spec in specs.items() if spec.reason is None}
    sums = {name: _Sums(spec) for name, spec in wanted.items()}
    place = device or torch.device("cpu")
    held = placed(network, place)
    masked = isinstance(batches, Batches) and isinstance(batches.dataset, MaskedImages)
    images = done = 0
    source, total = iter(batches), length_hint(batches)
    with whole_attention():
        while images < MOST_IMAGES and (wave := list(islice(source, _SIDE_BY_SIDE))):
            parts = [
                part for given, _ in wave for part in given.split(_together(given, masked=masked))
            ]
            jobs = [
                _GradientJob(held, wanted, part, images + index, place, masked)
                for index, part in enumerate(parts)
            ]
            _run(jobs, on_cpu=place.type == "cpu")
            for job in jobs:  # in the batches' order, so that the sums have the same bits
                for name, call in job.found:
                    sums[name].add(call)
            done, images = done + len(wave), images + sum(len(given) for given, _ in wave)
            if progress is not None:
                progress(ProgressEvent("calibrate", done, total))
    if not images:
        raise DataError("there are no images to calibrate with", tip="name a set with images")
    seen = {name: own for name, own in sums.items() if own.positions}
    flat = {name: own.flat for name, own in seen.items()}
    absorbed = absorbers(network, {name: wanted[name] for name in seen}, flat)
    found = {name: own.settled(images, absorbed.get(name)) for name, own in seen.items()}
    figures = [figure for own in found.values() for figure in (own.gradients, own.energy)]
    require_finite("gradients", torch.tensor(figures, dtype=torch.float64))
    return found


FISHER_TRACES: Statistic[Mapping[str, LayerSpec]] = Statistic(
    "fisher_traces",
    gather_fisher_traces,
    "its outputs cannot be observed: the forward pass does not call it",
)
"""The `FisherTrace` of every layer."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What one call of a layer adds, on the CPU: (f,) each, and numbers of positions and axes."""

    gradients: Tensor
    total: Tensor
    squares: Tensor
    positions: int
    flat: bool


class _Sums:
    """The sums over all calls of a layer."""

    def __init__(self, spec: LayerSpec) -> None:
        self.positions, self.flat = 0, True
        self._gradients = self._total = self._squares = torch.zeros(
            spec.out_channels, dtype=torch.float64
        )

    def add(self, call: _Call) -> None:
        """Add what one call gave."""
        self.positions += call.positions
        self.flat = self.flat and call.flat
        self._gradients = self._gradients + call.gradients
        self._total = self._total + call.total
        self._squares = self._squares + call.squares

    def settled(self, images: int, absorber: str | None) -> FisherTrace:
        """Return the means."""
        energies = self._squares / self.positions
        if absorber is not None:
            energies = (energies - (self._total / self.positions).square()).clamp(min=0)
        gradients = float(self._gradients.mean()) / images
        return FisherTrace(gradients, float(energies.sum()))


def _run(jobs: list[_GradientJob], *, on_cpu: bool) -> None:
    if on_cpu:
        run_jobs(jobs)
        return
    for job in jobs:
        job.run()


@dataclass(slots=True)
class _GradientJob:
    """A job that passes one batch through a copy of the network, and gradients back.

    The copy shares the network's parameters.
    """

    network: nn.Module
    specs: Mapping[str, LayerSpec]
    given: Inputs
    seed: int
    device: torch.device
    masked: bool
    found: list[tuple[str, _Call]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Zero: the memory of activations is not known beforehand, so the pool cannot bound it."""
        return 0

    def __call__(self, spawn: Spawn) -> None:
        """Run on a worker thread."""
        del spawn
        self.run()

    def run(self) -> None:
        """Run the batch, and keep what each call of a layer adds."""
        module = calling_copy(self.network, tuple(self.specs))
        calls: list[tuple[LayerSpec, Tensor, Tensor]] = []
        parts = dict(module.named_modules())
        for name, spec in self.specs.items():
            if name in parts:
                parts[name].register_forward_hook(_probe(spec, calls))
        dtype = floating_type(self.network)
        with torch.enable_grad():
            output = accepted(lambda given: call(module, given, self.device, dtype), self.given)
            purpose = "compressed by what errors do to their answers"
            logits = torch.cat(each_answer(output, self.given, purpose, masked=self.masked))
            gradients = self._gradients(logits, [probe for _, _, probe in calls])
        for (spec, given, _), gradient in zip(calls, gradients, strict=True):
            layer = parts[spec.name]
            made = without_padding(given, layer, self.given)
            slope = None if gradient is None else without_padding(gradient, layer, self.given)
            self.found.append((spec.name, _summed(spec, layer, made, slope)))

    def _gradients(self, logits: Tensor, probes: list[Tensor]) -> list[Tensor | None]:
        """Return the gradients of log p(y), with y drawn from p by the batch's own seed.

        Args:
            logits: (answers, classes). The answers for the pixels of an image are drawn by
                themselves, as the network gives a probability for each.
            probes: what the gradients are by.
        """
        if not logits.requires_grad:
            return [None] * len(probes)
        logs = logits.double().log_softmax(dim=1)
        chances = logs.detach().exp().cpu()
        require_finite("the network's answers", chances)
        drawn = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(self.seed))
        try:
            return list(
                torch.autograd.grad(
                    logs.gather(1, drawn.to(logs.device)).sum(), probes, allow_unused=True
                )
            )
        except RuntimeError as error:
            raise DataError(
                f"the network's gradients cannot be computed: {first_line(error)}",
                tip="--method alds-data needs none",
            ) from error


def _together(given: Inputs, *, masked: bool) -> int:
    """Return how many samples go in one pass, fewer where every pixel or token has logits."""
    if isinstance(given, Tokens):
        return min(_TOGETHER, max(1, _TOKENS // given.shape[1]))
    return min(_TOGETHER, max(1, _PIXELS // given[0, 0].numel())) if masked else _TOGETHER


def _probe(spec: LayerSpec, calls: list[tuple[LayerSpec, Tensor, Tensor]]) -> Any:
    """Return a hook that adds zeros to a layer's output, which have the gradient of the output."""

    def leave(layer: nn.Module, given: object, output: object) -> Tensor | None:
        del layer, given
        if not isinstance(output, Tensor):
            return None
        probe = torch.zeros_like(output, requires_grad=True)
        calls.append((spec, output.detach(), probe))
        return output + probe

    return leave


def _summed(spec: LayerSpec, layer: nn.Module, output: Tensor, gradient: Tensor | None) -> _Call:
    """Return the sums over the positions of a call, without the layer's bias."""

    def channels_first(values: Tensor) -> Tensor:
        moved = values.detach().to("cpu", torch.float64).movedim(-1 - len(spec.kernel), 0)
        return moved.reshape(spec.out_channels, -1)

    bias: Any = getattr(layer, "bias", None)
    values = channels_first(output)
    if isinstance(bias, Tensor):
        values = values - bias.detach().to(values)[:, None]
    gradients = values.new_zeros(values.shape) if gradient is None else channels_first(gradient)
    return _Call(
        gradients.square().sum(dim=1),
        values.sum(dim=1),
        values.square().sum(dim=1),
        values.shape[1],
        output.ndim == 2,
    )
