"""Which layers a network has, and which of them may be decomposed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from alds_cli.records import LayerKind, LayerSpec
from alds_cli.surgery.attention import PairedAttention
from alds_cli.surgery.reasons import (
    Surroundings,
    computed,
    is_packed,
    reason_in_attention,
    reason_to_keep,
)
from alds_cli.surgery.weights import KEPT_RECURRENT, RECURRENT, recurrent_matrices
from alds_cli.tracing.trace import Trace

_KINDS: Mapping[type[nn.Module], LayerKind] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}


def find_layers(network: nn.Module, trace: Trace | None = None) -> dict[str, LayerSpec]:
    """Every convolution and linear layer, in the network's order.

    The packed projection of an `nn.MultiheadAttention` is a linear layer `NAME.in_proj`, and
    every matrix of a recurrent layer one of the matrix's own name, as `NAME.weight_ih_l0`.

    Args:
        network: of any device, the meta device included.
        trace: a forward pass; with it, layers whose weight the network uses without
            calling them, or whose attributes its code reads, are recognised, and linear
            layers on sequences get one slice.

    Returns:
        A spec for every layer; those that must stay as they are carry the reason.
    """
    around = Surroundings.of(network, trace)
    return {
        spec.name: spec
        for name, module in network.named_modules()
        for spec in _specs_of(name, module, network, around)
    }


def _specs_of(
    name: str, module: Any, network: nn.Module, around: Surroundings
) -> Iterator[LayerSpec]:
    """The layers that a module is or has without their being modules."""
    prefix = f"{name}." if name else ""
    if isinstance(module, nn.MultiheadAttention) and is_packed(module):
        spec = _packed_spec(f"{prefix}in_proj", module)
        reason = reason_in_attention(spec.name, module, module.in_proj_weight, around)
        yield replace(spec, reason=reason)
    if isinstance(module, RECURRENT):
        for own, weight, bias in recurrent_matrices(module):
            rows, columns = weight.shape
            yield LayerSpec(
                f"{prefix}{own}",
                "linear",
                rows,
                columns,
                bias=bias is not None,
                reason=KEPT_RECURRENT,
                max_slices=1,
            )
    kind = next((kind for base, kind in _KINDS.items() if isinstance(module, base)), None)
    if kind is not None and name:
        yield _spec(name, kind, module, network, around)


def _packed_spec(name: str, attention: nn.MultiheadAttention) -> LayerSpec:
    width = attention.embed_dim
    bias = attention.in_proj_bias is not None
    return LayerSpec(name, "linear", 3 * width, width, bias=bias, max_slices=1)


def _spec(
    name: str, kind: LayerKind, module: Any, network: nn.Module, around: Surroundings
) -> LayerSpec:
    linear = kind == "linear"
    owner = network.get_submodule(name.rpartition(".")[0])
    attends = isinstance(owner, (nn.MultiheadAttention, PairedAttention))
    spec = LayerSpec(
        name=name,
        kind=kind,
        out_channels=module.out_features if linear else module.out_channels,
        in_channels=module.in_features if linear else module.in_channels,
        kernel=() if linear else tuple(module.kernel_size),
        groups=1 if linear else module.groups,
        bias=module.bias is not None,
        max_slices=1 if attends else _slice_limit(name, around) if linear else None,
    )
    if isinstance(owner, nn.MultiheadAttention):
        reason = computed(module) or reason_in_attention(name, owner, module.weight, around)
    else:
        # What a paired attention does not call it uses in parts: it stays decomposable.
        calls = replace(around, trace=None) if attends else around
        reason = reason_to_keep(spec, module, tuple(_KINDS), calls)
    return replace(spec, reason=reason)


def _slice_limit(name: str, around: Surroundings) -> int | None:
    """A grouped product on sequences would need a transposition, which no torch.nn part does.

    What a trace did not see may be given sequences, too.
    """
    if around.trace is None:
        return None
    call = around.call(name)
    return 1 if call is None or any(len(given) > 2 for given, _ in call.shapes) else None
