"""Pairs of `torch.nn` modules: made, put in the place of layers, and multiplied back.

The `first` half of a pair applies the slices' right factors as one grouped layer, the `second`
half recombines them, each group of the layer for itself. A kernel axis, with its stride,
padding, output padding, dilation and padding mode, is carried by exactly one half.

Source: Liebenwein et al., NeurIPS 2021, Sec. 2.1, supplement A.1 and A.6.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from alds_cli.errors import PlanError
from alds_cli.numerics.clustering.clustered_factors import multiply_clusters
from alds_cli.numerics.costs import full_rank, pair_params
from alds_cli.numerics.fold import (
    carried_by_second,
    distinct_schemes,
    folded_shape,
    half_kernels,
    multiply_back,
    unfold,
)
from alds_cli.records import CLUSTERED, Choice, LayerSpec
from alds_cli.surgery.attention import PairedAttention
from alds_cli.surgery.clustered import ClusteredConv2d, ClusteredLinear, reason_against_clusters
from alds_cli.surgery.layer_contents import (
    TRANSPOSED,
    canonical,
    layer_at,
    layer_weight,
    own_form,
)
from alds_cli.surgery.layers import find_layers

Convolution = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


def make_pair(layer: nn.Module, choice: Choice, device: str = "meta") -> nn.Sequential:
    """A low-rank pair in the place of a layer, of its type, its weights yet to be set.

    Where columns are clustered, the first half is a module of `surgery.clustered`.

    Args:
        layer: a plain linear layer or convolution, transposed or not.
        choice: scheme, k and j, known to fit.
        device: where its parameters live; on `meta` they take no memory.
    """
    options = {"device": device, "dtype": layer.weight.dtype}
    if choice.scheme == CLUSTERED:
        pair = _clustered_pair(cast(nn.Linear | nn.Conv2d, layer), choice, options)
    elif isinstance(layer, nn.Linear):
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


def _clustered_pair(
    layer: nn.Linear | nn.Conv2d, choice: Choice, options: dict[str, Any]
) -> nn.Sequential:
    inner, bias = choice.k * choice.j, layer.bias is not None
    pair = nn.Sequential()
    if isinstance(layer, nn.Linear):
        first = ClusteredLinear(layer.in_features, choice.k, choice.j, **options)
        pair.add_module("first", first)
        pair.add_module("second", nn.Linear(inner, layer.out_features, bias, **options))
    else:
        pair.add_module("first", ClusteredConv2d(layer, choice.k, choice.j, **options))
        pair.add_module("second", nn.Conv2d(inner, layer.out_channels, 1, bias=bias, **options))
    return pair


def _convolution_pair(layer: Convolution, choice: Choice, options: dict[str, Any]) -> nn.Sequential:
    kernel = tuple(layer.kernel_size)
    first_kernel, second_kernel = half_kernels(kernel, choice.scheme)
    in_second = carried_by_second(len(kernel), choice.scheme)
    inner = layer.groups * choice.k * choice.j
    family: Any = type(layer)
    pair = nn.Sequential()
    pair.add_module(
        "first",
        family(
            layer.in_channels,
            inner,
            first_kernel,
            groups=layer.groups * choice.k,
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
            groups=layer.groups,
            bias=layer.bias is not None,
            **_geometry(layer, list(in_second)),
            **options,
        ),
    )
    return pair


def _geometry(layer: Convolution, carried: list[bool]) -> dict[str, Any]:
    """Stride, paddings and dilation on the axes a half carries; neutral values elsewhere."""

    def own(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(v if mine else neutral for v, mine in zip(values, carried, strict=True))

    padding = layer.padding
    geometry: dict[str, Any] = {
        "stride": own(tuple(layer.stride), 1),
        # "same" and "valid" need no splitting: an extent of 1 is padded by nothing.
        "padding": padding if isinstance(padding, str) else own(tuple(padding), 0),
        "dilation": own(tuple(layer.dilation), 1),
        "padding_mode": layer.padding_mode,
    }
    if isinstance(layer, TRANSPOSED):
        geometry["output_padding"] = own(tuple(layer.output_padding), 0)
    return geometry


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
        _replace(network, name, make_pair(layer_at(network, name), choice))


def install_pair(
    network: nn.Module, name: str, choice: Choice, weights: tuple[Tensor, ...]
) -> None:
    """Replace one layer by the pair with these weights; the bias moves to the second half.

    Args:
        network: changed in place; the old layer's weight is let go.
        name: dotted name of the layer.
        choice: what the weights were made for.
        weights: of the first and second half, shaped as `fold.pair_shapes` says; where
            columns are clustered, the four tensors of a `ClusteredFactors`, in its order
            `first`, `second`, `order`, `sizes`.
    """
    layer: Any = layer_at(network, name)
    pair: Any = make_pair(layer, choice)
    if choice.scheme == CLUSTERED:
        own = (tensor.to(layer.weight.device) for tensor in weights[2:])
        pair.first.set_clusters(*own)
        weights = weights[:2]
    for half, weight in zip((pair.first, pair.second), weights, strict=True):
        shaped = own_form(weight, half).to(layer.weight).contiguous()
        half.weight = nn.Parameter(shaped, requires_grad=layer.weight.requires_grad)
    pair.second.bias = layer.bias
    _replace(network, name, pair)


def _replace(network: nn.Module, name: str, pair: nn.Sequential) -> None:
    """Put a pair in a layer's place, and make those around it work with it."""
    owner_name, _, own = name.rpartition(".")
    owner = network.get_submodule(owner_name)
    if isinstance(owner, nn.MultiheadAttention):
        owner = PairedAttention.of(owner)
        put_at(network, owner_name, owner)
    setattr(owner, own, pair)
    for part in _around(network, name):
        # In evaluation mode these two pass their layers' weights to fused kernels; each of
        # these settings turns that off and does nothing else.
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False


def _around(network: nn.Module, name: str) -> Iterator[nn.Module]:
    """The network and all parts of it that hold the one of that dotted name."""
    yield network
    steps = name.split(".")[:-1]
    for step in steps:
        network = network.get_submodule(step)
        yield network


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
        layer: Any = layer_at(network, name)
        dense[f"{name}.weight"] = _product(layer, choice, dense, name)
        if layer.bias is not None:
            dense[f"{name}.bias"] = dense.pop(f"{name}.second.bias")
    for owner in {name.rpartition(".")[0] for name in choices}:
        if isinstance(network.get_submodule(owner), nn.MultiheadAttention):
            for kind in ("weight", "bias"):
                if f"{owner}.in_proj.{kind}" in dense:
                    dense[f"{owner}.in_proj_{kind}"] = dense.pop(f"{owner}.in_proj.{kind}")
    return dense


def dense_copy(
    original: nn.Module, tensors: Mapping[str, Tensor], choices: Mapping[str, Choice]
) -> nn.Module:
    """A copy of a dense network with the weights that the pairs stand for.

    Args:
        original: the dense network.
        tensors: the state dict of the network with pairs.
        choices: which layers are pairs.
    """
    copied = copy.deepcopy(original)
    copied.load_state_dict(dense_state(copied, tensors, choices), assign=True)
    return copied


def _product(layer: nn.Module, choice: Choice, tensors: dict[str, Tensor], name: str) -> Tensor:
    """The weight that a pair's halves make together, in the layer's own form; they are let go."""
    pair: Any = make_pair(layer, choice)
    halves = [tensors.pop(f"{name}.{half}.weight") for half in ("first", "second")]
    if choice.scheme == CLUSTERED:
        product = _clustered_product(layer, pair.first, halves, tensors, name)
        return own_form(product, layer).to(halves[0].dtype).contiguous()
    first, second = (
        canonical(tensor, half)
        for tensor, half in zip(halves, (pair.first, pair.second), strict=True)
    )
    shape = tuple(layer_weight(layer).shape)
    groups = 1 if isinstance(layer, nn.Linear) else int(layer.groups)  # type: ignore[arg-type]
    product = multiply_back(first, second, shape, choice.scheme, choice.k, groups)
    return own_form(product, layer).to(halves[0].dtype).contiguous()


def _clustered_product(
    layer: nn.Module, half: Any, halves: list[Tensor], tensors: dict[str, Tensor], name: str
) -> Tensor:
    """The same of clustered columns; a partition that is none is refused, as when it is loaded."""
    state = {kind: tensors.pop(f"{name}.first.{kind}") for kind in ("order", "sizes")}
    half.take(state, f"{name}.first")
    first, second = (tensor.to(torch.float64).flatten(1) for tensor in halves)
    matrix = multiply_clusters(first, second, half.order, half.lengths)
    return unfold(matrix, tuple(layer_weight(layer).shape), CLUSTERED)


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
    refuse(complaints)


def refuse(complaints: Sequence[str]) -> None:
    """Raise a PlanError with what is wrong with a plan, if anything is."""
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
    if choice.scheme == CLUSTERED:
        return _complaint_of_clusters(spec, choice) or _complaint_of_size(spec, choice)
    return _complaint_of_slices(spec, choice) or _complaint_of_size(spec, choice)


def _complaint_of_slices(spec: LayerSpec, choice: Choice) -> str | None:
    if choice.scheme not in distinct_schemes(spec.kernel):
        return f"scheme {choice.scheme} does not apply to its kernel {spec.kernel}"
    channels = spec.in_channels // spec.groups
    if choice.k < 1 or channels % choice.k:
        where = "" if spec.groups == 1 else " of each group"
        return f"k = {choice.k} does not divide its {channels} input channels{where}"
    if spec.max_slices is not None and choice.k > spec.max_slices:
        return f"k = {choice.k} exceeds the {spec.max_slices} slices possible here"
    full = full_rank(spec.weight_shape, choice.scheme, choice.k, spec.groups)
    if not 1 <= choice.j <= full:
        return f"j = {choice.j} is not between 1 and {full}"
    return None


def _complaint_of_clusters(spec: LayerSpec, choice: Choice) -> str | None:
    if reason := reason_against_clusters(spec):
        return reason
    rows, columns = folded_shape(spec.weight_shape, choice.scheme)
    if not 1 <= choice.k <= columns:
        return f"k = {choice.k} is not between 1 and its {columns} columns"
    # No cluster has more columns, and with so many each other one has a single column.
    full = min(rows, columns - choice.k + 1)
    if not 1 <= choice.j <= full:
        return f"j = {choice.j} is not between 1 and {full}"
    return None


def _complaint_of_size(spec: LayerSpec, choice: Choice) -> str | None:
    size = pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)
    if size >= spec.weight_params:
        return f"the pair would have {size} weights, the layer has {spec.weight_params}"
    return None
