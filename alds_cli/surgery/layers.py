"""Which layers a network has, and which of them may be decomposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from alds_cli.numerics.costs import pair_params
from alds_cli.numerics.counting import Trace
from alds_cli.numerics.fold import distinct_schemes
from alds_cli.records import LayerKind, LayerSpec
from alds_cli.surgery.attention import PairedAttention

_KINDS: Mapping[type[nn.Module], LayerKind] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}

_NOT_CALLED = "the forward pass uses its weight without calling the layer"


def find_layers(network: nn.Module, trace: Trace | None = None) -> dict[str, LayerSpec]:
    """Every convolution and linear layer, in the network's order.

    The packed projection of an `nn.MultiheadAttention` is a linear layer `NAME.in_proj`.

    Args:
        network: of any device, the meta device included.
        trace: a forward pass; with it, layers whose weight the network uses without
            calling them are recognised, and linear layers on sequences get one slice.

    Returns:
        A spec for every layer; those that must stay as they are carry the reason.
    """
    uses = Counter(id(tensor) for _, tensor in network.named_parameters(remove_duplicate=False))
    found: dict[str, LayerSpec] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention) and _is_packed(module):
            spec = _packed_spec(f"{name}.in_proj" if name else "in_proj", module)
            reason = _reason_in_attention(spec.name, module, module.in_proj_weight, uses, trace)
            found[spec.name] = replace(spec, reason=reason)
        kind = next((kind for base, kind in _KINDS.items() if isinstance(module, base)), None)
        if kind is not None and name:
            found[name] = _spec(name, kind, module, network, uses, trace)
    return found


def _is_packed(attention: nn.MultiheadAttention) -> bool:
    """Whether one parameter projects queries, keys and values alike."""
    return isinstance(attention.in_proj_weight, nn.Parameter)


def _packed_spec(name: str, attention: nn.MultiheadAttention) -> LayerSpec:
    width = attention.embed_dim
    bias = attention.in_proj_bias is not None
    return LayerSpec(name, "linear", 3 * width, width, bias=bias, max_slices=1)


def _spec(
    name: str,
    kind: LayerKind,
    module: Any,
    network: nn.Module,
    uses: Counter[int],
    trace: Trace | None,
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
        max_slices=1 if attends else _slice_limit(name, trace) if linear else None,
    )
    if isinstance(owner, nn.MultiheadAttention):
        reason = _computed(module) or _reason_in_attention(name, owner, module.weight, uses, trace)
    else:
        # What a paired attention does not call it uses in parts: it stays decomposable.
        reason = _reason_to_keep(spec, module, uses, None if attends else trace)
    return replace(spec, reason=reason)


def _reason_to_keep(
    spec: LayerSpec, module: Any, uses: Counter[int], trace: Trace | None
) -> str | None:
    """Why a layer cannot be replaced by a pair; None if it can."""
    if reason := _computed(module):
        return reason
    if type(module) not in _KINDS:
        return f"{type(module).__name__} may do more than a plain {spec.kind} layer"
    if reason := _reason_of_weight(module.weight, uses):
        return reason
    if trace is not None and trace.calls:
        call = trace.calls.get(spec.name)
        if call is None:
            return _NOT_CALLED
        if not call.alone:
            return "the forward pass hands it more than its input"
    if 1 < spec.groups == spec.in_channels and not _can_shrink(spec):
        return "depthwise convolution"
    return None


def _reason_in_attention(
    name: str,
    attention: nn.MultiheadAttention,
    weight: nn.Parameter,
    uses: Counter[int],
    trace: Trace | None,
) -> str | None:
    """Why a projection of an attention must stay; None if it may become a pair."""
    if reason := _computed(attention):
        return reason
    if type(attention) is not nn.MultiheadAttention:
        return f"{type(attention).__name__} may do more than a plain attention"
    if "." not in name:
        return "the whole network is one attention"
    if {attention.kdim, attention.vdim} != {attention.embed_dim}:
        return "its attention has keys or values of another size than queries"
    if not _is_packed(attention):
        return "its attention computes its packed weight from others"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "its attention adds a key and a value to those it is given"
    if reason := _reason_of_weight(weight, uses):
        return reason
    if trace is not None and trace.calls and name not in trace.calls:
        return _NOT_CALLED
    return None


def _computed(module: nn.Module) -> str | None:
    if parametrize.is_parametrized(module):
        return "its weight is computed by a parametrization"
    return None


def _reason_of_weight(weight: Tensor, uses: Counter[int]) -> str | None:
    times = uses[id(weight)]
    if times == 0:  # as older ways to normalise or prune weights leave it
        return "its weight is no parameter, but computed from others"
    return "its weight is shared with another layer" if times > 1 else None


def _can_shrink(spec: LayerSpec) -> bool:
    """Whether any pair at all is smaller; more slices and ranks only cost more."""
    return any(
        pair_params(spec.weight_shape, scheme, 1, 1, spec.groups) < spec.weight_params
        for scheme in distinct_schemes(spec.kernel)
    )


def _slice_limit(name: str, trace: Trace | None) -> int | None:
    """A grouped product on sequences would need a transposition, which no torch.nn part does.

    What a trace did not see may be given sequences, too.
    """
    if trace is None:
        return None
    call = trace.calls.get(name)
    return 1 if call is None or any(len(given) > 2 for given, _ in call.shapes) else None
