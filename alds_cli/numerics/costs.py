"""What a choice costs, in closed form."""

from __future__ import annotations

from alds_cli.numerics.fold import folded_shape


def pair_params(shape: tuple[int, ...], scheme: int, k: int, j: int) -> int:
    """Number of weights of a pair of rank j in each of k slices of a weight (f, c, κ…).

    j·(k·rows + columns), rows and columns those of the whole layer's folded matrix.

    Source: Liebenwein et al., NeurIPS 2021, Sec. 2.1.
    """
    rows, columns = folded_shape(shape, scheme)
    return j * (k * rows + columns)


def divisors(number: int) -> tuple[int, ...]:
    """All divisors in ascending order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))
