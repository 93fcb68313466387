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
    trace = exact.sum(axis=2, keepdims=True)
    raised = exact + rounding_share(terms) * trace
    if solved:
        raised += solved * exact[:, :, :1]
    unit, length = ldexp(1.0, 2 * exponent), ldexp(1.0, exponent)
    sums = raised.sum(axis=1)
    return Curve(
        sum_squares=_closed_by_zero(sums.max(axis=0) * unit),
        largest=_closed_by_zero(np.sqrt(raised.max(axis=(0, 1))) * length),
        tail_energy=_closed_by_zero(exact.sum(axis=(0, 1))[::-1].cumsum()[::-1] * unit),
        saved=_closed_by_zero(sums.sum(axis=0) * unit),
    )


def _closed_by_zero(values: FloatArray) -> FloatArray:
    """One entry more for full rank, where nothing is lost."""
    return np.append(values, 0.0)
