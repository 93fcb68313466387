"""The parts of PyTorch's serialised programs that are read, as forms of their JSON.

Source: torch/_export/serde/schema.py of PyTorch, schema version 8 (5 to 7 differ in nothing that
is read here). What is not listed is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from alds_cli.checkpoint.files import MalformedError, UnsupportedError

F = TypeVar("F", bound="_Part")

MAJOR_VERSIONS = range(5, 9)

Argument = Mapping[str, JsonValue]
"""An object whose only entry that is not null names the argument's kind: `{"as_int": 3}`."""

DTYPES: Mapping[int, str] = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
}
"""The names of types by their numbers."""

LAYOUTS: Mapping[int, str] = {7: "strided"}

MEMORY_FORMATS: Mapping[int, str] = {
    1: "contiguous_format",
    2: "channels_last",
    3: "channels_last_3d",
    4: "preserve_format",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, defer_build=True)


class MetaForm(_Part):
    """A tensor without its values; extents are `as_int` or `as_expr`."""

    dtype: int
    sizes: list[Argument]
    strides: list[Argument] = []
    storage_offset: Argument = {}
    layout: int = 7


class NamedForm(_Part):
    """An argument of an operator; kind 2 is one that is given by its name."""

    name: str
    arg: Argument
    kind: int | None = None


class StepForm(_Part):
    """The call of an operator."""

    target: str
    inputs: list[NamedForm]
    outputs: list[Argument]


class GraphForm(_Part):
    """Steps, what goes in and out, and what is known of tensors and sizes."""

    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[StepForm]
    tensor_values: dict[str, MetaForm]
    sym_int_values: dict[str, JsonValue]


class SignatureForm(_Part):
    """What the inputs and outputs of the graph stand for."""

    input_specs: list[dict[str, JsonValue]]
    output_specs: list[dict[str, JsonValue]]


class CallForm(_Part):
    """How arguments and results are nested; both are JSON within JSON."""

    in_spec: str
    out_spec: str


class ModuleForm(_Part):
    """A module of the network that was exported; the first is the network itself."""

    fqn: str
    signature: CallForm | None = None


class GraphModuleForm(_Part):
    """A graph with its signature."""

    graph: GraphForm
    signature: SignatureForm
    module_call_graph: list[ModuleForm]


class RangeForm(_Part):
    """Bounds of a free size."""

    min_val: int | None = None
    max_val: int | None = None


class VersionForm(_Part):
    """The version of the schema."""

    major: int
    minor: int


class ExportedForm(_Part):
    """A program."""

    graph_module: GraphModuleForm
    range_constraints: dict[str, RangeForm]
    schema_version: VersionForm


class PayloadForm(_Part):
    """Where a tensor's bytes are in the archive."""

    path_name: str
    use_pickle: bool
    tensor_meta: MetaForm | None = None


class PayloadsForm(_Part):
    """All tensors of a kind by name."""

    config: dict[str, PayloadForm]


class TreeForm(_Part):
    """The nesting of arguments or results; a type of null is a single value."""

    type: str | None = None
    context: str | None = None
    children_spec: list[TreeForm] = []


def read_form(kind: type[F], text: bytes, what: str) -> F:
    """Read JSON of a form.

    Raises:
        MalformedError: it is no JSON, or of another form.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise MalformedError(f"{what} is damaged at {where or 'its beginning'}") from error


def read_program_form(text: bytes) -> ExportedForm:
    """Read a program's JSON.

    Raises:
        MalformedError: it is damaged.
        UnsupportedError: it is of a version that is not known.
    """
    found = read_form(ExportedForm, text, "the program")
    version = found.schema_version
    if version.major not in MAJOR_VERSIONS:
        raise UnsupportedError(
            f"the program has schema {version.major}.{version.minor}; the versions "
            f"{MAJOR_VERSIONS[0]} to {MAJOR_VERSIONS[-1]} are read"
        )
    return found


def read_tree(text: str) -> TreeForm:
    """Read how arguments or results are nested.

    Raises:
        MalformedError: it is damaged.
    """
    # The text is a list of a version and the tree.
    version, comma, tree = text.strip().removeprefix("[").removesuffix("]").partition(",")
    if version.strip() != "1" or not comma:
        raise MalformedError("the program's arguments have a form that is not known")
    return read_form(TreeForm, tree.encode(), "the form of the program's arguments")


def only_entry(argument: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the kind of an argument, and its value.

    Raises:
        MalformedError: it has none, or several.
    """
    held = [(key, value) for key, value in argument.items() if value is not None]
    if len(held) != 1:
        raise MalformedError("an argument in the program is damaged")
    return held[0]


def named(value: Any) -> str:
    """Return the name in an object such as `{"name": "x"}`, or in `{"as_name": "x"}`.

    Raises:
        MalformedError: there is none.
    """
    found = value.get("name", value.get("as_name")) if isinstance(value, Mapping) else None
    if not isinstance(found, str):
        raise MalformedError("a name in the program is damaged")
    return found


def leaves(tree: TreeForm) -> Iterator[TreeForm]:
    """Yield the single values of a tree, in order."""
    if tree.type is None:
        yield tree
    for child in tree.children_spec:
        yield from leaves(child)


def word_of(words: Mapping[int, str], number: object) -> str:
    """Return the word that a number stands for.

    Raises:
        UnsupportedError: it stands for none.
    """
    found = words.get(number) if isinstance(number, int) else None
    if found is None:
        raise UnsupportedError("the program has tensors of a type that is not read")
    return found
