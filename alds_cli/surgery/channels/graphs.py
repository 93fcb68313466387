"""A network's graph by `torch.fx`, with the result of every step on the meta device.

Code that asks for shapes (`if x.shape[1] != …`, `len(x)`, `for y in x.split(2)`) gets the answer
for the given input. The question is recorded, because sizes that decided which way the code
took must not change.
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
from alds_cli.tracing.trace import floating_type, meta_copy

BATCH = 2
"""The number of samples in the traced batch; batch normalisation in training needs two."""

_BY_VALUES = "its way depends on the values of tensors (at '{}')"

UNKNOWN = object()
"""The value of a step that cannot be executed on the meta device."""


@dataclass(frozen=True, slots=True)
class TracedNetwork:
    """A forward pass as a graph.

    Attributes:
        root: the module, on the meta device, that the names in the graph refer to.
        graph: the graph of `torch.fx`; its only placeholder is the image.
        values: the result of every node, with tensors on the meta device, or `UNKNOWN`.
        decided: nodes whose values decided which way the code took.
    """

    root: nn.Module
    graph: fx.Graph
    values: Mapping[fx.Node, Any]
    decided: tuple[fx.Node, ...]

    def value(self, node: fx.Node) -> Any:
        """Return the result of a node; that of a parameter or buffer is the tensor itself."""
        if node.op == "get_attr":
            return _attribute(self.root, str(node.target))
        return self.values.get(node, UNKNOWN)


def trace_graph(
    network: nn.Module, input_shape: tuple[int, ...], *, training: bool = False
) -> TracedNetwork:
    """Trace the network's code on a batch of `BATCH` samples.

    Args:
        network: the network, which is left unchanged; a copy without values is traced.
        input_shape: the shape of one sample.
        training: whether to trace it in training mode.

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
    """Calls the network with the image alone, so that other arguments keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        """Return the network's output."""
        return self.network(image)


class _Answering:
    """A mixin of proxies that answers Python's questions and has them recorded."""

    node: fx.Node
    tracer: Any

    def __len__(self) -> int:
        # The length of a shape is its number of axes, that of a tensor its number of samples.
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
    """A proxy that the traced code gets in place of a value."""


class _Part(_Answering, Attribute):
    """A proxy that the traced code gets in place of an attribute of such a value."""

    def __init__(self, root: Any, attr: str) -> None:
        Attribute.__init__(self, root, attr)


class _Tracer(fx.Tracer):
    """A tracer that also executes every step on the meta device as it is recorded."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.values: dict[fx.Node, Any] = {}
        self.decided: list[fx.Node] = []
        self._image = image
        self._evaluating = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the proxy of a node's value."""
        return _Proxy(node, self)

    def known(self, node: fx.Node) -> Any:
        """Return a node's value.

        Raises:
            TraceError: it is not known.
        """
        value = self.values.get(node, UNKNOWN)
        if value is UNKNOWN:
            raise TraceError(_BY_VALUES.format(node.name))
        return value

    def settle(self, node: fx.Node) -> Any:
        """Return a node's value and record that the way the code takes depends on it.

        Raises:
            TraceError: it is a tensor, or not known.
        """
        value = self.known(node)
        if isinstance(value, Tensor):
            raise TraceError(_BY_VALUES.format(node.name))
        self.decided.append(node)
        return value

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer for a value that is used as a condition."""
        return bool(self.settle(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Return proxies of the items of a value."""
        items = range(len(self.known(obj.node)))
        return iter([operator.getitem(obj, index) for index in items])

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any
    ) -> fx.Proxy:
        """Record a step and execute it."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        with self._apart():
            self.values[proxy.node] = self._evaluate(kind, target, args, kwargs)
        return proxy

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record the call of a module; while a step is executed, only call it."""
        if self._evaluating:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record the use of a parameter; while a step is executed, only return it."""
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

        positional: Any = fx.node.map_aggregate(args, known)
        named: Any = fx.node.map_aggregate(kwargs, known)
        if missing:
            return UNKNOWN
        try:
            if kind == "call_module":
                return self.root.get_submodule(target).forward(*positional, **named)
            if kind == "call_method":
                return getattr(positional[0], target)(*positional[1:], **named)
            return target(*positional, **named)
        except Exception:  # noqa: BLE001 - whatever the error, the value is not known
            return UNKNOWN


def _attribute(root: nn.Module, name: str) -> Any:
    owner, _, attribute = name.rpartition(".")
    return getattr(root.get_submodule(owner), attribute)
