"""PyTorch's serialised programs as `Program` records: only names, numbers and words are taken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from alds_cli.checkpoint.files import MalformedError, UnsupportedError
from alds_cli.checkpoint.program_products import with_linear_layers
from alds_cli.checkpoint.program_schema import (
    DTYPES,
    Argument,
    ExportedForm,
    MetaForm,
    RangeForm,
    TreeForm,
    leaves,
    named,
    only_entry,
    read_tree,
    word_of,
)
from alds_cli.checkpoint.program_steps import Values, steps_of
from alds_cli.records import FreeSize, Program, ProgramInput, ProgramStep, ProgramTensor

_OWN_BOUND = 2

_LISTS = frozenset({"builtins.list", "torch.fx.immutable_collections.immutable_list"})
"""The second is what programs give that were exported from a graph."""

_SYMBOL = re.compile(r"(?:Symbol\(')?([A-Za-z_][A-Za-z0-9_]*)(?:'[^)]*\))?")


def program_of(form: ExportedForm) -> Program:
    """Return the program that a file holds.

    Raises:
        MalformedError: it does not hang together.
        UnsupportedError: it does what is not supported, such as changing its buffers.
    """
    graph, signature = form.graph_module.graph, form.graph_module.signature
    called = next(
        (own.signature for own in form.graph_module.module_call_graph if not own.fqn), None
    )
    if called is None:
        raise MalformedError("the program does not say how it is called")
    tensors: dict[str, str] = {}
    trained: set[str] = set()
    given: list[str | None] = []
    for spec in signature.input_specs:
        kind, content = only_entry(spec)
        if kind == "user_input":
            given.append(named(dict(content["arg"]).get("as_tensor")))
        elif kind == "constant_input":
            given.append(None)
        else:
            name = _tensor_named(kind, content)
            tensors[named(content["arg"])] = name
            if kind == "parameter":
                trained.add(name)
    values = Values(tensors)
    steps = list(steps_of(graph, values))
    metas = graph.tensor_values
    known = [(each, metas[each]) for each in given if each is not None and each in metas]
    ranges = form.range_constraints
    program = Program(
        tensors={name: _tensor(metas, value, name in trained) for value, name in tensors.items()},
        inputs=_with_bounds(_inputs(called.in_spec, given, metas), steps, tensors, metas),
        sizes=dict(_sizes([meta for _, meta in known], ranges)),
        steps=tuple(steps),
        output=_output(called.out_spec, signature.output_specs, values),
    )
    return _held(with_linear_layers(program))


def _held(program: Program) -> Program:
    """Check everything in the record, as it comes from a file.

    Raises:
        MalformedError: a name or a number in it is not of its kind.
    """
    kind = TypeAdapter(Program)
    try:
        return kind.validate_json(kind.dump_json(program, warnings=False), strict=True)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        raise MalformedError(f"the program is damaged at {place[:80]}") from error


def _tensor_named(kind: str, content: Mapping[str, Any]) -> str:
    """Return the name of a parameter, a buffer or a constant.

    Raises:
        UnsupportedError: the input is an object of another kind.
    """
    entry = {
        "parameter": "parameter_name",
        "buffer": "buffer_name",
        "tensor_constant": "tensor_constant_name",
    }.get(kind)
    if entry is None:
        raise UnsupportedError("the program holds objects of classes that only their code can make")
    return str(content[entry])


def _tensor(metas: Mapping[str, MetaForm], value: str, trained: bool) -> ProgramTensor:
    meta = metas.get(value)
    if meta is None:
        raise MalformedError(f"the program does not say what {value:.60} is")
    shape = tuple(fixed_extent(extent) for extent in meta.sizes)
    return ProgramTensor(shape, dtype_of(meta), trained)


def fixed_extent(extent: Argument) -> int:
    """Return an extent that may not be free.

    Raises:
        MalformedError: it is.
    """
    kind, value = only_entry(extent)
    if kind != "as_int" or type(value) is not int or value < 0:
        raise MalformedError("a tensor of the program has no fixed shape")
    return value


def dtype_of(meta: MetaForm) -> str:
    """Return the name of a tensor's type.

    Raises:
        UnsupportedError: it is not known.
    """
    return word_of(DTYPES, meta.dtype)


def _inputs(
    nesting: str, given: Sequence[str | None], metas: Mapping[str, MetaForm]
) -> list[ProgramInput]:
    """Return the tensors that the program is called with.

    Raises:
        UnsupportedError: they are within lists or dictionaries.
    """
    tree = read_tree(nesting)
    if len(tree.children_spec) != 2 or len(list(leaves(tree))) != len(given):
        raise MalformedError("the program's arguments do not fit its graph")
    positional, keyword = tree.children_spec
    names = [None] * len(positional.children_spec) + list(_keys(keyword))
    places = [*positional.children_spec, *keyword.children_spec]
    if any(place.type is not None for place in places):
        raise UnsupportedError(
            "the program takes tensors within lists, tuples or dictionaries; export it with an "
            "argument for each"
        )
    return [
        _input(value, name, metas)
        for value, name in zip(given, names, strict=True)
        if value is not None
    ]


def _keys(tree: TreeForm) -> list[str]:
    """Return the names by which a tree holds its children."""
    try:
        found = json.loads(tree.context or "null")
    except ValueError:
        found = None
    if not isinstance(found, list) or len(found) != len(tree.children_spec):
        raise UnsupportedError(f"the program gives or takes a {tree.type}, which is not known")
    return [str(key) for key in found]


def _input(value: str, name: str | None, metas: Mapping[str, MetaForm]) -> ProgramInput:
    meta = metas.get(value)
    if meta is None:
        raise MalformedError(f"the program does not say what {value:.60} is")
    shape = tuple(_extent(extent) for extent in meta.sizes)
    return ProgramInput(name or value, dtype_of(meta), shape, keyword=name is not None)


def _extent(extent: Argument) -> int | str:
    """Return a fixed extent, or the name of a free size; what depends on others is fixed."""
    kind, value = only_entry(extent)
    if kind != "as_expr":
        return fixed_extent(extent)
    symbol = _SYMBOL.fullmatch(str(value.get("expr_str")))
    return symbol[1] if symbol else _example(extent)


def _example(extent: Argument) -> int:
    """Return the size that a free extent had when the program was made."""
    _, expression = only_entry(extent)
    found = dict(expression.get("hint") or {}).get("as_int")
    return found if isinstance(found, int) else 2


def _sizes(
    metas: Iterable[MetaForm], ranges: Mapping[str, RangeForm]
) -> Iterator[tuple[str, FreeSize]]:
    """Yield the free sizes of the inputs."""
    for meta in metas:
        for extent in meta.sizes:
            name = _extent(extent)
            if isinstance(name, str):
                bounds = ranges.get(name, RangeForm())
                least = bounds.min_val or 0
                # A bound of 2 is PyTorch's own, which does not keep to it.
                least = least if least > _OWN_BOUND else 0
                yield name, FreeSize(_example(extent), least, bounds.max_val)


def _with_bounds(
    inputs: Iterable[ProgramInput],
    steps: Iterable[ProgramStep],
    tensors: Mapping[str, str],
    metas: Mapping[str, MetaForm],
) -> tuple[ProgramInput, ...]:
    """State how large the numbers may be that are looked up in an embedding."""
    rows = {
        name: fixed_extent(metas[value].sizes[0])
        for value, name in tensors.items()
        if metas[value].sizes
    }
    below: dict[str, int] = {}
    for step in steps:
        if step.operator == "aten.embedding.default" and len(step.arguments) > 1:
            weight, places = (dict(cast("Any", each)) for each in step.arguments[:2])
            if weight.get("tensor") in rows and "value" in places:
                below[places["value"]] = rows[weight["tensor"]]
    return tuple(replace(own, below=below.get(own.name)) for own in inputs)


def _output(nesting: str, specs: Sequence[Mapping[str, Any]], values: Values) -> Any:
    """Return what the program gives, nested as it gives it.

    Raises:
        UnsupportedError: it changes its buffers or inputs, or gives objects of other classes.
    """
    found: list[Any] = []
    for spec in specs:
        kind, content = only_entry(spec)
        if kind != "user_output":
            raise UnsupportedError(_change(kind, content))
        found.append(values.of(content["arg"]))
    tree = read_tree(nesting)
    if len(list(leaves(tree))) != len(found):
        raise MalformedError("the program's results do not fit its graph")
    return _nested(tree, iter(found))


def _change(kind: str, content: Mapping[str, Any]) -> str:
    """Return the complaint about a program that changes a tensor whenever it runs."""
    changed = next((str(each) for each in content.values() if isinstance(each, str)), "")
    told = f"the program has a {kind.replace('_', ' ')}: it changes {changed[:60] or 'an input'}"
    return (
        f"{told} whenever it runs; export the network in evaluation mode, "
        "torch.export.export(network.eval(), …), and without code that counts or remembers"
    )


def _nested(tree: TreeForm, values: Iterator[Any]) -> Any:
    if tree.type is None:
        return next(values)
    if tree.type in _LISTS:
        return [_nested(child, values) for child in tree.children_spec]
    if tree.type in {"builtins.tuple", "collections.namedtuple"}:
        return {"tuple": [_nested(child, values) for child in tree.children_spec]}
    keys = _keys(tree)
    return {
        "mapping": {
            key: _nested(child, values) for key, child in zip(keys, tree.children_spec, strict=True)
        }
    }
