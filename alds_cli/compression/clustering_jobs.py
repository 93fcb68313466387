"""Pairs of clustered columns in the making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from alds_cli.methods.messi import clustering_options
from alds_cli.numerics.clustering_factors import (
    cluster_factors,
    clustered_residual,
    clustering_bytes,
)
from alds_cli.numerics.fold import fold
from alds_cli.numerics.pool import Spawn
from alds_cli.numerics.scaling import unit_exponent
from alds_cli.records import ArgumentValue, Choice


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
