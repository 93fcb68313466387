"""From a network and a plan to a network of plain `torch.nn` modules.

Each decomposed layer becomes an `nn.Sequential` whose `first` half applies the slices'
right factors as one grouped layer and whose `second` half recombines them. A kernel axis,
with its stride, padding, dilation and padding mode, is carried by exactly one half.

Source: Liebenwein et al., NeurIPS 2021, Sec. 2.1, supplement A.1 and A.6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alds_cli.errors import PlanError
from alds_cli.numerics.costs import pair_params
from alds_cli.numerics.counting import Trace
from alds_cli.numerics.fold import distinct_schemes, folded_shape, half_kernels, multiply_back
from alds_cli.records import Choice, LayerKind, LayerSpec

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

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
        kind = next((kind for base, kind in _KINDS.items() if isinstance(module, base)), None)
        if kind is not None and name:
            found[name] = _spec(name, kind, module, uses, trace)
    return found


def _spec(
    name: str,
    kind: LayerKind,
    module: Any,
    uses: Counter[int],
    trace: Trace | None,
) -> LayerSpec:
    linear = kind == "linear"
    return LayerSpec(
        name=name,
        kind=kind,
        out_channels=module.out_features if linear else module.out_channels,
        in_channels=module.in_features if linear else module.in_channels,
        kernel=() if linear else tuple(module.kernel_size),
        groups=1 if linear else module.groups,
        bias=module.bias is not None,
        reason=_reason_to_keep(name, kind, module, uses, trace),
        max_slices=_slice_limit(name, trace) if linear else None,
    )


def _reason_to_keep(
    name: str,
    kind: LayerKind,
    module: Any,
    uses: Counter[int],
    trace: Trace | None,
) -> str | None:
    """Why a layer cannot be replaced by a pair; None if it can."""
    if parametrize.is_parametrized(module):
        return "its weight is computed by a parametrization"
    if type(module) not in _KINDS:
        return f"{type(module).__name__} may do more than a plain {kind} layer"
    if kind.startswith("conv_transpose"):
        return "transposed convolutions are not decomposed"
    if uses[id(module.weight)] > 1:
        return "its weight is shared with another layer"
    if trace is not None and trace.calls and name not in trace.calls:
        return "the forward pass uses its weight without calling the layer"
    if kind != "linear" and module.groups > 1:
        depthwise = module.groups == module.in_channels
        return "depthwise convolution" if depthwise else "grouped convolution"
    return None


def _slice_limit(name: str, trace: Trace | None) -> int | None:
    """A grouped product on sequences would need a transposition, which no torch.nn part does."""
    call = trace.calls.get(name) if trace is not None else None
    shape = call.input_shape if call is not None else None
    return 1 if shape is not None and len(shape) > 2 else None


def require_fitting(specs: Mapping[str, LayerSpec], choices: Mapping[str, Choice | None]) -> None:
    """Make sure that every choice can be carried out.

    Raises:
        PlanError: a layer is unknown, must be kept, or its scheme, k or j is impossible or
            would not make it smaller; all such layers are named.
    """
    complaints = [
        f"{name}: {complaint}"
        for name, choice in choices.items()
        if (complaint := _complaint(specs.get(name), choice))
    ]
    if complaints:
        raise PlanError(
            "the plan does not fit the network: "
            + "; ".join(complaints[:5])
            + (f"; and {len(complaints) - 5} more" if len(complaints) > 5 else "")
        )


def _complaint(spec: LayerSpec | None, choice: Choice | None) -> str | None:
    if spec is None:
        return "there is no such layer"
    if choice is None:
        return None
    if spec.reason is not None:
        return f"it must be kept ({spec.reason})"
    if choice.scheme not in distinct_schemes(spec.kernel):
        return f"scheme {choice.scheme} does not apply to its kernel {spec.kernel}"
    if choice.k < 1 or spec.in_channels % choice.k:
        return f"k = {choice.k} does not divide its {spec.in_channels} input channels"
    if spec.max_slices is not None and choice.k > spec.max_slices:
        return f"k = {choice.k} exceeds the {spec.max_slices} slices possible here"
    rows, columns = folded_shape(spec.weight_shape, choice.scheme)
    full = min(rows, columns // choice.k)
    if not 1 <= choice.j <= full:
        return f"j = {choice.j} is not between 1 and {full}"
    size = pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j)
    if size >= spec.weight_params:
        return f"the pair would have {size} weights, the layer has {spec.weight_params}"
    return None


def make_pair(layer: nn.Module, choice: Choice, device: str = "meta") -> nn.Sequential:
    """A low-rank pair in the place of a layer, of its type, its weights yet to be set.

    Args:
        layer: a plain `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.
        choice: scheme, k and j, known to fit.
        device: where its parameters live; on `meta` they take no memory.
    """
    options = {"device": device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        pair = _linear_pair(layer, choice, options)
    else:
        pair = _convolution_pair(cast(Convolution, layer), choice, options)
    pair.train(layer.training)
    return pair


def _linear_pair(layer: nn.Linear, choice: Choice, options: dict[str, Any]) -> nn.Sequential:
    """Two linear layers; several slices run as one grouped convolution of length one."""
    inner = choice.k * choice.j
    second = nn.Linear(inner, layer.out_features, bias=layer.bias is not None, **options)
    pair = nn.Sequential()
    if choice.k == 1:
        pair.add_module("first", nn.Linear(layer.in_features, inner, bias=False, **options))
    else:
        grouped = nn.Conv1d(layer.in_features, inner, 1, groups=choice.k, bias=False, **options)
        pair.add_module("unflatten", nn.Unflatten(-1, (layer.in_features, 1)))
        pair.add_module("first", grouped)
        pair.add_module("flatten", nn.Flatten(-2))
    pair.add_module("second", second)
    return pair


def _convolution_pair(layer: Convolution, choice: Choice, options: dict[str, Any]) -> nn.Sequential:
    kernel = tuple(layer.kernel_size)
    first_kernel, second_kernel = half_kernels(kernel, choice.scheme)
    # An axis of extent 1 belongs to the half that the scheme gives it to all the same:
    # its stride and padding must be applied once.
    second_carries = half_kernels((2,) * len(kernel), choice.scheme)[1]
    in_second = [extent > 1 for extent in second_carries]
    inner = choice.k * choice.j
    family: Any = type(layer)
    pair = nn.Sequential()
    pair.add_module(
        "first",
        family(
            layer.in_channels,
            inner,
            first_kernel,
            groups=choice.k,
            bias=False,
            **_geometry(layer, [not mine for mine in in_second]),
            **options,
        ),
    )
    pair.add_module(
        "second",
        family(
            inner,
            layer.out_channels,
            second_kernel,
            bias=layer.bias is not None,
            **_geometry(layer, in_second),
            **options,
        ),
    )
    return pair


def _geometry(layer: Convolution, carried: list[bool]) -> dict[str, Any]:
    """Stride, padding and dilation on the axes a half carries; neutral values elsewhere."""

    def own(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(v if mine else neutral for v, mine in zip(values, carried, strict=True))

    padding = layer.padding
    return {
        "stride": own(tuple(layer.stride), 1),
        # "same" and "valid" need no splitting: an extent of 1 is padded by nothing.
        "padding": padding if isinstance(padding, str) else own(tuple(padding), 0),
        "dilation": own(tuple(layer.dilation), 1),
        "padding_mode": layer.padding_mode,
    }


def put_at(network: nn.Module, name: str, value: nn.Module | Tensor) -> None:
    """Put a module, parameter or buffer in the place of the one of that dotted name."""
    owner, _, own = name.rpartition(".")
    setattr(network.get_submodule(owner), own, value)


def reshape_network(network: nn.Module, choices: Mapping[str, Choice]) -> None:
    """Replace layers by uninitialised pairs in place, to load a compressed state dict into.

    Raises:
        PlanError: a choice does not fit the network.
    """
    require_fitting(find_layers(network), choices)
    for name, choice in choices.items():
        put_at(network, name, make_pair(network.get_submodule(name), choice))


def install_pair(
    network: nn.Module, name: str, choice: Choice, weights: tuple[Tensor, ...]
) -> None:
    """Replace one layer by the pair with these weights; the bias moves to the second half.

    Args:
        network: changed in place; the old layer's weight is let go.
        name: dotted name of the layer.
        choice: what the weights were made for.
        weights: of the first and second half, shaped as `fold.pair_shapes` says.
    """
    layer: Any = network.get_submodule(name)
    pair: Any = make_pair(layer, choice)
    for half, weight in zip((pair.first, pair.second), weights, strict=True):
        # A linear layer's grouped half is a convolution of length one.
        shaped = weight.reshape(half.weight.shape).to(layer.weight).contiguous()
        half.weight = nn.Parameter(shaped, requires_grad=layer.weight.requires_grad)
    pair.second.bias = layer.bias
    put_at(network, name, pair)


def dense_state(
    network: nn.Module, tensors: Mapping[str, Tensor], choices: Mapping[str, Choice]
) -> dict[str, Tensor]:
    """Multiply the pairs of a compressed state dict back: the dense network's state dict.

    Args:
        network: the dense network; only its shapes are used.
        tensors: the state dict of the network with pairs; its order is not kept.
        choices: which layers are pairs.
    """
    dense = dict(tensors)
    for name, choice in choices.items():
        layer: Any = network.get_submodule(name)
        first, second = (dense.pop(f"{name}.{half}.weight") for half in ("first", "second"))
        product = multiply_back(
            first.to(torch.float64),
            second.to(torch.float64),
            tuple(layer.weight.shape),
            choice.scheme,
            choice.k,
        )
        dense[f"{name}.weight"] = product.to(first.dtype).contiguous()
        if layer.bias is not None:
            dense[f"{name}.bias"] = dense.pop(f"{name}.second.bias")
    return dense
