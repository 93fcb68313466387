"""The outputs of networks on the same random inputs, and the differences between them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.checkpoint.mapped_files import aside
from alds_cli.tracing.trace import evaluation_mode

_SAMPLED = 4096
"""The most numbers of each call of a layer that are compared; all would take much memory."""


_DEPTH = 8
"""The levels of containers that are searched for a network's outputs."""


@contextmanager
def same_draws() -> Iterator[None]:
    """Make random numbers in the block the same each time, and leave later ones unaffected."""
    states = torch.random.get_rng_state(), random.getstate()
    torch.random.set_rng_state(torch.Generator().manual_seed(0).get_state())
    random.setstate(random.Random(0).getstate())  # noqa: S311 - not for secrets
    try:
        yield
    finally:
        torch.random.set_rng_state(states[0])
        random.setstate(states[1])


@dataclass(slots=True)
class Observed:
    """The results of a forward pass: all outputs, and a sample of every call of some layers."""

    outputs: list[Tensor]
    layers: Mapping[str, list[Tensor]] = field(default_factory=dict)


def observe(module: nn.Module, call: Any, names: Iterable[str]) -> Observed:
    """Run a network in evaluation mode, with the same random numbers every time.

    Args:
        module: the network.
        call: a function of the network that makes the forward pass.
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
        warnings.simplefilter("ignore")  # the network's own, which do not matter here
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_mode(module))
        made = call(module)
    return Observed([_plain(tensor) for tensor in tensors_in(made)], layers)


def _plain(tensor: Tensor) -> Tensor:
    """Return a copy without gaps: ragged tensors padded, sparse ones dense.

    A language model's outputs are large, since they hold the keys and values of all its layers.
    """
    if tensor.is_nested:
        return tensor.to_padded_tensor(0.0)
    if tensor.layout != torch.strided:
        return tensor.to_dense()
    return aside(tensor.detach().clone(memory_format=torch.contiguous_format))


def _sampling(samples: list[Tensor]) -> Any:
    def sample(_module: nn.Module, _given: object, made: object) -> None:
        for tensor in tensors_in(made):
            # A fused encoder leaves out the padding of a ragged batch, one with pairs does not.
            if tensor.is_nested:
                continue
            flat = tensor.detach().flatten()
            samples.append(flat[:: max(1, flat.numel() // _SAMPLED)].clone())

    return sample


def tensors_in(made: object, depth: int = 0) -> Iterator[Tensor]:
    """Yield every tensor in a module's output: in sequences, mappings and plain objects."""
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
        parts = [getattr(made, field.name) for field in fields(made)]
    elif hasattr(made, "__dict__"):
        parts = vars(made).values()
    for part in parts:
        yield from tensors_in(part, depth + 1)


def layer_differences(expected: Observed, found: Observed) -> dict[str, float]:
    """Return the relative difference of each sampled layer's outputs, in the network's order."""
    # An attention uses its projections without calling them, unless they are pairs.
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
    """Divide the largest difference by the largest number; infinite if shapes differ."""
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
