"""Projective clustering: k subspaces of dimension j, as near to a matrix's columns as possible.

The algorithm is expectation-maximisation. In turn, every column joins the nearest subspace, and
every subspace is fitted anew to its columns. Neither step raises the loss, which is a sum over the
columns of

- `squared`: r², where r is the distance to the column's subspace. The fit is a truncated singular
  value decomposition. For k = 1 that is the whole solution.
- `absolute`: r, which distant columns influence less. Finding the nearest subspace is then hard
  even for k = 1, so the fit is one step of iteratively reweighted least squares, with weights 1 / r
  from the step before. It lowers the sum of h(r) with h(r) = r for r ≥ δ and (r² / δ + δ) / 2
  below, which is smooth where r has a kink; `Clusters.loss` is this sum. The first fit weighs
  columns by 1 / length, or long ones would keep the subspaces that they get at first; the first
  start is also tried with equal weights.

The result is a local optimum, the best of several. Finding the global one is NP-hard.

Source: Maalouf, Lang, Feldman, Rus, ICLR 2021, https://openreview.net/forum?id=EQfpYwF3-b, Sec. 2;
Liebenwein et al., NeurIPS 2021, supplement A.2. On non-squared distances: Clarkson & Woodruff, FOCS
2015 (hardness and approximation); Tukan, Maalouf, Feldman, NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alds_cli.numerics.clustering.columns import Columns
from alds_cli.numerics.clustering.seeds import consecutive, k_means
from alds_cli.numerics.grams import gram_of_blocks, leading_eigenpairs

DISTANCES = ("squared", "absolute")

DEFAULT_STARTS = 6

_STEPS = 200
"""The most steps from one start; most starts need about ten."""

_OPERATIONS = 1e12
"""Approximate multiply-accumulates of all starts of a layer: tens of seconds on one core."""

_USUAL_STEPS = {"squared": 8, "absolute": 24}

_TIE = 1e-12
"""A column moves only for more than this share of its squared length; less may be rounding."""

_SETTLED = 1e-5
"""Relative fall of a sum of distances below which its reweighting has converged."""

_LEAST_DISTANCE = 1e-6
"""δ as a fraction of the columns' root mean square length."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """A partition of columns, and the subspaces near them.

    Attributes:
        labels: the cluster of every column, (count,); none of the k clusters is empty.
        bases: (k, size, j) with orthonormal columns, in the space of the `Columns`.
        loss: the minimised sum, over the columns as `Columns` scales them.
        history: that sum after every step.
    """

    labels: Tensor
    bases: Tensor
    loss: float
    history: tuple[float, ...]


def projective_clusters(
    columns: Columns,
    k: int,
    j: int,
    *,
    seed: int = 0,
    distance: str = "squared",
    starts: int = DEFAULT_STARTS,
) -> Clusters:
    """Return the best of several local optima.

    The first start is the partition into consecutive columns with its singular vectors, so that
    the result is never worse than slices; the others are k-means of directions. A layer so large
    that it would take minutes gets fewer starts, at least one, and fewer steps.

    Args:
        columns: the points.
        k: number of clusters, 1 ≤ k ≤ columns.count.
        j: dimension of each subspace, 1 ≤ j ≤ columns.size.
        seed: the seed of the k-means.
        distance: one of `DISTANCES`.
        starts: number of starts, at least 1.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 1 <= k <= columns.count or not 1 <= j <= columns.size:
        raise ValueError(f"{columns.count} columns have no {k} clusters of rank {j}")
    if distance not in DISTANCES or starts < 1:
        raise ValueError(f"no clustering by {distance} distance from {starts} starts")
    steps = _affordable_steps(columns, k, j)
    starts = max(1, min(starts, steps // _USUAL_STEPS[distance])) if k > 1 else 1
    found = (
        settled(columns, labels, k, j, distance=distance, alike=alike, steps=min(steps, _STEPS))
        for number, labels in enumerate(_starts(columns, k, starts, seed))
        for alike in ((True, False) if distance == "absolute" and number == 0 else (False,))
    )
    return min(found, key=lambda clusters: clusters.loss)


def _affordable_steps(columns: Columns, k: int, j: int) -> int:
    """Return the number of steps, at least one, that stay within `_OPERATIONS`.

    A step takes Gram matrices, eigenvectors and distances.
    """
    size, count = columns.size, columns.count
    step = size * size * count / 2 + 9 * k * size**3 + k * j * size * count
    return max(1, int(_OPERATIONS / step))


def _starts(columns: Columns, k: int, starts: int, seed: int) -> Iterator[Tensor]:
    yield consecutive(columns.count, k)
    random = np.random.default_rng(seed)
    for _ in range(starts - 1):
        yield k_means(columns, k, random)


def settled(
    columns: Columns,
    labels: Tensor,
    k: int,
    j: int,
    *,
    distance: str,
    alike: bool = False,
    steps: int = _STEPS,
) -> Clusters:
    """Return the local optimum that one partition leads to.

    Args:
        columns: the points.
        labels: the first cluster of each column, (count,).
        k: number of clusters; empty ones are given columns.
        j: dimension of each subspace.
        distance: one of `DISTANCES`.
        alike: with absolute distances, whether all columns have the same weight at first.
        steps: the most steps to take.
    """
    loss = _Loss.of(columns, distance)
    # Before there are subspaces, distances are measured from the origin.
    labels = _without_empty(labels.clone(), columns.squares, k)
    weights = None if alike else loss.weights(columns.squares)
    history: list[float] = []
    for _ in range(steps):
        bases = fitted(columns, labels, k, j, weights)
        squares = squared_distances(columns, bases)
        nearest = _nearest(squares, labels, columns.squares)
        distances = squares.gather(0, nearest[None])[0]
        history.append(loss.total(distances))
        nearest = _without_empty(nearest, distances, k)
        moved = not torch.equal(nearest, labels)
        if not moved and loss.is_settled(history):
            break
        labels, weights = nearest, loss.weights(distances)
    else:
        bases = fitted(columns, labels, k, j, weights)
        distances = squared_distances(columns, bases).gather(0, labels[None])[0]
        history.append(loss.total(distances))
    return Clusters(labels, bases, history[-1], tuple(history))


@dataclass(frozen=True, slots=True)
class _Loss:
    """The loss that is summed over columns, and the weights of squares that replace it."""

    squared: bool
    least: float

    @classmethod
    def of(cls, columns: Columns, distance: str) -> _Loss:
        mean = float(columns.squares.mean())
        return cls(distance == "squared", max(_LEAST_DISTANCE * mean**0.5, 1e-150))

    def total(self, squares: Tensor) -> float:
        """Return the loss of squared distances (count,)."""
        if self.squared:
            return float(squares.sum())
        far = squares.sqrt().clamp(min=self.least)
        return float(((squares / far + far) / 2).sum())

    def weights(self, squares: Tensor) -> Tensor | None:
        """Return the weights for which the sum of weighted squares touches the loss from above."""
        return None if self.squared else 1 / squares.sqrt().clamp(min=self.least)

    def is_settled(self, history: list[float]) -> bool:
        """Return whether more steps with the same partition would change nothing significant."""
        if self.squared:
            return True
        return len(history) > 1 and history[-2] - history[-1] <= _SETTLED * history[-1]


def fitted(
    columns: Columns, labels: Tensor, k: int, j: int, weights: Tensor | None = None
) -> Tensor:
    """Return the subspaces that minimise Σ w r² in each cluster, as bases (k, size, j).

    Args:
        columns: the points.
        labels: their clusters, (count,).
        k: number of clusters.
        j: dimension of each subspace.
        weights: w, (count,); None gives all the same weight.
    """
    bases = torch.empty(k, columns.size, j, dtype=torch.float64)
    for cluster in range(k):
        (index,) = torch.nonzero(labels == cluster, as_tuple=True)
        roots = None if weights is None else weights[index].sqrt()
        blocks = (
            block if roots is None else block * roots[part]
            for part, block in columns.gathered(index)
        )
        gram = gram_of_blocks(blocks, columns.size)
        bases[cluster] = leading_eigenpairs(gram[None], j)[1][0]
    return bases


def squared_distances(columns: Columns, bases: Tensor) -> Tensor:
    """Return the squared distance of every column from every subspace (k, size, j): (k, count)."""
    squares = columns.squares.repeat(len(bases), 1)
    for part, block in columns.blocks():
        for cluster, basis in enumerate(bases):
            squares[cluster, part] -= (basis.mT @ block).square().sum(0)
    return squares.clamp_(min=0)


def _nearest(squares: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """Return the nearest subspace of every column; its current one where that is equally near."""
    least, nearest = squares.min(0)
    current = squares.gather(0, labels[None])[0]
    return torch.where(current - least > _TIE * lengths, nearest, labels)


def _without_empty(labels: Tensor, squares: Tensor, k: int) -> Tensor:
    """Give every empty cluster the column farthest from its subspace, which it then holds exactly.

    Args:
        labels: (count,), changed in place; there are at least k columns.
        squares: the squared distances of the columns, (count,).
        k: number of clusters.
    """
    sizes = torch.bincount(labels, minlength=k)
    for cluster in torch.nonzero(sizes == 0)[:, 0].tolist():
        crowded = sizes[labels] > 1
        worst = int(torch.where(crowded, squares, -1.0).argmax())
        sizes[labels[worst]] -= 1
        sizes[cluster] += 1
        labels[worst] = cluster
    return labels
