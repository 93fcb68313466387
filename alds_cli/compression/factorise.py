"""Carrying a plan out: factors, true errors, and pairs in the place of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from alds_cli.calibration import Responses
from alds_cli.compression.strategy import layer_reports
from alds_cli.methods.messi import clustering_options
from alds_cli.numerics.clustering.clustered_factors import (
    cluster_factors,
    clustered_residual,
    clustering_bytes,
)
from alds_cli.numerics.factors import low_rank_factors
from alds_cli.numerics.fold import factors_to_weights, fold
from alds_cli.numerics.grams import unit_exponent
from alds_cli.numerics.pca_factors import constant_left, response_factors
from alds_cli.numerics.spectral_norms import residual_norm
from alds_cli.records import (
    CLUSTERED,
    ArgumentValue,
    Choice,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import install_pair, layer_at, layer_weight, require_fitting, weight_at


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


@dataclass(slots=True)
class ClusterJob:
    """Clusters of one layer and the true error of what will be stored, for the pool.

    Attributes:
        weight: (f, c, κ…) of a layer with one group.
        choice: of scheme `fold.CLUSTERED`.
        norm: ‖W‖₂ of the weight folded by scheme 0, in the units of `scaling.unit_exponent`.
        seed: of the starts.
        arguments: the method's own, where they are not the usual ones.
        weights: the result, as `install_pair` takes it.
        error: of the result, ‖W − Ŵ‖₂ / ‖W‖₂.
    """

    weight: Tensor
    choice: Choice
    norm: float
    seed: int = 0
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    weights: tuple[Tensor, ...] = ()
    error: float = 0.0

    @property
    def nbytes(self) -> int:
        """About what the points, a Gram matrix and the subspaces take."""
        rows, channels, width = fold(self.weight, self.choice.scheme).shape
        return clustering_bytes(rows, channels * width, self.choice.k, self.choice.j)

    def __call__(self, spawn: Spawn) -> None:
        """Cluster, then measure with the numbers as they are rounded for storage."""
        del spawn
        matrix = fold(self.weight, self.choice.scheme)
        distance, starts = clustering_options(self.arguments)
        factors = cluster_factors(
            matrix,
            self.choice.k,
            self.choice.j,
            seed=self.seed,
            distance=distance,
            starts=starts,
            dtype=self.weight.dtype,
        )
        if self.norm > 0:
            unit = unit_exponent(self.weight)
            self.error = clustered_residual(matrix, factors, unit) / self.norm
        self.weights = (factors.first, factors.second, factors.order, factors.sizes)


@dataclass(slots=True)
class ResponsePairJob:
    """Factors of one layer, their true error, and the constant to add, for the pool.

    Attributes:
        weight: (f, c/g, κ…).
        groups: g.
        choice: of scheme 0 and one slice.
        norm: ‖W‖₂, in the units of `scaling.unit_exponent`.
        responses: of the layer.
        bias: (f,), or None.
        weights: of the pair's halves, once the job is done.
        error: ‖W − Ŵ‖₂ / ‖W‖₂ of these as they are rounded for storage.
        shift: (f,) in float64, what is then missing in the pair's output on the average; None
            where nothing can absorb it.
    """

    weight: Tensor
    groups: int
    choice: Choice
    norm: float
    responses: Responses
    bias: Tensor | None = None
    weights: tuple[Tensor, ...] = ()
    error: float = 0.0
    shift: Tensor | None = None

    @classmethod
    def of(
        cls, module: nn.Module, spec: LayerSpec, choice: Choice, norm: float, responses: Responses
    ) -> ResponsePairJob:
        """The job for a layer of a network.

        Raises:
            ValueError: the choice has another scheme, or several slices.
        """
        if (choice.scheme, choice.k) != (0, 1):
            raise ValueError(f"principal components of responses give no pair for {choice}")
        layer: Any = layer_at(module, spec.name)
        bias = None if layer.bias is None else layer.bias.detach()
        return cls(layer_weight(layer), spec.groups, choice, norm, responses, bias)

    @property
    def nbytes(self) -> int:
        """About what the moments' eigenvectors take, and the weight in float64."""
        return 8 * (3 * self.responses.moments.numel() + 2 * self.weight.numel())

    def __call__(self, spawn: Spawn) -> None:
        """Factor, then measure with the numbers as they are rounded for storage."""
        del spawn
        matrix = fold(self.weight, 0)
        responses = self.responses
        left, right, basis = response_factors(
            matrix, responses.moments, responses.frame, self.choice.j, self.weight.dtype
        )
        if self.norm > 0:
            unit = unit_exponent(self.weight)
            self.error = residual_norm(matrix, left, right, self.groups, unit) / self.norm
        self.weights = factors_to_weights(left, right, tuple(self.weight.shape), 0, self.groups)
        if self.responses.absorber is not None:
            mean = self.responses.mean
            rest = mean if self.bias is None else mean - self.bias.to("cpu", torch.float64)
            self.shift = constant_left(basis, rest)


def absorb_shift(module: nn.Module, name: str, responses: Responses, shift: Tensor) -> None:
    """Add a constant to the output of a pair in evaluation mode, at no cost.

    It goes into the bias of the second half, or, with the opposite sign, into the running
    mean of the batch normalisation that follows.

    Args:
        module: the network with the pair installed; changed in place. The tensor concerned is
            replaced, not overwritten.
        name: the layer that the pair stands for.
        responses: of that layer; their absorber takes the constant.
        shift: (f,).

    Raises:
        ValueError: the layer has nothing that could take it.
    """
    if responses.absorber is None:
        raise ValueError(f"nothing after {name} takes a constant")
    part: Any = module.get_submodule(responses.absorber)
    with torch.no_grad():
        if responses.absorber != name:
            part.running_mean = _added(part.running_mean, -shift)
            return
        bias = part.second.bias
        part.second.bias = nn.Parameter(_added(bias, shift), requires_grad=bias.requires_grad)


def _added(tensor: Tensor, shift: Tensor) -> Tensor:
    """The sum in float64, rounded once."""
    return (tensor.to("cpu", torch.float64) + shift).to(tensor)
