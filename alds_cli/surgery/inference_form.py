"""Exact changes to a network that is only asked for answers, which make it faster.

Normalisations are folded into the convolutions before them, the first halves of pairs take several
of their groups as one, slices get ranks that suit vectors, pairs run as the layers that they stand
for, and weights lie channels-last or as oneDNN takes them. Nothing of this changes what the network
computes in evaluation mode, but for rounding. Files hold the network without these changes and a
list of them, so that it can still be trained, and multiplied back.
"""

from __future__ import annotations

import copy
from operator import add, mul
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.errors import PlanError
from alds_cli.numerics.fold import carried_by_second, distinct_schemes, multiply_back
from alds_cli.records import Inference
from alds_cli.surgery.following_norms import following_norms
from alds_cli.surgery.layer_contents import bias_of, groups_of
from alds_cli.surgery.packed_convolutions import pack_convolutions
from alds_cli.surgery.replace import put_at
from alds_cli.surgery.sliced_linear import SlicedLinear
from alds_cli.surgery.weight_norms import fold_norms

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def foldable_norms(network: nn.Module) -> dict[str, str]:
    """Return the normalisations that can be folded, each with the convolution before it.

    Args:
        network: on any device; layers may be pairs.
    """
    parts = dict(network.named_modules())
    return {
        norm: layer
        for layer, norm in following_norms(network).items()
        if type(parts[layer]) in _CONVOLUTIONS and _agree(parts[layer], parts[norm])
    }


def _agree(layer: Any, norm: Any) -> bool:
    """Return whether a normalisation is of a layer's channels, and both are no more than that."""
    plain = not any(part._forward_hooks or part._forward_pre_hooks for part in (layer, norm))  # noqa: SLF001
    return plain and layer.out_channels == norm.num_features and norm.running_var is not None


def can_vary(pair: nn.Module) -> bool:
    """Return whether a pair can run in other forms: one of two convolutions or linear layers."""
    if type(pair) is not nn.Sequential:
        return False
    halves = dict(pair.named_children())
    if list(halves) != ["first", "second"] or bias_of(halves["first"]) is not None:
        return False
    kinds = type(halves["first"]), type(halves["second"])
    alike = kinds[0] is kinds[1] and kinds[0] in {*_CONVOLUTIONS, nn.Linear}
    return alike or kinds == (SlicedLinear, nn.Linear)


def groups_of_half(half: nn.Module) -> int:
    """Return how many parts a half of a pair computes by themselves: its groups, or its slices."""
    return half.slices if isinstance(half, SlicedLinear) else groups_of(half)


def put_into_inference_form(network: nn.Module, inference: Inference) -> nn.Module:
    """Change a network in place as the list says, and return it in evaluation mode.

    Norms that compute weights are folded as well, unless the list is empty.

    Raises:
        PlanError: the network has no such modules, or they are of other kinds.
    """
    network.eval()
    if inference != Inference():
        fold_norms(network)
    with torch.no_grad():
        for norm, layer in inference.folded.items():
            _fold(network, norm, layer)
        for name, together in inference.merged.items():
            _merge(network, name, together)
        for name, rank in inference.padded.items():
            put_at(network, name, padded(_pair(network, name), rank))
        for name in inference.multiplied:
            put_at(network, name, multiplied(_pair(network, name)))
    return laid_out(network, inference)


def laid_out(network: nn.Module, inference: Inference) -> nn.Module:
    """Return a network whose convolutions' weights lie as the list says; it is changed.

    Activations follow weights that lie channels-last.
    """
    if inference.channels_last:
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    return pack_convolutions(network) if inference.packed else network


def _fold(network: nn.Module, norm_name: str, layer_name: str) -> None:
    """Let a convolution do what the normalisation after it does: W ← s W, b ← s (b − μ) + β.

    The scale s is γ / √(σ² + ε); all is computed in float64.
    """
    layer, norm = _part(network, layer_name), _part(network, norm_name)
    if type(layer) not in _CONVOLUTIONS or not isinstance(norm, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
        raise PlanError(f"{norm_name} cannot be folded into {layer_name}")
    if norm.running_mean is None or norm.running_var is None:
        raise PlanError(f"{norm_name} has no running statistics to fold into {layer_name}")
    weight: Tensor = layer.weight.double()
    count = layer.out_channels
    if count != norm.num_features:
        raise PlanError(f"{norm_name} has {norm.num_features} channels, {layer_name} {count}")
    scale = 1 / (norm.running_var.double() + norm.eps).sqrt()
    shift = weight.new_zeros(count)
    if norm.weight is not None:
        scale, shift = scale * norm.weight.double(), norm.bias.double()
    bias = weight.new_zeros(count) if layer.bias is None else layer.bias.double()
    dtype = layer.weight.dtype
    scaled = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    layer.weight = nn.Parameter(scaled.to(dtype), requires_grad=False)
    shifted = (bias - norm.running_mean.double()) * scale + shift
    layer.bias = nn.Parameter(shifted.to(dtype), requires_grad=False)
    put_at(network, norm_name, nn.Identity())


def _merge(network: nn.Module, name: str, together: int) -> None:
    """Let a pair's first half take so many of its groups as one, with zeros between them."""
    pair = _pair(network, name)
    groups = groups_of_half(pair.first)
    if together < 1 or groups % together:
        raise PlanError(f"{name} has no groups of which {together} could be one")
    pair.first = merged(pair.first, together)


def _pair(network: nn.Module, name: str) -> Any:
    pair = _part(network, name)
    if not can_vary(pair):
        raise PlanError(f"{name} is no pair that could run in another form")
    return pair


def merged(layer: Any, together: int) -> nn.Module:
    """Return a layer that does the same with `together` times fewer groups, or slices."""
    groups = groups_of_half(layer) // together
    made = (
        _of_slices(layer, groups) if isinstance(layer, SlicedLinear) else _of_groups(layer, groups)
    )
    made.weight = nn.Parameter(_with_zeros_between(layer.weight, groups, together), False)
    made.train(layer.training)
    return made  # type: ignore[no-any-return]


def _of_groups(layer: Any, groups: int) -> Any:
    """Return a convolution without a weight that maps as a layer does, with so many groups."""
    made = type(layer)(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        device="meta",
        dtype=layer.weight.dtype,
    )
    made.bias = layer.bias
    return made


def _of_slices(layer: SlicedLinear, slices: int) -> Any:
    """Return a layer without a weight that maps as many features; of one slice, a linear one."""
    features, options = layer.slices * layer.rank, {"device": "meta", "dtype": layer.weight.dtype}
    if slices == 1:
        return nn.Linear(layer.in_features, features, bias=False, **options)
    return SlicedLinear(layer.in_features, slices, features // slices, **options)


def _with_zeros_between(weight: Tensor, groups: int, together: int) -> Tensor:
    """Return a weight (f, c, κ…) as (f, together · c, κ…), that of so many times fewer groups."""
    rows, (columns, *kernel) = weight.shape[0] // (groups * together), weight.shape[1:]
    parts = weight.detach().view(groups, together, rows, columns, *kernel)
    whole = parts.new_zeros(groups, together, rows, together, columns, *kernel)
    for place in range(together):
        whole[:, place, :, place] = parts[:, place]
    return whole.reshape(weight.shape[0], together * columns, *kernel)


def padded(pair: Any, rank: int) -> nn.Sequential:
    """Return a pair that does the same with slices of a higher rank, of which the rest is zero.

    Raises:
        PlanError: its slices have a higher one already.
    """
    first, second = pair.first, pair.second
    slices = groups_of_half(first)
    own = first.weight.shape[0] // slices
    if rank < own:
        raise PlanError(f"slices of rank {own} cannot be padded to {rank}")
    made = copy.deepcopy(pair)
    apart = slices // groups_of(second)
    rows = first.weight.detach().unflatten(0, (slices, own))
    columns = second.weight.detach().unflatten(1, (apart, own))
    made.first.weight = _with_zeros(rows, 1, rank)
    made.second.weight = _with_zeros(columns, 2, rank)
    if isinstance(first, SlicedLinear):
        made.first.rank = rank
    else:
        setattr(made.first, _extent("out", first), slices * rank)
    setattr(made.second, _extent("in", second), slices * rank)
    return made  # type: ignore[no-any-return]


def _extent(side: str, half: nn.Module) -> str:
    """Return the name of the attribute that holds how many channels a half takes or gives."""
    return f"{side}_features" if isinstance(half, nn.Linear) else f"{side}_channels"


def _with_zeros(weight: Tensor, axis: int, extent: int) -> nn.Parameter:
    """Extend an axis by zeros, and make one of it and the axis before."""
    shape = list(weight.shape)
    shape[axis] = extent - shape[axis]
    whole = torch.cat([weight, weight.new_zeros(shape)], axis)
    return nn.Parameter(whole.flatten(axis - 1, axis), requires_grad=False)


def multiplied(pair: Any) -> nn.Module:
    """Return the one layer that a pair stands for."""
    first, second = pair.first, pair.second
    options = {"device": "meta", "dtype": first.weight.dtype, "bias": second.bias is not None}
    made: Any
    if isinstance(second, nn.Linear):
        made = nn.Linear(first.in_features, second.out_features, **options)
        whole: Any = merged(first, first.slices) if isinstance(first, SlicedLinear) else first
        product = second.weight.double() @ whole.weight.double()
    else:
        made = type(first)(
            first.in_channels,
            second.out_channels,
            tuple(map(max, first.kernel_size, second.kernel_size)),
            stride=tuple(map(mul, first.stride, second.stride)),
            dilation=tuple(map(mul, first.dilation, second.dilation)),
            padding=_added(first.padding, second.padding),
            padding_mode=first.padding_mode,
            groups=second.groups,
            **options,
        )
        product = multiply_back(
            first.weight.double(),
            second.weight.double(),
            tuple(made.weight.shape),
            _scheme_of(first, second),
            first.groups // second.groups,
            second.groups,
        )
    made.weight = nn.Parameter(product.to(first.weight.dtype), requires_grad=False)
    made.bias = second.bias
    made.train(pair.training)
    return made  # type: ignore[no-any-return]


def _added(one: Any, other: Any) -> Any:
    """Add paddings; "same" and "valid" are those of both halves."""
    return one if isinstance(one, str) else tuple(map(add, one, other))


def _scheme_of(first: Any, second: Any) -> int:
    """Return a scheme by which a pair of these kernels is folded; where several are, one of them.

    Axes on which both kernels have the extent 1 may belong to either half.
    """
    kernels = list(zip(first.kernel_size, second.kernel_size, strict=True))
    for scheme in distinct_schemes(tuple(max(both) for both in kernels)):
        carried = carried_by_second(len(kernels), scheme)
        if all(both[not mine] == 1 for both, mine in zip(kernels, carried, strict=True)):
            return scheme
    raise PlanError("these halves are no pair")


def _part(network: nn.Module, name: str) -> Any:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise PlanError(f"the network has no module {name}") from error
