"""Factors of clustered columns: an order that gathers them, the clusters' sizes and two matrices.

The columns `order` of a matrix, cut into runs of `sizes`, are approximated run by run: run i by
second[:, i·j : (i+1)·j] @ first[:, run i]. This takes j·(k·rows + columns) weights, as slices do,
and the order in addition.

Source: Maalouf, Lang, Feldman, Rus, ICLR 2021, https://openreview.net/forum?id=EQfpYwF3-b.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ldexp, sqrt

import torch
from torch import Tensor

from alds_cli.numerics.clustering.columns import Columns, columns_bytes
from alds_cli.numerics.clustering.subspaces import DEFAULT_STARTS, Clusters, projective_clusters
from alds_cli.numerics.eigenvalues import eigenvalue_bytes, largest_eigenvalue
from alds_cli.numerics.grams import (
    CHUNK_BYTES,
    balance,
    even_exponent,
    gram_of_blocks,
    leading_eigenpairs,
    scaled,
    scaled_factors,
)

INDEX_BYTES = torch.int32.itemsize
"""Bytes of one entry of the order or of the sizes."""


@dataclass(frozen=True, slots=True)
class ClusteredFactors:
    """Factors of a matrix (rows, columns) whose columns are clustered.

    Attributes:
        order: (columns,) int32, the columns cluster by cluster.
        sizes: (k,) int32, each at least 1.
        first: (j, columns), the right factors, in that order.
        second: (rows, k·j), the left factors.
    """

    order: Tensor
    sizes: Tensor
    first: Tensor
    second: Tensor


def cluster_factors(
    matrix: Tensor,
    k: int,
    j: int,
    *,
    seed: int = 0,
    distance: str = "squared",
    starts: int = DEFAULT_STARTS,
    dtype: torch.dtype = torch.float64,
) -> ClusteredFactors:
    """Cluster the columns, and project each on the subspace of its cluster.

    Everything is computed in float64; the same seed gives the same bits on one BLAS thread.
    Clusters are numbered by their first column and hold their columns in ascending order.

    Args:
        matrix: (rows, c, q) as `fold.fold` gives it, of any floating dtype.
        k: number of clusters, 1 ≤ k ≤ c·q.
        j: rank of each, 1 ≤ j ≤ min(rows, c·q). A cluster of fewer columns is held exactly.
        seed: the seed of everything random.
        distance: the distance summed over the columns, one of `subspaces.DISTANCES`.
        starts: number of starts of the search for clusters, at least 1.
        dtype: the type of the factors.

    Raises:
        ValueError: an argument is out of its range.
    """
    flat = matrix.flatten(1)
    columns = Columns(flat)
    found = projective_clusters(columns, k, j, seed=seed, distance=distance, starts=starts)
    runs = _runs(found.labels, k)
    first = torch.empty(j, flat.shape[1], dtype=dtype)
    second = torch.empty(flat.shape[0], k * j, dtype=dtype)
    start = 0
    for number, (cluster, index) in enumerate(runs):
        left, right = _projection(columns, found, cluster, index)
        second[:, number * j : (number + 1) * j] = left
        first[:, start : start + len(index)] = right
        start += len(index)
    order = torch.cat([index for _, index in runs]).to(torch.int32)
    sizes = torch.tensor([len(index) for _, index in runs], dtype=torch.int32)
    return ClusteredFactors(order, sizes, first, second)


def largest_rank(rows: int, columns: int, k: int) -> int:
    """Return the highest rank that k clusters can have.

    No cluster has more than columns − k + 1 columns, because every other cluster has one.
    """
    return min(rows, columns - k + 1)


def clustering_bytes(rows: int, columns: int, k: int, j: int) -> int:
    """Return the approximate bytes that `cluster_factors` takes beside its result."""
    size = min(rows, columns)
    square = 3 * 8 * size * size
    return columns_bytes(rows, columns) + max(square, eigenvalue_bytes(size)) + 16 * k * size * j


def multiply_clusters(first: Tensor, second: Tensor, order: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the matrix (rows, columns) of clustered factors, its columns in their own order."""
    product = torch.empty(len(second), first.shape[1], dtype=first.dtype)
    parts = zip(_cut(second, first, sizes), torch.split(order.long(), list(sizes)), strict=True)
    for (left, right), index in parts:
        product[:, index] = left @ right
    return product


def clustered_residual(matrix: Tensor, factors: ClusteredFactors, unit: int = 0) -> float:
    """Return ‖M − M̂‖₂ / 2**unit in float64, from the Gram matrix of the difference.

    Args:
        matrix: M, (rows, c, q) as `fold.fold` gives it.
        factors: factors of M̂, of any floating dtype.
        unit: exponent of the power of two in which the norm is given (`grams.unit_exponent`).
    """
    flat = matrix.flatten(1)
    rows, columns = flat.shape
    pairs = _cut(factors.second, factors.first, factors.sizes.tolist())
    exponent = max(even_exponent(flat), *(even_exponent(*pair) for pair in pairs))
    wide = rows <= columns
    blocks = (_column_blocks if wide else _row_blocks)(flat, factors, exponent)
    gram = gram_of_blocks(blocks if wide else (b.mT for b in blocks), min(rows, columns))
    return ldexp(sqrt(largest_eigenvalue(gram)), exponent - unit)


def require_clusters(order: Tensor, sizes: Tensor) -> None:
    """Check that `order` and `sizes` partition the columns.

    Raises:
        ValueError: `order` does not name every column once, or `sizes` does not cut it into
            runs of at least one column.
    """
    if order.dtype not in {torch.int32, torch.int64} or sizes.dtype not in {
        torch.int32,
        torch.int64,
    }:
        raise ValueError(f"columns are numbered by {order.dtype} and counted by {sizes.dtype}")
    count = len(order)
    if not torch.equal(order.long().sort().values, torch.arange(count, device=order.device)):
        raise ValueError(f"its order is no permutation of {count} columns")
    lengths = sizes.tolist()
    if min(lengths) < 1 or sum(lengths) != count:
        raise ValueError(f"its clusters have {lengths} of {count} columns")


def _runs(labels: Tensor, k: int) -> list[tuple[int, Tensor]]:
    """Return clusters with their columns' numbers, sorted by the first of these."""
    found = [(cluster, torch.nonzero(labels == cluster)[:, 0]) for cluster in range(k)]
    return sorted(found, key=lambda run: int(run[1][0]))


def _projection(
    columns: Columns, found: Clusters, cluster: int, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the projection of a cluster's columns on its subspace, as balanced factors.

    They are (rows, j) and (j, n): singular vectors of the projection, each times √σ.
    """
    basis = found.bases[cluster]
    core = torch.empty(basis.shape[1], len(index), dtype=torch.float64)
    for part, block in columns.gathered(index):
        core[:, part] = basis.mT @ block
    values, vectors = leading_eigenpairs((core @ core.mT)[None], len(core))
    scale = balance(values, 2.0 ** (columns.exponent // 2))[0]
    left = columns.lifted(basis @ vectors[0]) * scale
    right = (vectors[0] / scale).mT @ core
    return left, right.mul_(2.0**columns.exponent)


def _cut(second: Tensor, first: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the left and the right factor of each cluster."""
    yield from zip(second.chunk(len(sizes), 1), torch.split(first, list(sizes), 1), strict=True)


def _column_blocks(matrix: Tensor, factors: ClusteredFactors, exponent: int) -> Iterator[Tensor]:
    """Yield the scaled difference with its sign reversed, some columns at a time: (rows, b)."""
    together = max(1, CHUNK_BYTES // (8 * len(matrix)))
    sizes = factors.sizes.tolist()
    indices = torch.split(factors.order.long(), sizes)
    *_, second_exponent, first_exponent = scaled_factors(factors.second, factors.first, exponent)
    for (left, right), index in zip(
        _cut(factors.second, factors.first, sizes), indices, strict=True
    ):
        cluster_left = scaled(left, second_exponent)
        for start in range(0, len(index), together):
            part = slice(start, start + together)
            product = cluster_left @ scaled(right[:, part], first_exponent)
            yield product.sub_(scaled(matrix[:, index[part]], exponent))


def _row_blocks(matrix: Tensor, factors: ClusteredFactors, exponent: int) -> Iterator[Tensor]:
    """Yield the same difference with the columns in `order`, some rows at a time: (b, columns)."""
    rows, columns = matrix.shape
    together = max(1, CHUNK_BYTES // (8 * columns))
    order, sizes = factors.order.long(), factors.sizes.tolist()
    *_, second_exponent, first_exponent = scaled_factors(factors.second, factors.first, exponent)
    first = scaled(factors.first, first_exponent)
    for start in range(0, rows, together):
        part = slice(start, start + together)
        second = scaled(factors.second[part], second_exponent)
        product = torch.cat([left @ right for left, right in _cut(second, first, sizes)], 1)
        yield product.sub_(scaled(matrix[part][:, order], exponent))
