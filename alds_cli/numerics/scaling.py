"""Powers of two that bring a matrix near 1, so that its squares stay in range.

Multiplying by a power of two rounds nothing: sums, products and eigenvectors of the scaled
matrix are those of the matrix itself, bit for bit, as long as nothing leaves the range.
"""

from __future__ import annotations

from math import frexp
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST = -1020
"""Beyond it the inverse power of two would itself leave the range of float64."""

_USUAL = 100
"""Squares of what is below 2**this and above 2**-this, and their sums, are in range as they are,
and so is what rounding leaves of them."""


def even_exponent(*tensors: Tensor) -> int:
    """The even e with a product of the tensors' largest magnitudes of at most 2**e, nearly least.

    Even, so that the square root of 2**e is a power of two as well.
    """
    exponent = 0
    for tensor in tensors:
        low, high = torch.aminmax(tensor)
        largest = max(-low.item(), high.item())
        if largest == 0:
            return _LEAST
        exponent += frexp(largest)[1]
    return max(exponent + exponent % 2, _LEAST)


def unit_exponent(*tensors: Tensor) -> int:
    """The even e such that 2**-e times the tensors can be squared; 0 for all of usual size.

    What belongs to a layer (norms, singular values, errors) is held in units of 2**e, e that of
    its weight. Squares are then as exact for weights near the ends of float64 as for any.
    """
    exponent = max((even_exponent(tensor) for tensor in tensors if tensor.numel()), default=0)
    if abs(exponent) <= _USUAL or not any(tensor.any() for tensor in tensors):
        return 0
    return exponent


def in_units(tensor: Tensor, exponent: int) -> Tensor:
    """2**-exponent times a tensor, in float64; the tensor itself if the exponent is 0."""
    return scaled(tensor, exponent) if exponent else tensor


def scaled(tensor: Tensor, exponent: int) -> Tensor:
    """2**-exponent times a tensor, in float64; float64 is copied only for an exponent but 0."""
    exact = tensor.to(torch.float64)
    if not exponent:
        return exact
    power = 2.0**-exponent
    return exact * power if exact.data_ptr() == tensor.data_ptr() else exact.mul_(power)


class ScaledFactors(NamedTuple):
    """Factors, and the exponents of what each is divided by before they are multiplied."""

    left: Tensor
    right: Tensor
    left_exponent: int
    right_exponent: int


def scaled_factors(left: Tensor, right: Tensor, exponent: int) -> ScaledFactors:
    """Divide two factors by powers of two whose product is 2**exponent.

    Their product itself may be too small to be held. The exponent is at least about that of
    the product of their largest magnitudes.
    """
    first = min(even_exponent(left), exponent - _LEAST)
    return ScaledFactors(left, right, first, exponent - first)
