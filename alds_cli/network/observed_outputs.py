"""What networks give on the same random inputs, and how far apart two of them are."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.tracing.trace import evaluation_mode

_SAMPLED = 4096
"""Numbers of each call of a layer that are compared: every one would take much memory."""


_DEPTH = 8
"""Levels of containers in which a network's outputs are looked for."""


@contextmanager
def same_draws() -> Iterator[None]:
    """Let random numbers drawn within be the same each time, and those after unaffected."""
    states = torch.random.get_rng_state(), random.getstate()
    torch.random.set_rng_state(torch.Generator().manual_seed(0).get_state())
    random.setstate(random.Random(0).getstate())  # noqa: S311 - nothing secret
    try:
        yield
    finally:
        torch.random.set_rng_state(states[0])
        random.setstate(states[1])


@dataclass(slots=True)
class Observed:
    """What a forward pass gave: all outputs, and a sample of every call of some layers."""

    outputs: list[Tensor]
    layers: Mapping[str, list[Tensor]] = field(default_factory=dict)


def observe(module: nn.Module, call: Any, names: Iterable[str]) -> Observed:
    """Run a network in evaluation mode, with the same random numbers every time.

    Args:
        module: the network.
        call: makes the forward pass, given the network.
        names: layers whose outputs are sampled too.
    """
    layers: dict[str, list[Tensor]] = {}
    parts = dict(module.named_modules())
    with ExitStack() as stack:
        for name in names:
            if name in parts:
                layers[name] = []
                handle = parts[name].register_forward_hook(_sampling(layers[name]))
                stack.callback(handle.remove)
        stack.enter_context(same_draws())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the network's own, of no news here
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_mode(module))
        made = call(module)
    return Observed([_plain(tensor) for tensor in _tensors(made)], layers)


def _plain(tensor: Tensor) -> Tensor:
    """A copy without gaps: padded where it is ragged, dense where it is sparse."""
    if tensor.is_nested:
        return tensor.to_padded_tensor(0.0)
    return tensor.to_dense() if tensor.layout != torch.strided else tensor.detach().clone()


def _sampling(samples: list[Tensor]) -> Any:
    def sample(_module: nn.Module, _given: object, made: object) -> None:
        for tensor in _tensors(made):
            # Of a ragged batch a fused encoder leaves the padding out, one with pairs does not.
            if tensor.is_nested:
                continue
            flat = tensor.detach().flatten()
            samples.append(flat[:: max(1, flat.numel() // _SAMPLED)].clone())

    return sample


def _tensors(made: object, depth: int = 0) -> Iterator[Tensor]:
    """Every tensor in what a module gave: in sequences, mappings and plain objects."""
    if isinstance(made, Tensor):
        yield made
        return
    if depth == _DEPTH or made is None or isinstance(made, (str, bytes, int, float, nn.Module)):
        return
    parts: Iterable[object] = ()
    if isinstance(made, Mapping):
        parts = made.values()
    elif isinstance(made, (list, tuple)):
        parts = made
    elif is_dataclass(made):
        parts = [getattr(made, own.name) for own in fields(made)]
    elif hasattr(made, "__dict__"):
        parts = vars(made).values()
    for part in parts:
        yield from _tensors(part, depth + 1)


def layer_differences(expected: Observed, found: Observed) -> dict[str, float]:
    """Return the relative difference of what each sampled layer gives, in the network's order."""
    # An attention applies its projections without calling them, until they are pairs.
    return {
        name: difference(samples, found.layers[name])
        for name, samples in expected.layers.items()
        if samples and found.layers.get(name)
    }


def difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest relative difference; infinite where numbers or shapes differ."""
    if len(expected) != len(found):
        return float("inf")
    pairs = zip(found, expected, strict=True)
    return max((_relative(one, other) for one, other in pairs), default=0.0)


def _relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest number expected; infinite where shapes differ."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(found, expected) else float("inf")
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    expected, found = expected[finite], found[finite]
    scale = float(expected.abs().max())
    worst = float((found - expected).abs().max())
    return worst / scale if scale > 0 else worst
