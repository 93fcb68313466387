"""Gram matrices of all slices for several numbers of slices, formed as few times as possible.

M Mᵀ of a coarse slice is the sum of those of the finer slices in it, and Mᵀ M of a fine slice is a
diagonal block of a coarser one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alds_cli.numerics.grams import add_gram


@dataclass(frozen=True, slots=True)
class Portions:
    """The amounts that are handled at a time.

    Attributes:
        block: bytes of weights that are converted to float64 together.
        batch: the most bytes of Gram matrices of slices that are handled together.
        family: the most bytes of unfinished sums that share Gram matrices between numbers of
            slices; beyond it the coarser ones are formed afresh.
        stripe: rows of a Gram matrix that are multiplied together, up to the diagonal only.
    """

    block: int
    batch: int
    family: int
    stripe: int


CORE = Portions(block=2 << 20, batch=2 << 20, family=64 << 20, stripe=128)
"""Portions that suit a processor's core and its own cache."""

CARD = Portions(block=256 << 20, batch=256 << 20, family=1 << 30, stripe=1 << 30)
"""Portions that keep a graphics card busy: few and large products, whole matrices."""


@dataclass(frozen=True, slots=True)
class Slicing:
    """A folded layer, cut into groups and each group into k slices.

    Attributes:
        matrix: (groups, rows, c, q), with the rows and channels c of one group.
        exponent: exponent of the power of two that entries are divided by before multiplying.
        portions: the amounts that are handled at a time.
    """

    matrix: Tensor
    exponent: int = 0
    portions: Portions = field(default_factory=lambda: CORE)

    @classmethod
    def of(cls, matrix: Tensor, groups: int = 1) -> Slicing:
        """Return the slicing of (groups · rows, c, q), as `fold.fold` gives it, group by group."""
        return cls(matrix.view(groups, -1, *matrix.shape[1:]))

    def tall(self, k: int) -> bool:
        """Return whether Mᵀ M is the smaller Gram matrix of a slice, or equally small."""
        _, rows, channels, width = self.matrix.shape
        return rows >= channels // k * width

    def side(self, k: int) -> int:
        """Return the side of the smaller Gram matrix of each of k slices."""
        _, rows, channels, width = self.matrix.shape
        return min(rows, channels // k * width)

    def slices(self, k: int) -> Tensor:
        """Return a view as (groups, rows, k, c / k, q)."""
        groups, rows, channels, width = self.matrix.shape
        return self.matrix.view(groups, rows, k, channels // k, width)

    def prepared(self, block: Tensor) -> Tensor:
        """Return a block in float64, contiguous and scaled."""
        dense = block.to(torch.float64, memory_format=torch.contiguous_format)
        return dense * 2.0**-self.exponent if self.exponent else dense


@dataclass(frozen=True, slots=True)
class GramBatch:
    """Gram matrices (b, n, n) of the slices `first` … `first + b - 1` out of groups · k.

    Slices are counted group by group. Only the lower triangles are valid.
    """

    k: int
    first: int
    grams: Tensor


Family = tuple[int, list[int]]
"""A leading k, and the others whose Gram matrices follow from its own."""


def families(slicing: Slicing, ks: Sequence[int]) -> list[Family]:
    """Partition ks into families, each led by the k from whose Gram matrices the others follow.

    The leader is the finest of those that are wide, or the coarsest of those that are tall.
    """
    wide = sorted((k for k in ks if not slicing.tall(k)), reverse=True)
    tall = sorted(k for k in ks if slicing.tall(k))
    found: list[Family] = []
    for ordered in (wide, tall):
        families_of_kind: list[Family] = []
        for k in ordered:
            related = (
                rest for leader, rest in families_of_kind if max(leader, k) % min(leader, k) == 0
            )
            home = next(related, None)
            if home is None:
                families_of_kind.append((k, []))
            else:
                home.append(k)
        found += families_of_kind
    return found


def family_grams(slicing: Slicing, leader: int, others: Sequence[int]) -> Iterator[GramBatch]:
    """Yield Gram matrices in float64 of every slice of a family, of 2**-exponent times the matrix.

    Yields:
        Batches in no particular order of k, which cover each k's slices once. The receiver may
        keep the tensor.
    """
    if slicing.tall(leader):
        yield from _blocked_grams(slicing, leader, others)
    else:
        yield from _summed_grams(slicing, leader, others)


def family_bytes(slicing: Slicing, leader: int, others: Sequence[int]) -> int:
    """Return the bytes that `family_grams` takes at a time, without the batches it has yielded."""
    square = 8 * slicing.side(leader) ** 2
    portions = slicing.portions
    together = min(portions.batch, square * leader * len(slicing.matrix))
    sums = 0 if slicing.tall(leader) else min(portions.family, square * len(others))
    return 3 * portions.block + 2 * max(square, together) + sums


def _summed_grams(slicing: Slicing, finest: int, others: Sequence[int]) -> Iterator[GramBatch]:
    """Yield M Mᵀ of the finest slices, and those of coarser k by adding up neighbours."""
    groups, rows = slicing.matrix.shape[:2]
    square = 8 * rows * rows
    if groups * finest * square <= slicing.portions.batch:
        grams = _grams(slicing, finest, slice(0, groups), slice(0, finest))
        for k in others:
            yield GramBatch(k, 0, grams.view(-1, finest // k, rows, rows).sum(1))
        yield GramBatch(finest, 0, grams)
        return
    room = slicing.portions.family // square
    alone, shared = others[room:], others[:room]
    for group in range(groups):
        one_group = slice(group, group + 1)
        for k in alone:
            for index in range(k):
                gram = _grams(slicing, k, one_group, slice(index, index + 1))
                yield GramBatch(k, group * k + index, gram)
                del gram
        sums: dict[int, Tensor] = {}
        for index in range(finest):
            gram = _grams(slicing, finest, one_group, slice(index, index + 1))
            for k in shared:
                sums[k] = sums[k].add_(gram) if k in sums else gram.clone()
                if (index + 1) % (finest // k) == 0:
                    yield GramBatch(k, group * k + index // (finest // k), sums.pop(k))
            yield GramBatch(finest, group * finest + index, gram)
            del gram


def _blocked_grams(slicing: Slicing, coarsest: int, others: Sequence[int]) -> Iterator[GramBatch]:
    """Yield Mᵀ M of the coarsest slices, and those of finer k as blocks on their diagonals."""
    groups, square = len(slicing.matrix), 8 * slicing.side(coarsest) ** 2
    if groups * coarsest * square <= slicing.portions.batch:
        parts = [(slice(0, groups), slice(0, coarsest))]
    else:
        step = max(1, slicing.portions.batch // square)
        starts = range(0, coarsest, step)
        spans = [slice(start, min(start + step, coarsest)) for start in starts]
        parts = [(slice(group, group + 1), span) for group in range(groups) for span in spans]
    for group_range, span in parts:
        grams = _grams(slicing, coarsest, group_range, span)
        first = group_range.start * coarsest + span.start
        for k in others:
            finer = k // coarsest
            yield GramBatch(k, first * finer, diagonal_blocks(grams, finer).contiguous())
        yield GramBatch(coarsest, first, grams)
        del grams


def diagonal_blocks(grams: Tensor, parts: int) -> Tensor:
    """Return the diagonal blocks (b·parts, n / parts, n / parts) of (b, n, n); a view if b is 1."""
    count, side, _ = grams.shape
    size = side // parts
    # One view instead of four, since such steps dominate the time for many small matrices.
    blocks = grams.as_strided(
        (count, parts, size, size), (side * side, size * side + size, side, 1)
    )
    return blocks.flatten(0, 1)


def _grams(slicing: Slicing, k: int, groups: slice, slices: slice) -> Tensor:
    """Return the smaller Gram matrices (b, n, n) of some slices, lower triangles only."""
    size = slicing.side(k)
    grams: Tensor | None = None
    for operands in _operands(slicing, k, groups, slices):
        if grams is None:
            grams = operands.new_zeros(len(operands), size, size)
        if size <= slicing.portions.stripe:
            grams.baddbmm_(operands, operands.mT)
            continue
        for gram, operand in zip(grams, operands, strict=True):
            add_gram(gram, operand, slicing.portions.stripe)
    if grams is None:
        raise ValueError("a matrix needs at least one row and one channel")
    return grams


def _operands(slicing: Slicing, k: int, groups: slice, slices: slice) -> Iterator[Tensor]:
    """Yield blocks A (b, n, m) in float64 of some slices; their Gram matrices are the sums of A Aᵀ.

    Wide slices are cut along their channels, tall ones along their rows.
    """
    piece = slicing.slices(k)[groups, :, slices].transpose(1, 2)  # (g, k, rows, c / k, q)
    if slicing.tall(k):
        for block in cut(piece, slicing.portions.block, axis=2):
            yield slicing.prepared(block).flatten(3).flatten(0, 1).mT
    else:
        for block in cut(piece, slicing.portions.block, axis=3):
            yield slicing.prepared(block).flatten(3).flatten(0, 1)


def cut(piece: Tensor, nbytes: int, axis: int) -> Iterator[Tensor]:
    """Yield parts along an axis that take at most `nbytes` in float64, or have extent 1."""
    extent = piece.shape[axis]
    step = max(1, nbytes * extent // (8 * max(1, piece.numel())))
    for start in range(0, extent, step):
        yield piece.narrow(axis, start, min(step, extent - start))
