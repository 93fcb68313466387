"""Which choices are worth the time to measure them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alds_cli.numerics.costs import divisors, full_rank, pair_params
from alds_cli.numerics.fold import distinct_schemes
from alds_cli.records import Choice, LayerSpec

_STEP = 8
"""Ranks that fill the vector registers of a CPU and the tiles of a tensor core."""

_PER_OCTAVE = 4


def latency_candidates(
    spec: LayerSpec, schemes: Sequence[int] = (0,), rank_multiple: int = 1
) -> tuple[Choice, ...]:
    """A grid over the choices that shrink a layer, fine enough to choose from.

    Every number of slices is offered. Ranks are multiples of 8 (of `rank_multiple` where
    that is no divisor of 8), all of them to begin with and four to an octave further up;
    where not even the first of them shrinks the layer, they are powers of two.

    Args:
        spec: the layer; one that must be kept has no candidates.
        schemes: folding schemes to offer, where they apply.
        rank_multiple: every rank is a multiple of it.
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
    """The largest rank that shrinks the layer; 0 where none does."""
    unit = pair_params(spec.weight_shape, scheme, k, 1, spec.groups)
    most = full_rank(spec.weight_shape, scheme, k, spec.groups)
    return min(most, (spec.weight_params - 1) // unit)


def _ranks(largest: int, multiple: int) -> Iterable[int]:
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
