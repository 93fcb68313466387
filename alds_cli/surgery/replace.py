"""The replacement of layers by pairs, and of pairs by layers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from alds_cli.checkpoint.mapped_files import aside
from alds_cli.errors import PlanError
from alds_cli.records import Choice, LayerSpec
from alds_cli.surgery.attention import PairedAttention
from alds_cli.surgery.encoders import call_layers
from alds_cli.surgery.layer_contents import bias_of, held_form, layer_at, own_form
from alds_cli.surgery.layers import find_layers, is_plain_attention
from alds_cli.surgery.pairs import complaint_against, form_of, make_pair


def put_at(network: nn.Module, name: str, value: nn.Module | Tensor) -> None:
    """Replace the module, parameter or buffer of a dotted name."""
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, value)


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
        network: changed in place; the old layer's weight is freed.
        name: the layer's dotted name.
        choice: the choice that the weights were made for.
        weights: those of the first and second half, of the shapes `fold.pair_shapes`, and what
            the pair's form holds beside them (`pairs.PairForm.extra`).
    """
    layer: Any = layer_at(network, name)
    pair: Any = make_pair(layer, choice)
    halves, extra = weights[:2], weights[2:]
    form_of(choice.scheme).fill(pair, [tensor.to(layer.weight.device) for tensor in extra])
    for half, weight in zip((pair.first, pair.second), halves, strict=True):
        shaped = own_form(weight, half).to(layer.weight).contiguous()
        half.weight = nn.Parameter(aside(shaped), requires_grad=layer.weight.requires_grad)
    pair.second.bias = bias_of(layer)
    _replace(network, name, pair)


def _replace(network: nn.Module, name: str, pair: nn.Sequential) -> None:
    """Put a pair in a layer's place, and adapt the modules around it."""
    owner_name, _, leaf = name.rpartition(".")
    owner = network.get_submodule(owner_name)
    if isinstance(owner, nn.MultiheadAttention):
        owner = PairedAttention.of(owner)
        put_at(network, owner_name, owner)
    setattr(owner, leaf, pair)
    _unfuse(network, name)


def call_projections(network: nn.Module, names: Iterable[str]) -> None:
    """Put attentions that call their projections in the place of those that do not, in place.

    Parameters stay the same.

    Args:
        network: changed in place.
        names: layers; of those that are projections of an attention, the attention is replaced.
    """
    parts = dict(network.named_modules())
    for name in names:
        owner_name = name.rpartition(".")[0]
        owner: Any = parts.get(owner_name)
        if owner_name and owner is not None and is_plain_attention(owner):
            parts[owner_name] = PairedAttention.of(owner)
            put_at(network, owner_name, parts[owner_name])
            _unfuse(network, name)


def _unfuse(network: nn.Module, name: str) -> None:
    """Keep the modules around a layer from using its weight without calling it."""
    for part in _around(network, name):
        call_layers(part)


def _around(network: nn.Module, name: str) -> Iterator[nn.Module]:
    """Yield the network and all parts of it that contain the module of a dotted name."""
    yield network
    steps = name.split(".")[:-1]
    for step in steps:
        network = network.get_submodule(step)
        yield network


def dense_state(
    network: nn.Module, tensors: Mapping[str, Tensor], choices: Mapping[str, Choice]
) -> dict[str, Tensor]:
    """Multiply the pairs of a compressed state dict back, and return the dense state dict.

    Args:
        network: the dense network; only its shapes are used.
        tensors: the state dict of the network with pairs; its order is not kept.
        choices: which layers are pairs.
    """
    dense = dict(tensors)
    for name, choice in choices.items():
        layer: Any = layer_at(network, name)
        product = _product(layer, choice, dense, name)
        dense[f"{name}.weight"] = held_form(product, network, name)
        if bias_of(layer) is not None:
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
    """Copy a dense network, and give it the weights that the pairs stand for.

    Args:
        original: the dense network.
        tensors: the state dict of the network with pairs.
        choices: which layers are pairs.
    """
    copied = copy.deepcopy(original)
    copied.load_state_dict(dense_state(copied, tensors, choices), assign=True)
    return copied


def _product(layer: nn.Module, choice: Choice, tensors: dict[str, Tensor], name: str) -> Tensor:
    """Take a pair's halves out of the tensors, and return their product in the layer's form."""
    form, pair = form_of(choice.scheme), make_pair(layer, choice)
    first = tensors.pop(f"{name}.first.weight")
    halves = first, tensors.pop(f"{name}.second.weight")
    extra = {entry: tensors.pop(f"{name}.first.{entry}") for entry in form.extra}
    product = form.product(layer, choice, pair, halves, extra, name)
    return aside(own_form(product, layer).to(first.dtype).contiguous())


def require_fitting(specs: Mapping[str, LayerSpec], choices: Mapping[str, Choice | None]) -> None:
    """Make sure that every choice can be carried out.

    Raises:
        PlanError: a layer is unknown, must be kept, or its scheme, k or j is impossible or
            would not make it smaller; the message names all such layers.
    """
    complaints = [
        f"{name}: {complaint}"
        for name, choice in choices.items()
        if (complaint := _complaint(specs.get(name), choice))
    ]
    refuse(complaints)


def refuse(complaints: Sequence[str]) -> None:
    """Raise a PlanError that lists the complaints about a plan, if there are any."""
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
    return complaint_against(spec, choice)
