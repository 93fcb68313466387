"""Partitions of columns that projective clustering starts from.

A column and its negative lie in the same subspaces, so directions count up to their sign.

Source: Arthur & Vassilvitskii, SODA 2007 (k-means++); Dhillon & Modha, Machine Learning 42, 2001
(k-means of directions).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alds_cli.numerics.clustering.columns import Columns

_ROUNDS = 10
"""Rounds of k-means; the start need not converge, since the subspaces move on from there."""

_PARALLEL = 1e-14
"""Squared sine below which two directions are the same up to rounding."""


def consecutive(count: int, k: int) -> Tensor:
    """Return labels (count,) of k runs of columns of nearly equal length, the longer ones first.

    Where k divides the channels, these runs are the slices of ALDS.
    """
    share, more = divmod(count, k)
    lengths = torch.tensor([share + 1] * more + [share] * (k - more))
    return torch.repeat_interleave(torch.arange(k), lengths)


def k_means(columns: Columns, k: int, random: np.random.Generator) -> Tensor:
    """Return labels (count,) from k-means of the columns' directions; a cluster may be empty.

    Args:
        columns: the points.
        k: number of clusters.
        random: the generator that draws the seeds.
    """
    centres = _seeds(columns, k, random)
    labels = torch.full((columns.count,), -1)
    for _ in range(_ROUNDS):
        before = labels
        labels, sums = _round(columns, centres)
        if torch.equal(labels, before):
            break
        lengths = torch.linalg.vector_norm(sums, dim=0)
        # A cluster that has lost all columns keeps its centre.
        centres = torch.where(lengths > 0, sums / lengths.clamp(min=1e-300), centres)
    return labels


def _round(columns: Columns, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centre (size, k) of every column, and the sums of the directions."""
    labels = torch.empty(columns.count, dtype=torch.int64)
    sums = torch.zeros_like(centres)
    for part, block in columns.blocks():
        directions = _directions(block, columns.squares[part])
        cosines = centres.mT @ directions  # (k, b)
        nearest = cosines.abs().argmax(0)
        labels[part] = nearest
        signs = cosines.gather(0, nearest[None]).sign()
        member = torch.zeros_like(cosines).scatter_(0, nearest[None], signs)
        sums += directions @ member.mT
    return labels, sums


def _seeds(columns: Columns, k: int, random: np.random.Generator) -> Tensor:
    """Return directions (size, k), each drawn by its squared sine to the nearest one before."""
    squares = (columns.squares > 0).to(torch.float64)
    seeds = torch.empty(columns.size, k, dtype=torch.float64)
    for index in range(k):
        drawn = torch.tensor([_drawn(squares, random)])
        ((_, block),) = columns.gathered(drawn)
        seeds[:, index] = _directions(block, columns.squares[drawn])[:, 0]
        for part, block in columns.blocks():
            cosines = seeds[:, index] @ _directions(block, columns.squares[part])
            squares[part] = torch.minimum(squares[part], 1 - cosines.square())
        squares[squares < _PARALLEL] = 0
    return seeds


def _drawn(weights: Tensor, random: np.random.Generator) -> int:
    """Return an index drawn by weight, or uniformly where all weights are 0."""
    totals = np.cumsum(weights.numpy())
    point = random.random()
    if not totals[-1] > 0:
        return int(point * len(totals))
    at = np.searchsorted(totals, point * totals[-1], side="right")
    return int(min(at, len(totals) - 1))


def _directions(block: Tensor, squares: Tensor) -> Tensor:
    """Return columns (size, b) scaled to length 1; columns that are 0 stay as they are."""
    return block / torch.where(squares > 0, squares, 1.0).sqrt()
