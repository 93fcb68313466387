"""Weight tensors as matrices, low-rank factors as weight tensors, and what a pair costs.

A weight W of shape (f, c, κ1, …, κn) has its kernel axes divided between the rows
and the columns of a matrix: rows = (f, row axes), columns = (c, column axes). Input
channels are sliced *before* folding: slice i takes c/k consecutive channels, which
for schemes 1 to 3 is not the same as cutting the folded columns.

A layer with g groups has a weight of shape (f, c/g, κ1, …): the rows of its matrix are its
groups' one after another, and each group is sliced and decomposed as a layer of its own.

Costs are parameters and multiply-accumulates (MACs), in closed form.

Source: Liebenwein et al., NeurIPS 2021, Sec. 2.1 and supplement A.1, A.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alds_cli.records import SCHEMES, SLICED, Choice, IntArray, LayerSpec


def _row_axes(scheme: int, dimensions: int) -> tuple[int, ...]:
    """Return the axes of a kernel that go to the rows."""
    axes = SCHEMES[scheme].row_axes
    return tuple(range(dimensions)) if axes is None else axes


def _column_axes(scheme: int, dimensions: int) -> tuple[int, ...]:
    """Return the axes of a kernel that go to the columns."""
    rows = _row_axes(scheme, dimensions)
    return tuple(axis for axis in range(dimensions) if axis not in rows)


def distinct_schemes(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return the schemes that apply to a kernel and fold it differently from one another.

    A linear layer or a 1×1 kernel has only scheme 0; a 1×3 kernel has 0 and 2.
    """
    found: dict[tuple[int, ...], int] = {}
    for number in SLICED:
        if SCHEMES[number].dimensions not in (None, len(kernel)):
            continue
        effective = tuple(axis for axis in _row_axes(number, len(kernel)) if kernel[axis] > 1)
        found.setdefault(effective, number)
    return tuple(sorted(found.values()))


def folded_shape(shape: tuple[int, ...], scheme: int) -> tuple[int, int]:
    """Return (rows, columns) of the whole layer's folded matrix, from the weight's (f, c, κ…)."""
    out_channels, in_channels, *kernel = shape
    rows = out_channels * prod(kernel[axis] for axis in _row_axes(scheme, len(kernel)))
    columns = in_channels * prod(kernel[axis] for axis in _column_axes(scheme, len(kernel)))
    return rows, columns


def fold(weight: Tensor, scheme: int) -> Tensor:
    """Fold a weight (f, c, κ…) to (rows, c, q), where q is the product of the column kernel axes.

    Channels stay an axis of their own, so that slicing them afterwards equals slicing the weight
    first: `fold(W, s)[:, i*c//k:(i+1)*c//k].flatten(1)` is slice i, folded.

    Source: Liebenwein et al., NeurIPS 2021, supplement A.1.
    """
    dimensions = weight.ndim - 2
    row_axes = [2 + axis for axis in _row_axes(scheme, dimensions)]
    column_axes = [2 + axis for axis in _column_axes(scheme, dimensions)]
    rows, _ = folded_shape(tuple(weight.shape), scheme)
    return weight.permute(0, *row_axes, 1, *column_axes).reshape(rows, weight.shape[1], -1)


def unfold(matrix: Tensor, shape: tuple[int, ...], scheme: int) -> Tensor:
    """Undo `fold`: (rows, c, q), or (rows, c·q), back to a weight of `shape` (f, c, κ…)."""
    kernel = shape[2:]
    row_axes, column_axes = _row_axes(scheme, len(kernel)), _column_axes(scheme, len(kernel))
    folded = matrix.reshape(
        shape[0],
        *(kernel[axis] for axis in row_axes),
        shape[1],
        *(kernel[axis] for axis in column_axes),
    )
    order = [0, *(2 + axis for axis in row_axes), 1, *(2 + axis for axis in column_axes)]
    inverse = [order.index(axis) for axis in range(len(shape))]
    return folded.permute(*inverse)


def half_kernels(kernel: tuple[int, ...], scheme: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the kernels of the first and the second half; each axis is carried by one of them."""
    rows = _row_axes(scheme, len(kernel))
    first = tuple(1 if axis in rows else extent for axis, extent in enumerate(kernel))
    second = tuple(extent if axis in rows else 1 for axis, extent in enumerate(kernel))
    return first, second


def carried_by_second(dimensions: int, scheme: int) -> tuple[bool, ...]:
    """Return, for each axis of a kernel, whether the second half carries it.

    The axis's stride, padding and dilation go with it. An axis of extent 1 also belongs to the
    half that the scheme gives it to, since its stride must be applied once.
    """
    rows = _row_axes(scheme, dimensions)
    return tuple(axis in rows for axis in range(dimensions))


def pair_shapes(
    shape: tuple[int, ...], scheme: int, k: int, j: int, groups: int = 1
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the weight shapes of the two halves of a layer (f, c/g, κ…) with g groups.

    They are (g·k·j, c/(g·k), …) with g·k groups, then (f, k·j, …) with g groups.
    """
    first, second = half_kernels(shape[2:], scheme)
    return (groups * k * j, shape[1] // k, *first), (shape[0], k * j, *second)


def factors_to_weights(
    left: Tensor, right: Tensor, shape: tuple[int, ...], scheme: int, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the low-rank factors of all slices as the weights of the pair.

    Args:
        left: (g·k, rows / g, j), the slices of the first group first, so that slice i is
            approximated by left[i] @ right[i].
        right: (g·k, j, columns / k).
        shape: the shape of the layer's weight, (f, c/g, κ…).
        scheme: the folding scheme of the factors.
        groups: g, the groups of the layer.

    Returns:
        The weights of the first and of the second half, with the shapes of `pair_shapes`.
    """
    slices, rows, j = left.shape
    k = slices // groups
    first_shape, second_shape = pair_shapes(shape, scheme, k, j, groups)
    kernel = shape[2:]
    row_extents = [kernel[axis] for axis in _row_axes(scheme, len(kernel))]
    first = right.reshape(first_shape)
    # (g·k, rows / g, j) -> (g, rows / g, k, j) -> (f, row axes, k·j) -> (f, k·j, row axes)
    grouped = left.reshape(groups, k, rows, j).transpose(1, 2)
    second = grouped.reshape(shape[0], *row_extents, k * j).movedim(-1, 1)
    return first, second.reshape(second_shape)


def weights_to_factors(
    first: Tensor, second: Tensor, k: int, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Undo `factors_to_weights`: return left (g·k, rows / g, j) and right (g·k, j, columns / k)."""
    j = first.shape[0] // (groups * k)
    right = first.reshape(groups * k, j, -1)
    grouped = second.movedim(1, -1).reshape(groups, -1, k, j)
    return grouped.transpose(1, 2).reshape(groups * k, -1, j), right


_BLOCK = 1 << 22
"""The number of entries of a product that are formed at a time."""


def multiply_back(
    first: Tensor,
    second: Tensor,
    shape: tuple[int, ...],
    scheme: int,
    k: int,
    groups: int = 1,
) -> Tensor:
    """Return the dense weight of `shape` (f, c/g, κ…) that a pair stands for.

    In every group Ŵ = [L_1 R_1 … L_k R_k]; the groups' rows follow one another. Products are
    formed in float64, a block at a time, and stored in the pair's own type, since a large layer
    would otherwise take twice its memory.
    """
    left, right = weights_to_factors(first, second, k, groups)
    rows, columns = left.shape[1], right.shape[2]
    matrix = torch.empty((groups, rows, k, columns), dtype=first.dtype, device=first.device)
    step = max(1, _BLOCK // columns)
    for index in range(groups * k):
        group, part = divmod(index, k)
        factor = right[index].to(torch.float64)
        for start in range(0, rows, step):
            block = left[index, start : start + step].to(torch.float64) @ factor
            matrix[group, start : start + step, part] = block
    return unfold(matrix.reshape(groups * rows, shape[1], -1), shape, scheme)


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


def by_scheme(choices: IntArray) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield every scheme among choices (n, 3), and which of them (n,) have it."""
    schemes = choices[:, 0]
    for scheme in sorted(set(schemes.tolist())):  # np.unique would load numpy.ma at start-up
        yield scheme, schemes == scheme


def option_costs(spec: LayerSpec, choices: IntArray) -> IntArray:
    """Return the parameters (n,) of pairs (n, 3), without the bias; 0 where no pair is made."""
    _, k, j = choices.T
    costs = np.zeros(len(choices), np.int64)
    for scheme, rows_of_scheme in by_scheme(choices):
        rows, columns = folded_shape(spec.weight_shape, scheme)
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
    for scheme, rows_of_scheme in by_scheme(choices):
        first, second = rank_macs(spec, calls, scheme)
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
    if spec.kind == "embedding":  # to look something up takes no product
        return 0, sum(prod(out) for _, out in calls)
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


def shrinking_ks(shape: tuple[int, ...], scheme: int, groups: int = 1) -> tuple[int, ...]:
    """Return the numbers of slices with an option smaller than the layer, and 1 for the norm.

    Args:
        shape: the shape of the weight, (f, c / groups, κ…).
        scheme: the folding scheme.
        groups: the groups of the layer.
    """
    size = int(np.prod(shape))
    return tuple(
        k for k in divisors(shape[1]) if k == 1 or pair_params(shape, scheme, k, 1, groups) < size
    )


def slicings(spec: LayerSpec, scheme: int) -> list[int]:
    """Return the numbers of slices whose spectra a layer's table needs."""
    most = spec.max_slices or spec.in_channels
    return [k for k in shrinking_ks(spec.weight_shape, scheme, spec.groups) if k <= most]
