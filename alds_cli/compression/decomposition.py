"""Carrying a plan out: factors, true errors, and pairs in the place of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from alds_cli.calibration import Responses
from alds_cli.compression.clustering_jobs import ClusterJob
from alds_cli.compression.reporting import layer_reports
from alds_cli.compression.response_jobs import ResponsePairJob, absorb_shift
from alds_cli.numerics.factors import low_rank_factors
from alds_cli.numerics.fold import factors_to_weights, fold
from alds_cli.numerics.norms import residual_norm
from alds_cli.numerics.pool import Spawn, run_jobs
from alds_cli.numerics.scaling import unit_exponent
from alds_cli.records import (
    CLUSTERED,
    Choice,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.surgery import install_pair, require_fitting, weight_at


class PairJob(Protocol):
    """What makes the halves of one pair, for the pool.

    `weight` is the layer's, `weights` the halves' and `error` the pair's true error, once it is
    done; `nbytes` is about what it needs meanwhile.
    """

    weight: Tensor
    choice: Choice
    weights: tuple[Tensor, ...]
    error: float

    @property
    def nbytes(self) -> int:
        """Memory in use while it runs, about."""
        ...

    def __call__(self, spawn: Spawn) -> None:
        """Make them."""
        ...


@dataclass(slots=True)
class _SvdJob:
    """Factors of one layer and the true error of what will be stored, for the pool."""

    weight: Tensor
    groups: int
    choice: Choice
    norm: float
    weights: tuple[Tensor, ...] = ()
    error: float = 0.0

    @property
    def nbytes(self) -> int:
        """About what a Gram matrix of the layer and its eigenvectors take."""
        rows, channels, width = fold(self.weight, self.choice.scheme).shape
        return 3 * 8 * min(rows // self.groups, channels * width) ** 2

    def __call__(self, spawn: Spawn) -> None:
        """Factor, then measure with the numbers as they are rounded for storage."""
        del spawn
        scheme, k, j = self.choice.scheme, self.choice.k, self.choice.j
        matrix = fold(self.weight, scheme)
        left, right = low_rank_factors(matrix, k, j, self.weight.dtype, self.groups)
        if self.norm > 0:
            unit = unit_exponent(self.weight)
            self.error = residual_norm(matrix, left, right, self.groups, unit) / self.norm
        shape = tuple(self.weight.shape)
        self.weights = factors_to_weights(left, right, shape, scheme, self.groups)


def carry_out(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    plan: Plan,
    *,
    responses: Mapping[str, Responses] | None = None,
    progress: ProgressCallback | None = None,
) -> list[LayerReport]:
    """Replace the plan's layers by pairs, in place.

    Slices are approximated by their singular vectors, clusters by projective clustering. With
    responses, pairs keep the principal components of these instead, and what is then missing
    on the average is added.

    Args:
        module: the network; changed.
        specs: its layers.
        tables: error tables that cover the plan's choices.
        plan: what to do; layers it does not name are kept.
        responses: of the layers to images, for a method that goes by them.
        progress: told of every pair finished; its task is `decompose`.

    Returns:
        What became of every layer.

    Raises:
        PlanError: the plan does not fit the network; nothing has been changed then.
    """
    require_fitting(specs, plan.choices)
    types = weight_types(module, plan.decomposed)
    jobs = {
        name: _job(module, specs[name], choice, tables, plan, responses)
        for name, choice in plan.decomposed.items()
    }
    # The largest first: what it takes is gone before the others' results pile up.
    names = sorted(jobs, key=lambda name: -jobs[name].nbytes)
    errors: dict[str, float] = {}

    def finished(index: int) -> None:
        name = names[index]
        job = jobs[name]
        install_pair(module, name, job.choice, job.weights)
        if isinstance(job, ResponsePairJob) and job.shift is not None:
            absorb_shift(module, name, job.responses, job.shift)
        job.weight, job.weights = torch.empty(0), ()  # neither is needed twice in memory
        errors[name] = job.error
        if progress is not None:
            progress(ProgressEvent("decompose", len(errors), len(names)))

    with torch.no_grad():
        run_jobs([jobs[name] for name in names], on_done=finished)
    return layer_reports(specs, tables, plan, types, errors, tabled=responses is None)


def weight_types(module: nn.Module, names: Iterable[str]) -> dict[str, torch.dtype]:
    """The types that layers hold their weights in."""
    return {name: weight_at(module, name).dtype for name in names}


def _job(
    module: nn.Module,
    spec: LayerSpec,
    choice: Choice,
    tables: ErrorTable,
    plan: Plan,
    responses: Mapping[str, Responses] | None,
) -> PairJob:
    """What makes a layer's pair."""
    norms = tables.layers[spec.name].norms
    if choice.scheme == CLUSTERED:  # folded as by scheme 0
        weight = weight_at(module, spec.name)
        return ClusterJob(weight, choice, norms[0], plan.seed or 0, plan.arguments)
    if responses is not None:
        return ResponsePairJob.of(module, spec, choice, norms[choice.scheme], responses[spec.name])
    return _SvdJob(weight_at(module, spec.name), spec.groups, choice, norms[choice.scheme])
