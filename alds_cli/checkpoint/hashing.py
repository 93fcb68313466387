"""Fingerprints of weights: equal exactly when names, types, shapes and bits are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hexadecimal over those of the tensors, in the order of their names."""
    names = sorted(tensors)
    # Each by itself, so that several threads can share the work.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        digests = pool.map(lambda name: _digest(name, tensors[name].detach()), names)
        return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(name: str, tensor: Tensor) -> bytes:
    digest = hashlib.sha256(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    digest.update(_bytes_of(tensor).data)
    return digest.digest()


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    flat = tensor.cpu().contiguous().flatten()
    found: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return found
