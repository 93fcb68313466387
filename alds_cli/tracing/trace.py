"""The cost of a network, counted in a real forward pass: parameters and multiply-accumulates.

The forward pass of a large network runs on the meta device, where tensors have shapes but no
storage, on a copy that never held any: a VGG16 is counted in milliseconds and kilobytes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from alds_cli.errors import first_line
from alds_cli.inputs import (
    InputSpec,
    as_inputs,
    example_call,
)
from alds_cli.tracing.watching import (
    FLOPS_PER_MAC,
    Counter,
    NotCounting,
    Read,
    Shape,
    SmallCounter,
    UncountedError,
    plain_attention,
    watch_reads,
)

_log = logging.getLogger(__name__)


_SMALL = 1 << 24
"""Numbers in a small network, and in what it is fed."""

_SMALL_MACS = 1 << 29
"""Multiply-accumulates that take less time than the meta device needs to begin."""

_MOST_REAL_MACS = 1 << 36
"""The MACs beyond which a network that the meta device cannot run is not run for real, since that
might take minutes and fail as well."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The record of one forward pass.

    Attributes:
        macs: multiply-accumulates of one sample in convolutions, matrix products and attention,
            wherever they happen; None if no forward pass succeeded, or none while they were
            counted.
        calls: every leaf module that was called as a module, by name, and the two projections of
            every `nn.MultiheadAttention` that was called. A layer whose weight the network uses
            without calling the layer is not among them.
        failure: why no forward pass succeeded; None where one did.
        reads: the first attribute of each layer that the network's code read and that a pair in
            its place would not have, by the layer's name.
    """

    macs: int | None
    calls: Mapping[str, LayerCall] = field(default_factory=dict)
    failure: str | None = None
    reads: Mapping[str, Read] = field(default_factory=dict)


def count_parameters(module: nn.Module) -> int:
    """Return the number of scalars in the parameters, tied ones once, without buffers."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, inputs: InputSpec | tuple[int, ...]) -> int | None:
    """Return the multiply-accumulates of one sample; see `trace`."""
    return trace(module, inputs).macs


def trace(module: nn.Module, inputs: InputSpec | tuple[int, ...]) -> Trace:
    """Record one forward pass in evaluation mode, without changing the network.

    A small network runs on numbers, where that is quicker, and others on the meta device. Where
    that cannot be, a network runs for real on its own device; where it cannot run at all, the
    trace is empty and the reason is logged.

    Args:
        module: the network; its flags, weights and hooks are left unchanged.
        inputs: what it takes, or the shape of one sample without a batch axis, e.g.
            (3, 224, 224).
    """
    spec = as_inputs(inputs)
    try:
        return _trace_small(module, spec)
    except Exception as error:  # noqa: BLE001 - a foreign network may raise anything
        _log.debug("this network is not traced on numbers: %s", error)
    return _trace_large(module, spec)


def _trace_large(module: nn.Module, spec: InputSpec) -> Trace:
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - slow to import

    failure, counted = "", 0
    for watched in (True, False):
        counter = FlopCounterMode(display=False)
        try:
            device = torch.device("meta")
            return _observe(meta_copy(module), device, spec, counter, watched=watched)
        except Exception as error:  # noqa: BLE001
            _log.debug("the meta device cannot run this network: %s", error)
            failure = first_line(error)
            counted = max(counted, counter.get_total_flops() // FLOPS_PER_MAC)
    for counting, watched in _REAL_WAYS if counted <= _MOST_REAL_MACS else ():
        try:
            return _trace_for_real(module, spec, counting=counting, watched=watched)
        except Exception as error:  # noqa: BLE001
            failure = first_line(error)
    failure = f"the network does not run on the input {spec}: {failure}"
    _log.warning("MACs could not be counted: %s", failure)
    return Trace(None, failure=failure)


def _trace_small(module: nn.Module, inputs: InputSpec) -> Trace:
    """Observe a pass on numbers, which calls and computes what one on the meta device does.

    Raises:
        UncountedError: the network is not small, or something in it cannot be counted so.
    """
    tensors = [*module.parameters(), *module.buffers()]
    fed = sum(tensor.elements for tensor in inputs.tensors())
    if max(sum(tensor.numel() for tensor in tensors), fed) > _SMALL:
        raise UncountedError("it is large")
    if floating_type(module) != torch.float32 or any(own.device.type != "cpu" for own in tensors):
        raise UncountedError("CPUs compute it in other ways")
    copied = copy.deepcopy(module).eval().requires_grad_(requires_grad=False)
    with plain_attention(), torch.random.fork_rng(devices=[]):
        counter = SmallCounter(_SMALL_MACS)
        return _observe(copied, torch.device("cpu"), inputs, counter, watched=True)


_REAL_WAYS = ((True, True), (False, True), (True, False))
"""(counting, watched): whether to count, and whether to watch what is read. Code that compares its
layers' types may not work while it is watched."""


def _trace_for_real(
    module: nn.Module, inputs: InputSpec, *, counting: bool, watched: bool
) -> Trace:
    tensor = next(module.parameters(), None)
    device = torch.device("cpu") if tensor is None else tensor.device
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - slow to import

    counter: Counter = FlopCounterMode(display=False) if counting else NotCounting()
    with evaluation_mode(module), _without_gradients(module), plain_attention():
        found = _observe(module, device, inputs, counter, watched=watched)
    return found if counting else replace(found, macs=None)


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Turn the parameters' gradients off, and back on afterwards.

    The counter follows gradients from a module's arguments, and fails where an argument is itself
    a parameter and gradients are off.
    """
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put every submodule in evaluation mode, and back into its own mode afterwards."""
    with _modes_kept(module):
        module.eval()
        yield


@contextmanager
def training_mode(module: nn.Module) -> Iterator[None]:
    """Put every submodule in training mode, and back into its own mode afterwards."""
    with _modes_kept(module):
        module.train()
        yield


@contextmanager
def _modes_kept(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


class _ToMeta(TorchFunctionMode):
    """A mode in which `copy.deepcopy` returns tensors without storage."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # nn.Parameter copies itself through clone, every other tensor through __deepcopy__.
        if func in (Tensor.__deepcopy__, Tensor.clone):
            return torch.empty_like(args[0].detach(), device="meta")
        return func(*args, **(kwargs or {}))


def meta_copy(module: nn.Module) -> nn.Module:
    """Return a copy with shapes and no storage, in evaluation mode and without gradients."""
    with _ToMeta():
        copied = copy.deepcopy(module).eval()
    return copied.requires_grad_(requires_grad=False)


def _observe(
    module: nn.Module,
    device: torch.device,
    inputs: InputSpec,
    counter: Counter,
    *,
    watched: bool,
) -> Trace:
    call = example_call(inputs, dtype=floating_type(module), device=device)
    calls: dict[str, LayerCall] = {}
    reads: dict[str, Read] = {}
    with ExitStack() as stack:
        for handle in watch_calls(module, counter, calls):
            stack.callback(handle.remove)
        if watched:
            stack.enter_context(watch_reads(module, reads))
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        call(module)
    return Trace(counter.get_total_flops() // FLOPS_PER_MAC, calls, reads=reads)


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One layer as a forward pass called it.

    Attributes:
        name: its (first) dotted name in the network.
        input_shape: the shape of its first tensor argument at the first call, with a batch of one
            in front; None if it was given no tensor.
        output_shape: the shape of its result at the first call; None if that is not a tensor.
        calls: the number of its calls.
        macs: the multiply-accumulates of all its calls together, for one sample.
        shapes: for every tensor that its weight was applied to, the shapes of the tensor and of
            the result. A packed projection of queries, keys and values is applied row by row
            where they are different tensors: the channels of the result show to how many rows.
        alone: whether the tensor was the only argument of every call; a pair takes no other.
    """

    name: str
    input_shape: Shape | None
    output_shape: Shape | None
    calls: int
    macs: int
    shapes: tuple[tuple[Shape, Shape], ...] = ()
    alone: bool = True

    def then(self, other: LayerCall) -> LayerCall:
        """Return this call and a later one of the same layer as one record."""
        return replace(
            self,
            calls=self.calls + other.calls,
            macs=self.macs + other.macs,
            shapes=self.shapes + other.shapes,
            alone=self.alone and other.alone,
        )


def watch_calls(
    network: nn.Module, counter: Counter, calls: dict[str, LayerCall]
) -> list[RemovableHandle]:
    """Register hooks in the network that record its calls in `calls`.

    Leaf modules are recorded themselves. An `nn.MultiheadAttention` applies its packed projection
    and `out_proj` without calling anything: they are recorded as `NAME.in_proj` and
    `NAME.out_proj` when it is called.

    Returns:
        The handles of the hooks, which the caller must remove.
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
    """Return whether a module has no parts, apart from helpers of `torch.nn.utils.parametrize`."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def _watch_leaf(
    name: str,
    module: nn.Module,
    counter: Counter,
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
    """Return the different tensors among an attention's inputs.

    Each comes with the number of parts of the packed projection that it needs, in their order:
    a tensor is projected once for all its uses. TorchScript compiles this function.
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


def floating_type(module: nn.Module) -> torch.dtype:
    """Return the type of the network's first floating-point parameter; float32 if it has none."""
    found = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(found, torch.float32)
