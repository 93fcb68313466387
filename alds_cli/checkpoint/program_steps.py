"""The steps of PyTorch's serialised programs, and the values that they are given."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from alds_cli.checkpoint.files import MalformedError, UnsupportedError
from alds_cli.checkpoint.program_schema import (
    DTYPES,
    LAYOUTS,
    MEMORY_FORMATS,
    Argument,
    GraphForm,
    StepForm,
    named,
    only_entry,
    read_form,
    word_of,
)
from alds_cli.records import ProgramStep

_GRADIENTS = "torch.ops.higher_order.wrap_with_set_grad_enabled"
_AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"

_IDLE = ("torch.ops.aten._assert_", "torch.ops.aten.sym_constrain_range")
"""Beginnings of the names of operators that only check what held when the program was made."""

_MOST_LEVELS = 20

_BY_NAME = 2
"""The kind of an argument that is given by its name."""

_PLAIN = frozenset(
    ("as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_strings", "as_int_lists")
)

_IN_WORDS = {
    "as_scalar_type": ("dtype", DTYPES),
    "as_layout": ("layout", LAYOUTS),
    "as_memory_format": ("memory_format", MEMORY_FORMATS),
}

_NOT_FINITE = {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}


class Values:
    """What the names in a graph stand for.

    Args:
        tensors: the names of parameters, buffers and constants by those that the graph has for
            them.
    """

    def __init__(self, tensors: Mapping[str, str]) -> None:
        self._known: dict[str, Any] = {
            value: {"tensor": tensor} for value, tensor in tensors.items()
        }
        self._level = 0
        self._count = itertools.count()

    def within(self, known: Mapping[str, Any]) -> Values:
        """Return what names stand for in a graph within this one.

        Raises:
            MalformedError: there are too many graphs around it.
        """
        if self._level == _MOST_LEVELS:
            raise MalformedError("the program's graphs are nested too deeply")
        inner = Values({})
        inner._known = dict(known)
        inner._level = self._level + 1
        inner._count = self._count
        return inner

    def made(self, name: str) -> str:
        """Return the name that a result has in the whole program."""
        if not self._level:
            return name
        own = f"inner_{next(self._count)}"
        self._known[name] = {"value": own}
        return own

    def set(self, name: str, value: Any) -> None:
        """Let a name stand for a value."""
        self._known[name] = value

    def _named(self, holder: Any) -> Any:
        name = named(holder)
        return self._known.get(name, {"value": name})

    def of(self, argument: Argument) -> Any:
        """Return an argument as a `ProgramStep` has it.

        Raises:
            MalformedError: it is damaged.
            UnsupportedError: it is an object of a class, or a graph.
        """
        kind, value = only_entry(argument)
        if kind in _PLAIN:
            return value
        if kind in _IN_WORDS:
            word, words = _IN_WORDS[kind]
            return {word: word_of(words, value)}
        return self._further(kind, value)

    def _further(self, kind: str, value: Any) -> Any:
        match kind:
            case "as_none":
                return None
            case "as_device":
                return {"device": True}
            case "as_float":
                return _number(value)
            case "as_floats":
                return [_number(each) for each in value]
            case "as_tensor":
                return self._named(value)
            case "as_tensors":
                return [self._named(each) for each in value]
            case "as_optional_tensor" | "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return self._one(value)
            case "as_optional_tensors" | "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return [self._one(each) for each in value]
        raise UnsupportedError(f"the program holds what is not read ({kind:.40})")

    def _one(self, value: Any) -> Any:
        """Return one of several kinds: a name, or what stands in its place."""
        kind, content = only_entry(value)
        return self._named(value) if kind == "as_name" else self.of({kind: content})


def _number(value: object) -> Any:
    return {"number": _NOT_FINITE[value]} if value in _NOT_FINITE else value


def steps_of(graph: GraphForm, values: Values) -> Iterator[ProgramStep]:
    """Yield the steps of a graph, those of graphs within it among them."""
    for step in graph.nodes:
        if step.target in {_GRADIENTS, _AUTOCAST}:
            yield from _unwrapped(step, values)
        elif not step.target.startswith(_IDLE):
            yield from _made(step, graph, values)


def _made(step: StepForm, graph: GraphForm, values: Values) -> Iterator[ProgramStep]:
    """Yield a step, and those that take its several results apart."""
    named_only = _given_by_name(step)
    arguments = tuple(values.of(each.arg) for each in step.inputs if each.name not in named_only)
    options = {each.name: values.of(each.arg) for each in step.inputs if each.name in named_only}
    given = _results(step)
    results = [values.made(name) for name in given]
    operator = step.target.removeprefix("torch.ops.").removeprefix("_")
    axes = [len(meta.sizes) if (meta := graph.tensor_values.get(name)) else None for name in given]
    if len(results) == 1 and "as_tensors" not in step.outputs[0]:
        yield ProgramStep(results[0], operator, arguments, options, axes[0])
    elif results:
        whole = f"all_{results[0]}"
        yield ProgramStep(whole, operator, arguments, options)
        for place, name in enumerate(results):
            yield ProgramStep(name, "operator.getitem", ({"value": whole}, place), axes=axes[place])


def _given_by_name(step: StepForm) -> frozenset[str]:
    """Return the arguments that a step gives by their names.

    PyTorch before 2.7 does not write which these are: those that the operator takes in no other
    way.
    """
    if any(each.kind is not None for each in step.inputs):
        return frozenset(each.name for each in step.inputs if each.kind == _BY_NAME)
    namespace, _, rest = step.target.removeprefix("torch.ops.").partition(".")
    packet, _, overload = rest.partition(".")
    if namespace != "aten":
        return frozenset()
    operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    schema = getattr(operator, "_schema", None)
    if schema is None:
        return frozenset()
    return frozenset(each.name for each in schema.arguments if each.kwarg_only)


def _results(step: StepForm) -> list[str]:
    """Return the names of all that a step gives."""
    found: list[str] = []
    for output in step.outputs:
        kind, content = only_entry(output)
        found += [named(each) for each in (content if kind == "as_tensors" else [content])]
    return found


def _unwrapped(step: StepForm, values: Values) -> Iterator[ProgramStep]:
    """Yield the steps of a graph that only turns gradients or autocast off.

    Raises:
        UnsupportedError: it turns autocast on.
    """
    arguments = [only_entry(each.arg) for each in step.inputs]
    kinds = [kind for kind, _ in arguments]
    if "as_graph" not in kinds:
        raise MalformedError("a graph within the program is missing")
    place = kinds.index("as_graph")
    if step.target == _AUTOCAST and ("as_bool", False) not in arguments[:place]:
        raise UnsupportedError("the program uses autocast; export it without")
    text = json.dumps(arguments[place][1].get("graph")).encode()
    graph = read_form(GraphForm, text, "a graph within the program")
    given = [values.of(each.arg) for each in step.inputs[place + 1 :]]
    names = [named(only_entry(each)[1]) for each in graph.inputs]
    inner = values.within(dict(zip(names, given, strict=False)))
    yield from steps_of(graph, inner)
    for name, output in zip(_results(step), graph.outputs, strict=False):
        values.set(name, inner.of(output))
