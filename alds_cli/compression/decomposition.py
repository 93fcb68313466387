"""Carrying a plan out: factors, true errors, and pairs in the place of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alds_cli.compression.reporting import layer_reports
from alds_cli.numerics.factors import low_rank_factors
from alds_cli.numerics.fold import factors_to_weights, fold
from alds_cli.numerics.norms import residual_norm
from alds_cli.numerics.pool import Spawn, run_jobs
from alds_cli.records import (
    Choice,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.surgery import install_pair, require_fitting, weight_at


@dataclass(slots=True)
class _PairJob:
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
            self.error = residual_norm(matrix, left, right, self.groups) / self.norm
        shape = tuple(self.weight.shape)
        self.weights = factors_to_weights(left, right, shape, scheme, self.groups)


def carry_out(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    plan: Plan,
    *,
    progress: ProgressCallback | None = None,
) -> list[LayerReport]:
    """Replace the plan's layers by pairs, in place.

    Args:
        module: the network; changed.
        specs: its layers.
        tables: error tables that cover the plan's choices.
        plan: what to do; layers it does not name are kept.
        progress: told of every pair finished; its task is `decompose`.

    Returns:
        What became of every layer.

    Raises:
        PlanError: the plan does not fit the network; nothing has been changed then.
    """
    require_fitting(specs, plan.choices)
    jobs: dict[str, _PairJob] = {}
    for name, choice in plan.decomposed.items():
        norm = tables.layers[name].norms[choice.scheme]
        jobs[name] = _PairJob(weight_at(module, name), specs[name].groups, choice, norm)
    # The largest first: what it takes is gone before the others' results pile up.
    names = sorted(jobs, key=lambda name: -jobs[name].nbytes)
    errors: dict[str, float] = {}

    def finished(index: int) -> None:
        name = names[index]
        job = jobs[name]
        install_pair(module, name, job.choice, job.weights)
        job.weight, job.weights = torch.empty(0), ()  # neither is needed twice in memory
        errors[name] = job.error
        if progress is not None:
            progress(ProgressEvent("decompose", len(errors), len(names)))

    with torch.no_grad():
        run_jobs([jobs[name] for name in names], on_done=finished)
    return layer_reports(specs, tables, plan, errors)
