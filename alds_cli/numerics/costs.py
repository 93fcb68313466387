"""The cost of a choice in closed form: parameters, and multiply-accumulates (MACs)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeVar

import numpy as np

from alds_cli.numerics.fold import carried_by_second, folded_shape
from alds_cli.records import Choice, IntArray, LayerSpec

_Whole = TypeVar("_Whole", int, IntArray)

CallShapes = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
"""The input and output shapes of a layer, for each of its calls."""


def rank_params(rows: int, columns: int, k: _Whole, groups: int = 1) -> _Whole:
    """Return k·rows + g·columns, the number of weights for one rank in each of k slices.

    A pair of rank j has j times as many.

    Args:
        rows: the rows of the whole layer's folded matrix.
        columns: the columns of that matrix.
        k: numbers of slices in a group, one or an array of them.
        groups: g, the groups of the layer.

    Source: Liebenwein et al., NeurIPS 2021, Sec. 2.1.
    """
    return k * rows + groups * columns


def pair_params(shape: tuple[int, ...], scheme: int, k: int, j: int, groups: int = 1) -> int:
    """Return the number of weights of a pair with k slices of rank j, of a weight (f, c/g, κ…).

    With groups, k counts the slices of each group.
    """
    return j * rank_params(*folded_shape(shape, scheme), k, groups)


def option_costs(spec: LayerSpec, choices: IntArray) -> IntArray:
    """Return the parameters (n,) of pairs (n, 3), without the bias; 0 where no pair is made."""
    scheme, k, j = choices.T
    costs = np.zeros(len(choices), np.int64)
    for number in np.unique(scheme):
        rows_of_scheme = scheme == number
        rows, columns = folded_shape(spec.weight_shape, int(number))
        costs[rows_of_scheme] = j[rows_of_scheme] * rank_params(
            rows, columns, k[rows_of_scheme], spec.groups
        )
    return costs


def pair_macs(spec: LayerSpec, calls: CallShapes, choice: Choice) -> int:
    """Return the multiply-accumulates of a pair in the layer's place, over all calls.

    Args:
        spec: the layer.
        calls: the shapes of its calls in a forward pass.
        choice: scheme, k and j.
    """
    first, second = rank_macs(spec, calls, choice.scheme)
    return choice.j * (first + choice.k * second)


def option_macs(spec: LayerSpec, calls: CallShapes, choices: IntArray) -> IntArray:
    """Return the multiply-accumulates (n,) of pairs (n, 3), as `pair_macs` counts them."""
    costs = np.zeros(len(choices), np.int64)
    for scheme in np.unique(choices[:, 0]):
        rows_of_scheme = choices[:, 0] == scheme
        first, second = rank_macs(spec, calls, int(scheme))
        costs[rows_of_scheme] = choices[rows_of_scheme, 2] * (
            first + choices[rows_of_scheme, 1] * second
        )
    return costs


def rank_macs(spec: LayerSpec, calls: CallShapes, scheme: int) -> tuple[int, int]:
    """Return (a, b) such that a pair with k slices of rank j takes j·(a + k·b) MACs.

    This is the counterpart of j·(g·columns + k·rows) parameters: each weight counts as often as
    it is applied to one sample, in all calls of the layer together. The weights of each half are
    applied at every position of its output, those of a transposed convolution at every position
    of its input. A half keeps the extents of the axes that it does not carry, so that the shapes
    of the layer's input and output determine those of both halves.
    """
    if spec.kind == "linear":
        # The output counts the rows applied, which a packed projection may split.
        first = spec.in_channels * sum(prod(inside[:-1]) for inside, _ in calls)
        return first, sum(prod(out) for _, out in calls)
    rows, columns = folded_shape(spec.weight_shape, scheme)
    applied = [_positions(spec, inside, out, scheme) for inside, out in calls]
    return (
        spec.groups * columns * sum(first for first, _ in applied),
        rows * sum(second for _, second in applied),
    )


def _positions(
    spec: LayerSpec, inside: tuple[int, ...], out: tuple[int, ...], scheme: int
) -> tuple[int, int]:
    """Return at how many positions the weights of the first and of the second half are applied."""
    spatial = len(spec.kernel)
    batch = prod(inside[: -spatial - 1])
    before, after = inside[-spatial:], out[-spatial:]
    in_second = carried_by_second(spatial, scheme)
    between = prod(
        extent if later else made
        for extent, made, later in zip(before, after, in_second, strict=True)
    )
    if spec.kind.startswith("conv_transpose"):
        return batch * prod(before), batch * between
    return batch * between, batch * prod(after)


def full_rank(shape: tuple[int, ...], scheme: int, k: int, groups: int = 1) -> int:
    """Return the rank j at which every slice is held exactly: min(rows / g, columns / k)."""
    rows, columns = folded_shape(shape, scheme)
    return min(rows // groups, columns // k)


def divisors(number: int) -> tuple[int, ...]:
    """Return all divisors in ascending order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))
