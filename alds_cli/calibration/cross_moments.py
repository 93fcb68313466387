"""Moments of a layer's outputs in one network with its input patches in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration.moment_sums import add_scatter, covariance_bytes, with_samples
from alds_cli.calibration.sensitivities import input_patches
from alds_cli.numerics.fold import fold
from alds_cli.numerics.grams import mirrored
from alds_cli.records import OPERATOR, LayerSpec
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import layer_weight

_PARTS = 4
"""The parts of the batches that are added up side by side."""

_SMALL = 64 << 20
"""The most bytes of moments of which there may be as many at a time."""


@dataclass(frozen=True, slots=True)
class CrossMoments:
    """What a layer with weight W gave on patches x, and the patches x̂ that its successor gets.

    All are in float64, for g groups of n inputs and f/g outputs.

    Attributes:
        count: number of positions over all images.
        output: E[Wx], (g, f/g).
        mean: E[x̂], (g, n).
        moments: E[x̂ x̂ᵀ], (g, n, n), about the mean where they are centred; None for means only.
        cross: E[Wx x̂ᵀ], (g, f/g, n), likewise.
        energy: E‖Wx‖², likewise.
    """

    count: int
    output: Tensor
    mean: Tensor
    moments: Tensor | None
    cross: Tensor | None
    energy: float

    def error(self, weight: Tensor) -> float:
        """Return E‖Wx − Ŵx̂‖² for a weight Ŵ (g, f/g, n)."""
        assert self.moments is not None  # noqa: S101 - asked for where there are moments
        assert self.cross is not None  # noqa: S101
        left = (weight @ self.moments - 2 * self.cross) * weight
        return self.energy + float(left.sum())


def cross_moments(
    layer: nn.Module,
    spec: LayerSpec,
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    *,
    centred: bool,
    only_means: bool = False,
) -> CrossMoments:
    """Return the moments over all batches; they have the same bits for any number of threads.

    Args:
        layer: the original layer.
        spec: its specification.
        before: its inputs, batch by batch.
        after: the inputs of the layer in its place.
        centred: whether moments are about the means.
        only_means: whether moments are left out.
    """
    pairs = list(zip(before, after, strict=True))
    point = _first_mean(layer, spec, pairs[0][1])
    weight = fold(layer_weight(layer), OPERATOR).to(point.device).to(torch.float64)
    weight = weight.reshape(spec.groups, len(weight) // spec.groups, -1)
    parts = _PARTS if only_means or covariance_bytes(spec) <= _SMALL else 1
    size = -(-len(pairs) // parts)
    jobs = [
        _SumJob(layer, spec, weight, pairs[start : start + size], point, only_means)
        for start in range(0, len(pairs), size)
    ]
    with torch.no_grad():
        run_jobs(jobs)
        first, *others = jobs
        for other in others:
            first.add(other)
        return first.settled(centred)


def _first_mean(layer: nn.Module, spec: LayerSpec, given: Tensor) -> Tensor:
    """Return a point (g, n, 1) near the mean of the patches."""
    some = next(input_patches(layer, _batched(spec, given[:1])))
    patches = some.to(torch.float64).reshape(spec.groups, prod(spec.weight_shape[1:]), -1)
    return patches.mean(dim=2, keepdim=True)


def _batched(spec: LayerSpec, given: Tensor) -> Tensor:
    """Return the input of a layer with an axis of samples, on a device that has float64."""
    if given.device.type not in ("cpu", "cuda"):
        given = given.cpu()
    return with_samples(spec, given)


@dataclass(slots=True)
class _SumJob:
    """A job that adds up some batches, the patches about a point."""

    layer: nn.Module
    spec: LayerSpec
    weight: Tensor
    pairs: Sequence[tuple[Tensor, Tensor]]
    point: Tensor
    only_means: bool
    count: int = 0
    energy: Any = 0.0
    output: Any = 0.0
    mean: Any = 0.0
    moments: Any = None
    cross: Any = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the sums."""
        return 0 if self.only_means else 8 * self.point.numel() * self.point.shape[1]

    def __call__(self, spawn: Spawn) -> None:
        """Add one batch after another."""
        del spawn
        groups, size = self.point.shape[:2]
        with torch.no_grad():
            for pair in self.pairs:
                patches = (input_patches(self.layer, _batched(self.spec, own)) for own in pair)
                for before, after in zip(*patches, strict=True):
                    shaped = (
                        own.to(torch.float64).view(groups, size, -1) for own in (before, after)
                    )
                    self._add_block(*shaped)

    def _add_block(self, before: Tensor, after: Tensor) -> None:
        after = after - self.point
        self.count += after.shape[2]
        self.mean = self.mean + after.sum(dim=2)
        if self.only_means:
            total = before.sum(dim=2, keepdim=True)
            self.output = self.output + (self.weight @ total).squeeze(2)
            return
        given = self.weight @ before
        self.output = self.output + given.sum(dim=2)
        self.energy = self.energy + float(given.square().sum())
        self.cross = self.cross + given @ after.mT
        if self.moments is None:
            self.moments = after.new_zeros(*after.shape[:2], after.shape[1])
        add_scatter(self.moments, after)

    def add(self, other: _SumJob) -> None:
        """Add the sums of another part."""
        self.count += other.count
        self.output, self.mean = self.output + other.output, self.mean + other.mean
        if not self.only_means:
            self.moments, self.cross = self.moments + other.moments, self.cross + other.cross
        self.energy += other.energy

    def settled(self, centred: bool) -> CrossMoments:
        """Divide by the count, and move the moments to where they belong."""
        output, apart = (own.cpu() / self.count for own in (self.output, self.mean))
        point = self.point.squeeze(2).cpu()
        mean = apart + point
        if self.only_means:
            return CrossMoments(self.count, output, mean, None, None, 0.0)
        moments, cross = (own.cpu() / self.count for own in (self.moments, self.cross))
        energy = self.energy / self.count
        moments.baddbmm_(apart[:, :, None], apart[:, None, :], alpha=-1)
        for group in moments:
            mirrored(group)
        cross.baddbmm_(output[:, :, None], apart[:, None, :], alpha=-1)
        if centred:
            energy -= float(output.square().sum())
        else:
            moments.baddbmm_(mean[:, :, None], mean[:, None, :])
            cross.baddbmm_(output[:, :, None], mean[:, None, :])
        return CrossMoments(self.count, output, mean, moments, cross, energy)
