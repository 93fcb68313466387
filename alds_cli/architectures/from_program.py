"""Networks from programs of `torch.export`, as modules of `torch.fx`.

Layers are modules of `torch.nn` under the names that the exported network's tensors had; all else
is calls of operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, fx, nn

from alds_cli.architectures.program_layers import GETTING, Layer, layers_in
from alds_cli.architectures.program_operators import by_name, operator_named, public_form
from alds_cli.errors import ArchitectureError, OptionError
from alds_cli.inputs import GENERAL_FLOAT, InputSpec, InputTensor
from alds_cli.records import (
    FreeSize,
    Program,
    ProgramArchitecture,
    ProgramInput,
    ProgramStep,
    references,
)


def construct(program: Program) -> nn.Module:
    """Build a program's network, with tensors without values.

    Raises:
        ArchitectureError: it calls what programs may not call, or does not hang together.
    """
    root = nn.Module()
    try:
        layers = layers_in(program)
        _fill(root, program, layers)
        graph = _Builder(program, layers).graph()
        network = fx.GraphModule(root, graph, "Program")
    except ArchitectureError:
        raise
    except Exception as error:  # names of a damaged file may lead anywhere
        raise ArchitectureError(f"the program is damaged: {error}") from error
    network.register_forward_pre_hook(partial(_require_sizes, program), with_kwargs=True)
    return network


def own_tensors(
    architecture: ProgramArchitecture, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a program's tensors as its network holds them: by its names, matrices as (out, in)."""
    layers = layers_in(architecture.graph)
    turned = {layer.tensors["weight"] for layer in layers.values() if layer.turned}
    return {
        place: tensors[name].t().contiguous() if name in turned else tensors[name]
        for name, place in _places(architecture.graph, layers).items()
    }


def inputs_of(architecture: ProgramArchitecture) -> InputSpec:
    """Return what a program takes, with a batch of one where the first axis is free."""
    program = architecture.graph
    return InputSpec(
        tuple(
            (own.name if own.keyword else None, _input(own, program))
            for own in sorted(program.inputs, key=lambda each: each.keyword)
        )
    )


def _input(own: ProgramInput, program: Program) -> InputTensor:
    shape = [
        extent if isinstance(extent, int) else 1 if not place else program.sizes[extent].example
        for place, extent in enumerate(own.shape)
    ]
    trained = {tensor.dtype for tensor in program.tensors.values() if tensor.trained}
    given = InputTensor(tuple(shape), own.dtype, own.below)
    general = given.is_floating and trained <= {own.dtype}
    return replace(given, dtype=GENERAL_FLOAT) if general else given


def _places(program: Program, layers: Mapping[str, Layer]) -> dict[str, str]:
    """Return where the network holds each of the program's tensors; those of no step are left."""
    found = {
        name: f"{layer.name}.{entry}"
        for layer in layers.values()
        for entry, name in layer.tensors.items()
    }
    used = {name for _, name in program.uses_of("tensor")}
    used.update(references(program.output, "tensor"))
    return found | {name: name for name in program.tensors if name in used and name not in found}


def _fill(root: nn.Module, program: Program, layers: Mapping[str, Layer]) -> None:
    """Give a module all layers, and the tensors that are in none."""
    for layer in {layer.name: layer for layer in layers.values()}.values():
        module: Any = layer.kind(**layer.settings)
        if "running_mean" in layer.tensors and "num_batches_tracked" not in layer.tensors:
            module.num_batches_tracked = None
        owner, leaf = _owner(root, layer.name)
        owner.add_module(leaf, module)
    held = {name for layer in layers.values() for name in layer.tensors.values()}
    for name in _places(program, layers).keys() - held:
        about = program.tensors[name]
        tensor = torch.empty(about.shape, dtype=_of(torch.dtype, about.dtype))
        owner, leaf = _owner(root, name)
        if about.trained:
            owner.register_parameter(leaf, nn.Parameter(tensor, tensor.is_floating_point()))
        else:
            owner.register_buffer(leaf, tensor)


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds what has a dotted name, and the last part of the name."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, leaf


def _of(kind: type, word: object) -> Any:
    """Return a constant of PyTorch's, such as `torch.float32`.

    Raises:
        ArchitectureError: PyTorch has none of that name and kind.
    """
    found = getattr(torch, str(word), None)
    if not isinstance(found, kind):
        raise ArchitectureError(f"the program has a {kind.__name__} '{word}', which is not known")
    return found


class _Builder:
    """A builder of graphs of `torch.fx`.

    Args:
        program: the program.
        layers: those of its steps that become modules.
    """

    def __init__(self, program: Program, layers: Mapping[str, Layer]) -> None:
        self._program = program
        self._layers = layers
        self._places = _places(program, layers)
        self._graph = fx.Graph()
        self._made: dict[str, fx.Node] = {}

    def graph(self) -> fx.Graph:
        """Return the graph; steps whose results no one needs are left out.

        Raises:
            ArchitectureError: a step calls what it may not call.
            KeyError: it needs what was not made before.
        """
        inputs = sorted(self._program.inputs, key=lambda own: own.keyword)
        for own in inputs:
            if iskeyword(own.name) or own.name in self._made:
                raise ArchitectureError(f"the program cannot have an input called {own.name}")
            self._made[own.name] = self._graph.placeholder(own.name)
        for step in self._needed():
            self._made[step.name] = self._node(step)
        self._graph.output(self._value(self._program.output))
        return self._graph

    def _needed(self) -> Sequence[ProgramStep]:
        """Return the steps that lead to the output, or change a tensor in its place."""
        needed = set(references(self._program.output, "value"))
        found: list[ProgramStep] = []
        for step in reversed(self._program.steps):
            schema = getattr(operator_named(step.operator), "_schema", None)
            if step.name in needed or (schema is not None and schema.is_mutable):
                found.append(step)
                needed.update(references(self._given(step), "value"))
        return found[::-1]

    def _given(self, step: ProgramStep) -> Any:
        layer = self._layers.get(step.name)
        return step.given if layer is None else (layer.given,)

    def _node(self, step: ProgramStep) -> fx.Node:
        layer = self._layers.get(step.name)
        if layer is not None:
            return self._graph.call_module(layer.name, (self._value(layer.given),))
        if step.operator == GETTING and self._is_layer(step.arguments[0]):
            return self._made[next(references(step.arguments, "value"))]
        target = operator_named(step.operator)
        arguments = tuple(self._value(each) for each in step.arguments)
        options: Mapping[str, Any] = {
            name: self._value(each) for name, each in step.options.items()
        }
        if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - it has no other name
            given = by_name(target, step.arguments, step.options)
            _require_evaluation(given)
            if "device" in given and not any(_all_references(step)):
                options = {**options, "device": self._device()}
        target, options = public_form(step.operator, options)
        return self._graph.call_function(target, arguments, dict(options))

    def _is_layer(self, value: Any) -> bool:
        return next(references(value, "value"), "") in self._layers

    def _device(self) -> fx.Node:
        first = next(iter(self._made.values()))
        return self._graph.call_function(getattr, (first, "device"))

    def _value(self, value: Any) -> Any:
        """Return an argument as a node of the graph has it."""
        if isinstance(value, (list, tuple)):
            return [self._value(each) for each in value]
        if not isinstance(value, Mapping):
            return value
        ((kind, content),) = value.items()
        return self._KINDS[kind](self, content)

    _KINDS: Mapping[str, Callable[[_Builder, Any], Any]] = {
        "value": lambda self, name: self._made[name],
        "tensor": lambda self, name: self._graph.get_attr(self._places[name]),
        "dtype": lambda _, word: _of(torch.dtype, word),
        "layout": lambda _, word: _of(torch.layout, word),
        "memory_format": lambda _, word: _of(torch.memory_format, word),
        "number": lambda _, word: float(word),
        "device": lambda self, _: self._device(),
        "tuple": lambda self, items: tuple(self._value(items)),
        "mapping": lambda self, items: {key: self._value(each) for key, each in items.items()},
    }


def _all_references(step: ProgramStep) -> Iterator[str]:
    for kind in ("value", "tensor"):
        yield from references(step.given, kind)


def _require_evaluation(given: Mapping[str, Any]) -> None:
    """Refuse operators that were recorded in training mode.

    Raises:
        ArchitectureError: an argument says so.
    """
    if given.get("train") or given.get("training") or given.get("dropout_p"):
        raise ArchitectureError(
            "the program was exported in training mode, and would go on training",
            tip="export it in evaluation mode: torch.export.export(network.eval(), …)",
        )


def _require_sizes(
    program: Program, _: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Make sure that inputs have the sizes that a program was made for.

    Raises:
        OptionError: they have others.
    """
    ordered = sorted(program.inputs, key=lambda own: own.keyword)
    given = {own.name: value for own, value in zip(ordered, args, strict=False)} | dict(kwargs)
    sizes: dict[str, int] = {}
    for own in ordered:
        tensor = given.get(own.name)
        if isinstance(tensor, Tensor) and not _fits(tensor, own, program.sizes, sizes):
            raise _refusal(own, tensor)


def _fits(
    tensor: Tensor, own: ProgramInput, bounds: Mapping[str, FreeSize], sizes: dict[str, int]
) -> bool:
    """Return whether an input has the sizes that it should, and note the free ones."""
    if tensor.ndim != len(own.shape):
        return False
    for extent, size in zip(own.shape, tensor.shape, strict=True):
        if isinstance(extent, int):
            expected = extent
        else:
            free = bounds[extent]
            if free.least > size or (free.most is not None and free.most < size):
                return False
            expected = sizes.setdefault(extent, size)
        if size != expected:
            return False
    return True


def _refusal(own: ProgramInput, tensor: Tensor) -> OptionError:
    shape = ", ".join(str(extent) for extent in own.shape)
    batch = own.shape[0] if own.shape else None
    tip = None
    if isinstance(batch, int) and tuple(tensor.shape[1:]) == own.shape[1:]:
        tip = (
            f"it was exported for batches of {batch}: --batch-size {batch}, --static-batch {batch}"
            "; or export it for any: torch.export.export(…, dynamic_shapes=…)"
        )
    return OptionError(
        f"the program takes {own.name} of shape [{shape}], not {list(tensor.shape)}", tip=tip
    )
