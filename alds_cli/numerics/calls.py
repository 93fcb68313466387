"""What a forward pass asks of each layer: shapes, number of calls, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

FLOPS_PER_MAC = 2
"""PyTorch counts a multiply-accumulate as two floating-point operations."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One layer as a forward pass called it.

    Attributes:
        name: its (first) dotted name in the network.
        input_shape: shape of its first tensor argument at the first call, a batch of one
            in front; None if it was given no tensor.
        output_shape: shape of its result at the first call; None if that is no tensor.
        calls: how often it was called.
        macs: multiply-accumulates of all its calls together, for one sample.
        shapes: for every tensor that its weight was applied to, the shape of the tensor
            and of what came out. A packed projection of queries, keys and values is
            applied row by row where they are different tensors: the channels that came
            out say to how many rows.
        alone: whether every call had one argument, the tensor; a pair takes no other.
    """

    name: str
    input_shape: Shape | None
    output_shape: Shape | None
    calls: int
    macs: int
    shapes: tuple[tuple[Shape, Shape], ...] = ()
    alone: bool = True

    def then(self, other: LayerCall) -> LayerCall:
        """This call and a later one of the same layer."""
        return replace(
            self,
            calls=self.calls + other.calls,
            macs=self.macs + other.macs,
            shapes=self.shapes + other.shapes,
            alone=self.alone and other.alone,
        )


def watch_calls(
    network: nn.Module, counter: FlopCounterMode, calls: dict[str, LayerCall]
) -> list[RemovableHandle]:
    """Hang hooks into the network that enter in `calls` what is called.

    Leaf modules are called themselves. An `nn.MultiheadAttention` applies its packed
    projection and `out_proj` without calling anything: they are entered as
    `NAME.in_proj` and `NAME.out_proj` when it is called.

    Returns:
        The hooks' handles; the caller removes them.
    """

    def enter(call: LayerCall) -> None:
        seen = calls.get(call.name)
        calls[call.name] = call if seen is None else seen.then(call)

    handles: list[RemovableHandle] = []
    for name, part in network.named_modules():
        if type(part) is nn.MultiheadAttention:
            handles.append(_watch_attention(name, part, enter))
        elif _is_leaf(part):
            handles.extend(_watch_leaf(name, part, counter, enter))
    return handles


def _is_leaf(module: nn.Module) -> bool:
    """No parts of its own; `torch.nn.utils.parametrize` hangs helpers into a layer."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def _watch_leaf(
    name: str,
    module: nn.Module,
    counter: FlopCounterMode,
    enter: Callable[[LayerCall], None],
) -> tuple[RemovableHandle, RemovableHandle]:
    before = [0]

    def start(_module: nn.Module, _args: tuple[Any, ...]) -> None:
        before[0] = counter.get_total_flops()

    def leave(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: object
    ) -> None:
        given, made = _first_shape((*args, *kwargs.values())), _first_shape((result,))
        macs = (counter.get_total_flops() - before[0]) // FLOPS_PER_MAC
        shapes = () if given is None or made is None else ((given, made),)
        enter(LayerCall(name, given, made, 1, macs, shapes, len(args) + len(kwargs) == 1))

    return (
        module.register_forward_pre_hook(start),
        module.register_forward_hook(leave, with_kwargs=True),
    )


def _watch_attention(
    name: str, attention: nn.MultiheadAttention, enter: Callable[[LayerCall], None]
) -> RemovableHandle:
    prefix = f"{name}." if name else ""

    def leave(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _result: object
    ) -> None:
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, width = given["query"], attention.embed_dim
        if attention.in_proj_weight is not None:
            shapes = tuple(
                (tuple(tensor.shape), (*tensor.shape[:-1], parts * width))
                for tensor, parts in distinct_inputs(query, given["key"], given["value"])
            )
            enter(_projection(f"{prefix}in_proj", 3 * width, shapes))
        shape = (*query.shape[:-1], width)
        enter(_projection(f"{prefix}out_proj", width, ((shape, shape),)))

    return attention.register_forward_hook(leave, with_kwargs=True)


def distinct_inputs(query: Tensor, key: Tensor, value: Tensor) -> list[tuple[Tensor, int]]:
    """The different tensors among an attention's inputs.

    Each with the number of parts of the packed projection that it needs, in their order:
    one tensor is projected once, whatever it is used as. TorchScript compiles it.
    """
    if key is not value:
        return [(query, 1), (key, 1), (value, 1)]
    if query is key:
        return [(query, 3)]
    return [(query, 1), (key, 2)]


def _projection(name: str, rows: int, shapes: tuple[tuple[Shape, Shape], ...]) -> LayerCall:
    given = shapes[0][0]
    macs = sum(prod(out) * inside[-1] for inside, out in shapes)
    return LayerCall(name, given, (*given[:-1], rows), 1, macs, shapes)


def _first_shape(values: tuple[object, ...]) -> Shape | None:
    return next((tuple(value.shape) for value in values if isinstance(value, Tensor)), None)
