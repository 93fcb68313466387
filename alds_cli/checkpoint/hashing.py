"""Fingerprints of weights: equal exactly when names, types, shapes and bits are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hexadecimal over the tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(_bytes_of(tensor).data)
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    flat = tensor.cpu().contiguous().flatten()
    found: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return found
