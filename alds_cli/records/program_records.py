"""Programs of `torch.export`: a network's graph as plain values, with neither code nor tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Le, Len
from pydantic import Field, JsonValue

from alds_cli.forms import Count, Name, Positive
from alds_cli.records.plans_and_layers import Architecture

MOST_STEPS = 1 << 18
"""The most steps of a program: more than those of the largest networks."""

_WORD = "[A-Za-z0-9_]{1,200}"

Dotted = Annotated[str, Field(pattern=rf"^{_WORD}(\.{_WORD}){{0,40}}$")]
"""The name of a tensor, a step or an operator; nothing else can be written into code."""

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,200}$")]

Axes = Annotated[int, Le(64)]

Shape = Annotated[tuple[Count | Variable, ...], Len(0, 64)]
"""Extents of a tensor; one in words is a free size of the program's."""


@dataclass(frozen=True, slots=True)
class ProgramTensor:
    """A parameter, a buffer or a constant that a program reads."""

    shape: Annotated[tuple[Count, ...], Len(0, 64)]
    dtype: Variable
    trained: bool


@dataclass(frozen=True, slots=True)
class ProgramInput:
    """A tensor that a program is called with.

    `keyword` is whether it is given by its name; `below` the exclusive upper bound of whole
    numbers, as far as that is known.
    """

    name: Variable
    dtype: Variable
    shape: Shape
    keyword: bool = False
    below: Positive | None = None


@dataclass(frozen=True, slots=True)
class FreeSize:
    """An extent that may differ from call to call, with its bounds and an example."""

    example: Count
    least: Count = 0
    most: Count | None = None


@dataclass(frozen=True, slots=True)
class ProgramStep:
    """The call of an operator.

    Arguments are plain values, lists of them, and objects of one entry: `{"value": NAME}` is the
    result of a step or an input, `{"tensor": NAME}` a tensor; `{"dtype": …}`, `{"layout": …}`,
    `{"memory_format": …}` and `{"number": "inf"}` are what JSON has no words for, and
    `{"device": true}` is the network's device. `axes` is the number of axes of the result, where
    that is a tensor.
    """

    name: Variable
    operator: Dotted
    arguments: Annotated[tuple[JsonValue, ...], Len(0, 64)] = ()
    options: Mapping[Variable, JsonValue] = field(default_factory=dict)
    axes: Axes | None = None

    @property
    def given(self) -> tuple[JsonValue, ...]:
        """All arguments, those by name among them."""
        return (*self.arguments, *self.options.values())


@dataclass(frozen=True, slots=True)
class Program:
    """A network's graph.

    `output` is built like an argument, with `{"tuple": […]}` and `{"mapping": {…}}` in addition.
    """

    tensors: Mapping[Dotted, ProgramTensor]
    inputs: Annotated[tuple[ProgramInput, ...], Len(1, 256)]
    sizes: Mapping[Variable, FreeSize]
    steps: Annotated[tuple[ProgramStep, ...], Len(1, MOST_STEPS)]
    output: JsonValue

    def uses_of(self, kind: str) -> Iterator[tuple[ProgramStep, str]]:
        """Yield every use of a `value` or a `tensor` by a step, with its name."""
        for step in self.steps:
            for name in references(step.given, kind):
                yield step, name


def references(value: object, kind: str) -> Iterator[str]:
    """Yield the names of all values, or of all tensors, within an argument."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item, kind)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == kind and isinstance(item, str):
                yield item
            else:
                yield from references(item, kind)


PROGRAM = "program"
"""What stands for an architecture's name."""


@dataclass(frozen=True, slots=True)
class ProgramArchitecture(Architecture):
    """A network that is built by its graph alone."""

    name: Name = PROGRAM
    graph: Program = field(kw_only=True)
