"""Powers of two that bring a matrix near 1, so that its squares stay in range.

Multiplying by a power of two rounds nothing: sums, products and eigenvectors of the scaled
matrix are those of the matrix itself, bit for bit, as long as nothing leaves the range.
"""

from __future__ import annotations

from math import frexp

import torch
from torch import Tensor

_LEAST = -1020
"""Beyond it the inverse power of two would itself leave the range of float64."""


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
