"""One pass of images through a network, adding up the moments of what its layers are given.

The images pass a few batches at a time, and each layer's moments are then added up in the order of
the batches, many layers side by side. So the memory is that of the moments themselves and of the
inputs of a few batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration.observing import Call, observe
from alds_cli.calibration.sensitivities import input_patches
from alds_cli.calibration.statistic import require_finite
from alds_cli.checkpoint.moment_files import LayerMoments
from alds_cli.datasets import Batch
from alds_cli.numerics.grams import add_gram, mirrored
from alds_cli.records import LayerSpec, ProgressCallback
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import layer_at

MOST_BYTES = 512 << 20
"""The most bytes that the moments of one layer may take; of larger ones only means are gathered."""

_HELD_BYTES = 1 << 30
"""The bytes of layers' inputs that are held before they are added up, at least one batch's."""

_MOST_TOGETHER = 64
"""The most batches whose inputs are held."""

_STRIPE = 64
"""The least rows of moments that are added to together; see `grams.add_gram`."""


def covariance_bytes(spec: LayerSpec) -> int:
    """Return the bytes of a layer's moments; 0 where they would be too many and are left out.

    Those of an embedding's inputs follow from how often each index is looked up, their mean.
    """
    if spec.kind == "embedding":
        return 0
    nbytes = 8 * spec.groups * prod(spec.weight_shape[1:]) ** 2
    return nbytes if nbytes <= MOST_BYTES else 0


def with_samples(spec: LayerSpec, given: Tensor) -> Tensor:
    """Return the input of a layer with an axis of samples."""
    spatial = len(spec.kernel)
    return given if not spatial or given.ndim > spatial + 1 else given.unsqueeze(0)


def add_scatter(scatter: Tensor, block: Tensor) -> None:
    """Add B Bᵀ of patches B (g, n, positions) to (g, n, n); of one group, the lower half alone."""
    if len(block) > 1:
        scatter.baddbmm_(block, block.mT)
    else:
        add_gram(scatter[0], block[0], max(_STRIPE, block.shape[1] // 4))


def summed_moments(
    network: nn.Module,
    specs: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, LayerMoments]:
    """Pass all batches through a network, and return the moments of every layer in `specs`.

    Args:
        network: it is left unchanged.
        specs: the layers to observe, by name.
        batches: inputs and labels.
        device: where to compute; None means the CPU, where the result has the same bits
            whatever the number of threads and whichever other layers are observed.
        progress: called after each batch; it counts within some batches at a time.

    Raises:
        DataError: there are no images, the network does not accept them, or a layer's inputs are
            not finite.
    """
    sums: dict[str, _Sums | _IndexCounts] = {
        name: _IndexCounts(spec)
        if spec.kind == "embedding"
        else _Sums(layer_at(network, name), spec)
        for name, spec in specs.items()
    }
    source, together, begun = iter(batches), 1, False
    wave = list(islice(source, 1))
    while wave or not begun:  # without any batch, `observe` says what is wrong
        begun = True
        held = observe(network, list(specs), wave, _HoldsInputs(), device=device, progress=progress)
        nbytes = sum(tensor.nbytes for calls in held.values() for tensor in calls.inputs)
        together = min(_MOST_TOGETHER, max(1, len(wave) * _HELD_BYTES // max(1, nbytes)))
        run_jobs([_AddJob(sums[name], calls) for name, calls in held.items()])
        wave = list(islice(source, together))
    found = {name: own.settled() for name, own in sums.items()}
    for name, own in found.items():
        require_finite(f"the inputs of {name}", *own.tensors.values())
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
        return covariance_bytes(self._spec)

    def add(self, given: Tensor) -> None:
        """Add the patches of one call's input."""
        self.flat = self.flat and given.ndim == 2
        for patches in input_patches(self._layer, with_samples(self._spec, given)):
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
        add_scatter(self._scatter, block)

    def settled(self) -> LayerMoments:
        """Return what was found; the sums are of no use afterwards."""
        if not self.count:
            nothing = torch.zeros(self._spec.groups, self._size, dtype=torch.float64)
            return LayerMoments(0, nothing, None, self.flat)
        apart = self._total.cpu() / self.count
        mean = apart if self._point is None else self._point.squeeze(2).cpu() + apart
        covariance = None
        if self._scatter is not None:
            covariance = self._scatter.cpu().div_(self.count)
            self._scatter = None
            covariance.baddbmm_(apart[:, :, None], apart[:, None, :], alpha=-1)
            for group in covariance:
                mirrored(group)
        return LayerMoments(self.count, mean, covariance, self.flat)


class _IndexCounts:
    """How often an embedding is asked for each of its indices.

    Args:
        spec: the embedding.
    """

    nbytes = 0

    def __init__(self, spec: LayerSpec) -> None:
        self._counts = torch.zeros(spec.in_channels, dtype=torch.int64)

    def add(self, given: Tensor) -> None:
        """Add the indices of one call."""
        self._counts += torch.bincount(given.flatten().cpu(), minlength=len(self._counts))

    def settled(self) -> LayerMoments:
        """Return the share of every index as the mean of vectors that are 1 at an index."""
        count = int(self._counts.sum())
        shares = self._counts.double() / max(count, 1)
        return LayerMoments(count, shares[None], None, flat=False)


@dataclass(slots=True)
class _AddJob:
    """A job that adds the inputs of a few batches to a layer's moments."""

    sums: _Sums | _IndexCounts
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
