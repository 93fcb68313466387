"""Means and second moments of what a layer's kernel is applied to, its input patches.

A patch x is what one output of a layer is computed from: the inputs under the kernel at one
position of one image, in the order of the columns of the folded weight, so that the layer gives
W x plus its bias there. What the padding adds is part of it. Moments are added up in float64,
about the mean of the first patches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration.moment_passes import layer_moments
from alds_cli.calibration.responses import absorbers
from alds_cli.calibration.statistic import Statistic
from alds_cli.datasets import Batch
from alds_cli.numerics.data_norm import data_table
from alds_cli.records import LayerSpec, LayerTable, ProgressCallback
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import layer_at, layer_weight

_log = logging.getLogger(__name__)

OTHER_INDICES = 0.1
"""The share of an embedding's inputs that is spread over all of its indices alike.

A sample of texts holds few of the words and positions that there are, and those that it lacks would
count as nothing. Of 0, 0.1, 0.5 and 1, a tenth served a MiniLM best on other texts."""

NOT_OBSERVED = "its inputs cannot be observed: the forward pass does not call it"


@dataclass(frozen=True, slots=True)
class InputMoments:
    """The input patches of a layer with g groups of n = c/g · κ… inputs each.

    Attributes:
        count: number of positions over all images.
        mean: E[x], (g, n) in float64.
        covariance: (g, n, n) in float64, which may be mapped from a file and is not written to.
            None where it would be too large: every direction then counts alike. None of an
            embedding, whose moments are its means.
        absorber: name of the module that can absorb an added constant, as in `Responses`.
        spec: the layer.
        weight: its weight, (f, c/g, κ…).
    """

    count: int
    mean: Tensor
    covariance: Tensor | None
    absorber: str | None
    spec: LayerSpec
    weight: Tensor

    @property
    def moments(self) -> Tensor | None:
        """The covariance if there is an absorber, else E[x xᵀ], which is made anew each time.

        That of an embedding is a diagonal, which is what is returned, (1, n).
        """
        if self.spec.kind == "embedding":
            return (1 - OTHER_INDICES) * self.mean + OTHER_INDICES / self.mean.shape[1]
        if self.covariance is None or self.absorber is not None:
            return self.covariance
        return torch.addcmul(self.covariance, self.mean[:, :, None], self.mean[:, None, :])

    @property
    def nbytes(self) -> int:
        """Bytes of the moments, where these are matrices."""
        return 0 if self.covariance is None else self.covariance.nbytes


def gather_input_moments(
    network: nn.Module,
    specs: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
    centred: bool = True,
    cache: bool = False,
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
        cache: whether what is gathered is read from and kept in the user's cache folder. The
            result has the same bits.

    Returns:
        The moments by layer name, in the order of `specs`; layers that are never called are
        missing.

    Raises:
        DataError: there are no images, the network does not accept them, or a layer's inputs are
            not finite.
    """
    wanted = {name: spec for name, spec in specs.items() if spec.reason is None}
    found = layer_moments(network, wanted, batches, device=device, progress=progress, cache=cache)
    seen = {name: own for name, own in found.items() if own.count}
    taken: Mapping[str, str | None] = {}
    if centred:
        flat = {name: own.flat for name, own in seen.items()}
        taken = absorbers(network, {name: wanted[name] for name in seen}, flat)
    for name, own in seen.items():
        if own.covariance is None and wanted[name].kind != "embedding":
            _log.info("%s: all inputs count alike, since there are too many", name)
    return {
        name: InputMoments(
            own.count,
            own.mean,
            own.covariance,
            taken.get(name),
            wanted[name],
            layer_weight(layer_at(network, name)),
        )
        for name, own in seen.items()
    }


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
        """Bytes of the moments, also in other units, and of a product with the weight."""
        return 8 * self.found.weight.numel() + 2 * self.found.nbytes

    def __call__(self, spawn: Spawn) -> None:
        """Compute the singular values of all slices."""
        del spawn
        self.table = data_table(self.found.spec, self.found.weight, self.found.moments)


INPUT_MOMENTS: Statistic[Mapping[str, LayerSpec]] = Statistic(
    "input_moments",
    gather_input_moments,
    NOT_OBSERVED,
    input_tables,
    partial(gather_input_moments, cache=True),
)
"""`InputMoments` of every layer; a planner sees the error tables in their norm."""

SECOND_MOMENTS: Statistic[Mapping[str, LayerSpec]] = Statistic(
    "second_moments",
    partial(gather_input_moments, centred=False),
    NOT_OBSERVED,
    input_tables,
    partial(gather_input_moments, centred=False, cache=True),
)
"""The same without any constant that is added to outputs: E[x xᵀ] of every layer."""
