"""A network's graph by `torch.fx`, with what every step of it gives on the meta device.

Code that asks for shapes (`if x.shape[1] != …`, `len(x)`, `for y in x.split(2)`) gets the answer
for the input at hand, and the answer is noted: what depends on it may not change.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute, TraceError

from alds_cli.errors import ContractError, first_line
from alds_cli.inputs import floating_type
from alds_cli.tracing.trace import meta_copy

BATCH = 2
"""Samples in the traced batch: batch normalisation in training mode needs more than one."""

_BY_VALUES = "its way depends on the values of tensors (at '{}')"

UNKNOWN = object()
"""The value of a step that the meta device cannot carry out."""


@dataclass(frozen=True, slots=True)
class TracedNetwork:
    """A forward pass as a graph.

    Attributes:
        root: on the meta device, what the graph's names refer to.
        graph: of `torch.fx`; its one placeholder is the image.
        values: what every node gives, tensors on the meta device; see `UNKNOWN`.
        decided: nodes whose values decided which way the code took.
    """

    root: nn.Module
    graph: fx.Graph
    values: Mapping[fx.Node, Any]
    decided: tuple[fx.Node, ...]

    def value(self, node: fx.Node) -> Any:
        """What a node gives; that of a parameter or buffer is itself."""
        if node.op == "get_attr":
            return _attribute(self.root, str(node.target))
        return self.values.get(node, UNKNOWN)


def trace_graph(
    network: nn.Module, input_shape: tuple[int, ...], *, training: bool = False
) -> TracedNetwork:
    """Follow the network's code with a batch of that shape.

    Args:
        network: is left as it is; traced is a copy without values.
        input_shape: of one sample.
        training: whether in training mode.

    Raises:
        ContractError: `torch.fx` cannot follow the code.
    """
    copied = meta_copy(network).train(training)
    image = torch.empty((BATCH, *input_shape), device="meta", dtype=floating_type(copied))
    tracer = _Tracer(image)
    try:
        with torch.no_grad():
            graph = tracer.trace(_Entry(copied))
    except Exception as error:
        raise ContractError(
            "filters can only be removed from a network whose code torch.fx can follow, and this "
            f"one's it cannot: {first_line(error)}",
            tip="choose a method that decomposes layers: --method alds",
        ) from error
    return TracedNetwork(tracer.root, graph, tracer.values, tuple(tracer.decided))


class _Entry(nn.Module):
    """Calls the network with nothing but the image, so that other arguments are as they are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        """What the network gives."""
        return self.network(image)


class _Answering:
    """Mixed into proxies: answers what plain Python asks, and has the question noted."""

    node: fx.Node
    tracer: Any

    def __len__(self) -> int:
        # Of a shape the axes, of a tensor the samples: never channels.
        return len(self.tracer.known(self.node))

    def __int__(self) -> int:
        return int(self.tracer.settle(self.node))

    def __index__(self) -> int:
        return int(self.tracer.settle(self.node))

    def __float__(self) -> float:
        return float(self.tracer.settle(self.node))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __getattr__(self, name: str) -> _Part:
        return _Part(self, name)


class _Proxy(_Answering, fx.Proxy):
    """What the traced code sees in the place of a value."""


class _Part(_Answering, Attribute):
    """What it sees as an attribute of such a value."""

    def __init__(self, root: Any, attr: str) -> None:
        Attribute.__init__(self, root, attr)


class _Tracer(fx.Tracer):
    """Carries every step out on the meta device as it is recorded."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.values: dict[fx.Node, Any] = {}
        self.decided: list[fx.Node] = []
        self._image = image
        self._evaluating = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The stand-in for a node's value."""
        return _Proxy(node, self)

    def known(self, node: fx.Node) -> Any:
        """A node's value."""
        value = self.values.get(node, UNKNOWN)
        if value is UNKNOWN:
            raise TraceError(_BY_VALUES.format(node.name))
        return value

    def settle(self, node: fx.Node) -> Any:
        """A node's value, which the code's way depends on."""
        value = self.known(node)
        if isinstance(value, Tensor):
            raise TraceError(_BY_VALUES.format(node.name))
        self.decided.append(node)
        return value

    def to_bool(self, obj: fx.Proxy) -> bool:
        """As a condition."""
        return bool(self.settle(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Item by item."""
        items = range(len(self.known(obj.node)))
        return iter([operator.getitem(obj, index) for index in items])

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any
    ) -> fx.Proxy:
        """Record a step and carry it out."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        with self._apart():
            self.values[proxy.node] = self._evaluate(kind, target, args, kwargs)
        return proxy

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record a module's call; while a step is carried out, just call it."""
        if self._evaluating:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record that a parameter is taken; while a step is carried out, just take it."""
        if self._evaluating:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            return self._image
        if kind == "get_attr":
            return _attribute(self.root, target)
        missing = False

        def known(value: Any) -> Any:
            nonlocal missing
            if not isinstance(value, fx.Proxy):
                return value
            found = self.values.get(value.node, UNKNOWN)
            missing = missing or found is UNKNOWN
            return found

        own: Any = fx.node.map_aggregate(args, known)
        named: Any = fx.node.map_aggregate(kwargs, known)
        if missing:
            return UNKNOWN
        try:
            if kind == "call_module":
                return self.root.get_submodule(target).forward(*own, **named)
            if kind == "call_method":
                return getattr(own[0], target)(*own[1:], **named)
            return target(*own, **named)
        except Exception:  # noqa: BLE001 - whatever it is, the value is not known then
            return UNKNOWN


def _attribute(root: nn.Module, name: str) -> Any:
    owner, _, own = name.rpartition(".")
    return getattr(root.get_submodule(owner), own)
