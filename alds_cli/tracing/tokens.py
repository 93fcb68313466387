"""Batches of text, how networks are called with them, and layers' values without padding."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.errors import DataError


@dataclass(frozen=True, slots=True)
class Tokens:
    """The numbers of the tokens of some texts.

    Attributes:
        ids: int64 (n, length).
        real: bool (n, length), false where a text has ended; None where none has.
    """

    ids: Tensor
    real: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> torch.Size:
        """(n, length)."""
        return self.ids.shape

    def __getitem__(self, part: slice) -> Tokens:
        """Return some of the texts."""
        return Tokens(self.ids[part], None if self.real is None else self.real[part])

    def split(self, size: int) -> list[Tokens]:
        """Return the texts in parts of a size; the last part may be smaller."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def to(self, device: torch.device) -> Tokens:
        """Return the same on a device."""
        return Tokens(self.ids.to(device), None if self.real is None else self.real.to(device))

    @property
    def mask(self) -> Tensor:
        """Where tokens are more than padding: bool (n, length)."""
        return torch.ones_like(self.ids, dtype=torch.bool) if self.real is None else self.real


Inputs = Tensor | Tokens
"""What a batch of samples is to a network."""


def call(network: Any, inputs: Inputs, device: torch.device, dtype: torch.dtype) -> object:
    """Call a network with a batch, and return its output.

    Texts are its first argument; where some are shorter than others, `attention_mask` is another,
    which is 1 at their tokens and 0 at the padding behind them.

    Args:
        network: on the device.
        inputs: the batch.
        device: where the network is.
        dtype: of real numbers.

    Raises:
        DataError: the network refuses texts, and by its signature takes more or something else.
        Exception: whatever else the network raises.
    """
    if isinstance(inputs, Tensor):
        return network(inputs.to(device, dtype if inputs.is_floating_point() else inputs.dtype))
    there = inputs.to(device)
    masks = {} if there.real is None else {"attention_mask": there.real.long()}
    try:
        return network(there.ids, **masks)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        if (further := _beside_text(network, error)) is None:
            raise
        raise DataError(
            f"the network takes more than a text: {further}",
            tip="it can be compressed by its weights, without data, but not be evaluated, trained "
            "or tuned on texts",
        ) from error


_OF_OTHER_KINDS = {"input_features": "sounds", "input_values": "sounds", "pixel_values": "images"}
"""What networks take by these names, as transformers uses them."""


def _beside_text(network: nn.Module, error: Exception) -> str | None:
    """Return what a network takes beside a text, or in its place, by its parameters' names.

    Args:
        network: one that has refused a text.
        error: what it raised. One of its size is another matter.
    """
    parameters = _parameters(network)
    for name in parameters:
        if name in _OF_OTHER_KINDS:
            return f"{_OF_OTHER_KINDS[name]} ({name})"
    if not isinstance(error, (TypeError, ValueError)):
        return None
    if "decoder_input_ids" in parameters:
        return "another one to decode (decoder_input_ids)"
    needed = [
        name
        for name, each in [*parameters.items()][1:]
        if each.default is each.empty
        and each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}
        and name != "attention_mask"
    ]
    return ", ".join(needed) or None


def _parameters(network: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(network.forward).parameters
    except (TypeError, ValueError):
        return {}


def without_padding(values: Tensor, layer: nn.Module, inputs: Inputs) -> Tensor:
    """Return what a layer is given or gives, without what it is at padding.

    Args:
        values: features in the last axis; (n, length, …), (length, n, …) or (n · length, …) where
            there are some for every token. What an embedding is given has no features. Others are
            returned as they are.
        layer: the layer; only linear ones and embeddings take tokens one by one.
        inputs: the batch that the network was called with.

    Returns:
        (1, tokens, …) in place of the first two axes, or (tokens, …) in place of the first; the
        indices of an embedding as (tokens,).
    """
    if isinstance(inputs, Tensor) or inputs.real is None or hasattr(layer, "kernel_size"):
        return values
    real = inputs.real.to(values.device)
    if isinstance(layer, nn.Embedding) and values.shape == real.shape:
        return values[real]
    if values.ndim > 2:
        for mask in (real, real.T):
            if values.shape[:2] == mask.shape:
                return values[mask][None]
    if values.ndim == 2 and len(values) == real.numel():
        return values[real.flatten()]
    return values
