"""Eigenvalues of Gram matrices as curves over the rank."""

from __future__ import annotations

from math import ldexp, sqrt

import numpy as np

from alds_cli.records import Curve, FloatArray

UNIT_ROUNDOFF = 2.0**-53


def rounding_share(terms: int) -> float:
    """By what share of the trace the eigenvalues of a Gram matrix in float64 may be off.

    About √terms unit roundoffs: sums of `terms` products are rounded, and the eigenvalue
    routine is backward stable.
    """
    return 8 * sqrt(terms) * UNIT_ROUNDOFF


def curve_of(eigenvalues: FloatArray, terms: int, exponent: int, solved: float = 0.0) -> Curve:
    """Eigenvalues of scaled Gram matrices, largest first, as a curve over j = 0 … n.

    What rounding may have taken is added, so that what is called an upper bound stays one.

    Args:
        eigenvalues: (groups, k, n).
        terms: what a sum may have been rounded over.
        exponent: of the power of two that the matrix was divided by.
        solved: by what share of the largest eigenvalue a routine of less than double
            precision may have moved them all.
    """
    exact = np.maximum(eigenvalues, 0.0)
    raised = exact + rounding_share(terms) * exact.sum(axis=2, keepdims=True)
    if solved:
        raised += solved * exact[:, :, :1]
    sums = raised.sum(axis=1)
    # One entry more for full rank, where nothing is lost.
    squares, largest, tails, saved = np.zeros((4, sums.shape[1] + 1))
    sums.max(axis=0, out=squares[:-1])
    np.sqrt(raised.max(axis=(0, 1)), out=largest[:-1])
    exact.sum(axis=(0, 1))[::-1].cumsum(out=tails[-2::-1])
    sums.sum(axis=0, out=saved[:-1])
    if exponent:
        largest *= ldexp(1.0, exponent)
        for energies in (squares, tails, saved):
            np.multiply(energies, ldexp(1.0, 2 * exponent), out=energies)
    return Curve(squares, largest, tails, saved)
