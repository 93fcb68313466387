"""What stands under a parameter's name, as a plain tensor: dense, strided, with data."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from alds_cli.checkpoint.pickles import Opaque
from alds_cli.errors import CheckpointError

_TIPS = {
    "a quantised tensor": "compress the network as it was before it was quantised",
    "a nested tensor": "save a padded one: .to_padded_tensor(0.0)",
    "a tensor without data (meta device)": "save it from a network that has its weights",
}


def is_tensor(value: object) -> TypeGuard[Tensor | np.ndarray | Opaque]:
    """Whether a value is a tensor in any form, also in one that cannot be used."""
    if isinstance(value, Opaque):
        return value.tensor
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc"
    return isinstance(value, Tensor)


def plain_tensor(name: str, value: Tensor | np.ndarray | np.generic | Opaque) -> Tensor:
    """The value as a dense tensor that can be computed with.

    Args:
        name: of the value, for messages.
        value: a tensor of any layout, a NumPy array or scalar, or a note of what was there.

    Raises:
        CheckpointError: it has no numbers, or other than can be had from it.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return _from_numpy(value)
    what = value.what if isinstance(value, Opaque) else _what_hinders(value)
    if what is not None:
        raise CheckpointError(
            f"'{name}' is {what}: there is no dense tensor in it", tip=_TIPS.get(what)
        )
    assert isinstance(value, Tensor)  # noqa: S101 - for the type checker
    found = value.detach()
    return found if found.layout == torch.strided else found.to_dense()


def _what_hinders(tensor: Tensor) -> str | None:
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.is_meta:
        return "a tensor without data (meta device)"
    return None


def _from_numpy(value: np.ndarray | np.generic) -> Tensor:
    """A tensor of the same numbers; those of more than 64 bits become float64 or complex128."""
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif array.dtype.kind == "c" and array.dtype.itemsize > 16:
        array = array.astype(np.complex128)
    if not array.flags.writeable or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array)
