"""What a choice costs, in closed form."""

from __future__ import annotations

from alds_cli.numerics.fold import folded_shape


def pair_params(shape: tuple[int, ...], scheme: int, k: int, j: int, groups: int = 1) -> int:
    """Number of weights of a pair of rank j in each of k slices of a weight (f, c/g, κ…).

    j·(k·rows + g·columns), rows and columns those of the folded weight. With groups, k
    counts the slices inside each.

    Source: Liebenwein et al., NeurIPS 2021, Sec. 2.1.
    """
    rows, columns = folded_shape(shape, scheme)
    return j * (k * rows + groups * columns)


def full_rank(shape: tuple[int, ...], scheme: int, k: int, groups: int = 1) -> int:
    """The rank j at which every slice is held exactly: min(rows / g, columns / k)."""
    rows, columns = folded_shape(shape, scheme)
    return min(rows // groups, columns // k)


def divisors(number: int) -> tuple[int, ...]:
    """All divisors in ascending order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))
