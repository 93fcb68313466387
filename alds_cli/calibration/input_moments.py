"""Means and second moments of what a layer's kernel is applied to, its input patches.

A patch x is what one output of a layer is computed from: the inputs under the kernel at one
position of one image, in the order of the columns of the folded weight, so that the layer gives
W x plus its bias there. What the padding adds is part of it. Moments are added up in float64,
about the mean of the first patches.

The images pass through the network a few batches at a time, and each layer's moments are then
added up in the order of the batches, many layers side by side. So the memory is that of the
moments themselves and of the inputs of a few batches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import prod
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration.observing import Call, observe
from alds_cli.calibration.responses import absorbers
from alds_cli.calibration.sensitivities import input_patches
from alds_cli.calibration.statistic import Statistic, require_finite
from alds_cli.datasets import Batch
from alds_cli.numerics.data_norm import data_table
from alds_cli.numerics.grams import add_gram, mirrored
from alds_cli.records import LayerSpec, LayerTable, ProgressCallback, ProgressEvent
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import layer_at, layer_weight

_log = logging.getLogger(__name__)

NOT_OBSERVED = "its inputs cannot be observed: the forward pass does not call it"

MOST_BYTES = 512 << 20
"""The most bytes that the moments of one layer may take; of larger ones only means are gathered."""

_HELD_BYTES = 1 << 30
"""The bytes of layers' inputs that are held before they are added up, at least one batch's."""

_MOST_TOGETHER = 64
"""The most batches whose inputs are held."""

_STRIPE = 64
"""The least rows of moments that are added to together; see `grams.add_gram`."""


@dataclass(frozen=True, slots=True)
class InputMoments:
    """The input patches of a layer with g groups of n = c/g · κ… inputs each.

    Attributes:
        count: number of positions over all images.
        mean: E[x], (g, n) in float64.
        moments: (g, n, n) in float64: the covariance of x if there is an `absorber`, else
            E[x xᵀ]. None where they would take more than `MOST_BYTES`: every direction then
            counts alike.
        absorber: name of the module that can absorb an added constant, as in `Responses`.
        spec: the layer.
        weight: its weight, (f, c/g, κ…).
    """

    count: int
    mean: Tensor
    moments: Tensor | None
    absorber: str | None
    spec: LayerSpec
    weight: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """What was gathered."""
        return [self.mean] if self.moments is None else [self.mean, self.moments]


def gather_input_moments(
    network: nn.Module,
    specs: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
    centred: bool = True,
) -> dict[str, InputMoments]:
    """Gather mean and moments of the input patches of every layer that may be decomposed.

    Args:
        network: it is left unchanged.
        specs: its layers; those with a reason to be kept are skipped.
        batches: inputs and labels, usually from `calibration_batches`.
        device: where to compute; None means the CPU, where the result has the same bits
            whatever the number of threads.
        progress: called after each batch, with the task `calibrate`.
        centred: whether to look for an absorber of constants; without, all moments are E[x xᵀ].

    Returns:
        The moments by layer name, in the order of `specs`; layers that are never called are
        missing.

    Raises:
        DataError: there are no images, the network does not accept them, or a layer's inputs are
            not finite.
    """
    wanted = {name: spec for name, spec in specs.items() if spec.reason is None}
    sums = {name: _Sums(layer_at(network, name), spec) for name, spec in wanted.items()}
    total, done = length_hint(batches), 0

    def told(event: ProgressEvent) -> None:
        if progress is not None:
            progress(ProgressEvent(event.task, done + event.done, total))

    source, together = iter(batches), 1
    wave = list(islice(source, 1))
    while wave or not done:  # without any batch, `observe` says what is wrong
        held = observe(network, list(wanted), wave, _HoldsInputs(), device=device, progress=told)
        done += len(wave)
        nbytes = sum(tensor.nbytes for calls in held.values() for tensor in calls.inputs)
        together = min(_MOST_TOGETHER, max(1, len(wave) * _HELD_BYTES // max(1, nbytes)))
        run_jobs([_AddJob(sums[name], calls) for name, calls in held.items()])
        wave = list(islice(source, together))
    seen = {name: own for name, own in sums.items() if own.count}
    taken: Mapping[str, str | None] = {}
    if centred:
        taken = absorbers(
            network,
            {name: wanted[name] for name in seen},
            {name: own.flat for name, own in seen.items()},
        )
    found = {name: own.settled(taken.get(name)) for name, own in seen.items()}
    for name, own in found.items():
        require_finite(f"the inputs of {name}", *own.tensors)
    return found


@dataclass(slots=True)
class _Held:
    """The inputs of a layer's calls, in order."""

    inputs: list[Tensor]


class _HoldsInputs:
    """An observer that keeps copies of inputs; see `observing.Observer`."""

    def look(self, call: Call) -> _Held:
        """Return the input of one call, on a device that has float64."""
        given = call.inputs[0].detach()
        if given.device.type not in ("cpu", "cuda"):
            return _Held([given.cpu()])
        return _Held([given.clone()])

    def merge(self, before: _Held, after: _Held) -> _Held:
        """Return the inputs of both."""
        return _Held([*before.inputs, *after.inputs])


class _Sums:
    """Number, sum and scatter of a layer's patches about a point near their mean.

    Args:
        layer: the layer.
        spec: its specification.
    """

    def __init__(self, layer: nn.Module, spec: LayerSpec) -> None:
        self.count, self.flat = 0, True
        self._layer, self._spec = layer, spec
        self._size = prod(spec.weight_shape[1:])
        self._point: Tensor | None = None
        self._total: Any = 0.0
        self._scatter: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the moments; 0 where they would be too many and are left out."""
        nbytes = 8 * self._spec.groups * self._size**2
        return nbytes if nbytes <= MOST_BYTES else 0

    def add(self, given: Tensor) -> None:
        """Add the patches of one call's input."""
        spatial = len(self._spec.kernel)
        self.flat = self.flat and given.ndim == 2
        batch = given if not spatial or given.ndim > spatial + 1 else given.unsqueeze(0)
        for patches in input_patches(self._layer, batch):
            block = patches.to(torch.float64).view(self._spec.groups, self._size, -1)
            if self._point is None:
                self._point = block.mean(dim=2, keepdim=True)
            block = block - self._point
            self.count += block.shape[2]
            self._total = self._total + block.sum(dim=2)
            if self.nbytes:
                self._add_scatter(block)

    def _add_scatter(self, block: Tensor) -> None:
        if self._scatter is None:
            self._scatter = block.new_zeros(len(block), self._size, self._size)
        if len(block) > 1:
            self._scatter.baddbmm_(block, block.mT)
        else:
            add_gram(self._scatter[0], block[0], max(_STRIPE, self._size // 4))

    def settled(self, absorber: str | None) -> InputMoments:
        """Return mean and moments."""
        apart = self._total.cpu() / self.count
        mean = apart if self._point is None else self._point.squeeze(2).cpu() + apart
        moments = None
        if self._scatter is None:
            _log.info("%s: all inputs count alike, since there are too many", self._spec.name)
        else:
            moments = self._scatter.cpu().div_(self.count)
            self._scatter = None
            moments.baddbmm_(apart[:, :, None], apart[:, None, :], alpha=-1)
            if absorber is None:
                moments.baddbmm_(mean[:, :, None], mean[:, None, :])
            for group in moments:
                mirrored(group)
        weight = layer_weight(self._layer)
        return InputMoments(self.count, mean, moments, absorber, self._spec, weight)


@dataclass(slots=True)
class _AddJob:
    """A job that adds the inputs of a few batches to a layer's moments."""

    sums: _Sums
    held: _Held

    @property
    def nbytes(self) -> int:
        """Bytes of the moments, which the first of these jobs makes."""
        return self.sums.nbytes

    def __call__(self, spawn: Spawn) -> None:
        """Add one call after another."""
        del spawn
        with torch.no_grad():
            for given in self.held.inputs:
                self.sums.add(given)
        self.held.inputs.clear()


def input_tables(found: Mapping[str, InputMoments]) -> dict[str, LayerTable]:
    """Return the error table of each layer in the norm of its inputs."""
    jobs = {name: _TableJob(own) for name, own in found.items()}
    run_jobs(list(jobs.values()))
    return {name: job.table for name, job in jobs.items()}


@dataclass(slots=True)
class _TableJob:
    """A job that makes one layer's error table."""

    found: InputMoments
    table: Any = field(default=None)

    @property
    def nbytes(self) -> int:
        """Bytes of the moments in other units, and of a product with the weight."""
        moments = self.found.moments
        return 8 * self.found.weight.numel() + (0 if moments is None else moments.nbytes)

    def __call__(self, spawn: Spawn) -> None:
        """Compute the singular values of all slices."""
        del spawn
        self.table = data_table(self.found.spec, self.found.weight, self.found.moments)


INPUT_MOMENTS: Statistic[Mapping[str, LayerSpec]] = Statistic(
    "input_moments", gather_input_moments, NOT_OBSERVED, input_tables
)
"""`InputMoments` of every layer; a planner sees the error tables in their norm."""

SECOND_MOMENTS: Statistic[Mapping[str, LayerSpec]] = Statistic(
    "second_moments", partial(gather_input_moments, centred=False), NOT_OBSERVED, input_tables
)
"""The same without any constant that is added to outputs: E[x xᵀ] of every layer."""
