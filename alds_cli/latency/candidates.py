"""The choices of a layer whose running time is worth measuring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alds_cli.numerics.fold import distinct_schemes, divisors, full_rank, pair_params
from alds_cli.records import Choice, LayerSpec

_STEP = 8
"""Multiples of it fill the vector registers of a CPU and the tiles of a tensor core."""

_PER_OCTAVE = 4
"""The number of ranks from a large rank up to its double."""


def latency_candidates(
    spec: LayerSpec, schemes: Sequence[int] = (0,), rank_multiple: int = 1
) -> tuple[Choice, ...]:
    """Return a grid of the choices that shrink a layer, fine enough to plan with.

    Every number of slices is offered. Ranks are multiples of 8, or of `rank_multiple` where
    it does not divide 8. Small ranks are all offered, larger ones four to an octave. Where not
    even the smallest of them shrinks the layer, ranks are `rank_multiple` times powers of two.

    Args:
        spec: the layer; a layer that must be kept has no candidates.
        schemes: the folding schemes to offer; those that do not apply to the layer are ignored.
        rank_multiple: every rank is a multiple of this number.
    """
    if spec.reason is not None:
        return ()
    slices = spec.in_channels // spec.groups
    return tuple(
        Choice(scheme, k, j)
        for scheme in distinct_schemes(spec.kernel)
        if scheme in schemes
        for k in divisors(slices)
        if spec.max_slices is None or k <= spec.max_slices
        for j in _ranks(_largest_rank(spec, scheme, k), rank_multiple)
    )


def _largest_rank(spec: LayerSpec, scheme: int, k: int) -> int:
    """Return the largest rank that shrinks the layer, or 0 if none does."""
    unit = pair_params(spec.weight_shape, scheme, k, 1, spec.groups)
    most = full_rank(spec.weight_shape, scheme, k, spec.groups)
    return min(most, (spec.weight_params - 1) // unit)


def _ranks(largest: int, multiple: int) -> Iterable[int]:
    """Yield the ranks of the grid up to `largest`, in ascending order."""
    step = multiple if _STEP % multiple else _STEP
    if largest < step:
        rank = multiple
        while rank <= largest:
            yield rank
            rank *= 2
        return
    rank, width = step, step
    while rank <= largest:
        yield rank
        if rank >= 2 * _PER_OCTAVE * width:
            width *= 2
        rank += width
