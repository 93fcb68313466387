"""The inputs of a network: tensors of stated shapes and types, in any arrangement.

Written as text, an input specification lists the arguments of `forward`::

    float[1,3,224,224]                                one image
    float[1,3,32,32], float[1,10]                     two positional arguments
    ids:int64[1,128]<30522, mask:int64[1,128]<2       keyword arguments
    {image:float[1,3,64,64], scale:float[1]}          one argument, a dictionary
    [float[3,224,224]]                                one argument, a list

A shape is that of the tensor given to the network, with the batch axis first. `float` is the
floating-point type of the network's own parameters. Whole numbers lie in [0, n) where `<n`
states that, else they are 0 or 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from alds_cli.errors import OptionError

GENERAL_FLOAT = "float"
"""The type that follows the network's parameters."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_WHOLE = ("uint8", "int8", "int16", "int32", "int64")
_COMPLEX = ("complex64", "complex128")
DTYPES = (GENERAL_FLOAT, *_FLOATS, *_COMPLEX, *_WHOLE, "bool")
"""The names of types that a tensor may have."""

MOST_ELEMENTS = 1 << 28
"""The most scalars of all tensors together: 1 GiB as float32, a thousand images."""

_MOST_TEXT = 4096
_MOST_DEPTH = 4
_MOST_AXES = 12

_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|[0-9]+|[\[\]{}():,<])")

EXAMPLE = "--input-spec 'ids:int64[1,128]<30522,mask:int64[1,128]'"


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A tensor that a network takes.

    Attributes:
        shape: the shape as the network gets it, including the batch axis.
        dtype: one of `DTYPES`.
        below: the exclusive upper bound of whole numbers; None stands for 2.
    """

    shape: tuple[int, ...]
    dtype: str = GENERAL_FLOAT
    below: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no tensor can have."""
        if self.dtype not in DTYPES:
            raise OptionError(
                f"an input of type '{self.dtype}' is not known", tip=f"types: {', '.join(DTYPES)}"
            )
        if len(self.shape) > _MOST_AXES or any(extent < 1 for extent in self.shape):
            raise OptionError(
                f"an input has at most {_MOST_AXES} axes of at least 1, not {list(self.shape)}"
            )
        if self.below is None:
            return
        if self.dtype not in _WHOLE:
            raise OptionError(f"<{self.below} makes no sense for an input of type {self.dtype}")
        if not 1 <= self.below <= torch.iinfo(getattr(torch, self.dtype)).max + 1:
            raise OptionError(f"<{self.below} is not within the range of {self.dtype}")

    @property
    def elements(self) -> int:
        """The number of scalars."""
        return prod(self.shape)

    @property
    def is_floating(self) -> bool:
        """Whether it holds real numbers."""
        return self.dtype == GENERAL_FLOAT or self.dtype in _FLOATS

    def __str__(self) -> str:
        """Write the input as a specification has it."""
        limit = "" if self.below is None else f"<{self.below}"
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{limit}"


@dataclass(frozen=True, slots=True)
class InputGroup:
    """Several inputs in one argument: a dictionary with a name for each, or a list."""

    kind: Literal["dict", "list"]
    items: tuple[tuple[str | None, InputValue], ...]

    def __str__(self) -> str:
        """Write the input as a specification has it."""
        opening, closing = "{}" if self.kind == "dict" else "[]"
        return f"{opening}{_listed(self.items)}{closing}"


InputValue = InputTensor | InputGroup


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The arguments of one forward pass, those without a name first."""

    arguments: tuple[tuple[str | None, InputValue], ...]

    def __post_init__(self) -> None:
        """Refuse arguments that Python cannot pass, and those that memory cannot hold."""
        names = [name for name, _ in self.arguments]
        if not names:
            raise OptionError("an input specification names at least one input", tip=EXAMPLE)
        given = [name for name in names if name is not None]
        if None in names[len(names) - len(given) :]:
            raise OptionError("inputs without a name come before those with one")
        _require_distinct(given)
        total = sum(tensor.elements for tensor in self.tensors())
        if total > MOST_ELEMENTS:
            raise OptionError(
                f"the inputs have {total:,} numbers; at most {MOST_ELEMENTS:,} are allowed"
            )

    def require_batch(self, samples: int) -> None:
        """Refuse batches of more than `MOST_ELEMENTS` numbers.

        Args:
            samples: the number of samples in a forward pass, the new extent of first axes of 1.

        Raises:
            OptionError: the batch is too large; the tip names the largest possible.
        """
        growing = sum(tensor.elements for tensor in self.tensors() if tensor.shape[:1] == (1,))
        fixed = sum(tensor.elements for tensor in self.tensors()) - growing
        if samples * growing + fixed > MOST_ELEMENTS and samples > 1:
            fitting = (MOST_ELEMENTS - fixed) // growing
            raise OptionError(
                f"a batch of {samples:,} inputs {self} has more than {MOST_ELEMENTS:,} numbers",
                tip=f"take {fitting:,} at most in one batch",
            )

    @classmethod
    def of_sample(cls, shape: tuple[int, ...]) -> InputSpec:
        """Make the inputs of one floating-point tensor from the shape of one sample."""
        return cls(((None, InputTensor((1, *shape))),))

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample if there is only one tensor of that kind; None otherwise."""
        if len(self.arguments) > 1:
            return None
        ((name, value),) = self.arguments
        if name is not None or not isinstance(value, InputTensor) or not value.is_floating:
            return None
        return value.shape[1:] if value.shape[:1] == (1,) and len(value.shape) > 1 else None

    def tensors(self) -> Iterator[InputTensor]:
        """Yield every tensor, in order."""
        for _, value in self.arguments:
            yield from _tensors(value)

    def __str__(self) -> str:
        """Write the specification as `parse_inputs` reads it."""
        return _listed(self.arguments)


def as_inputs(inputs: InputSpec | tuple[int, ...]) -> InputSpec:
    """Convert the shape of one sample to inputs; inputs are returned as they are."""
    return inputs if isinstance(inputs, InputSpec) else InputSpec.of_sample(inputs)


def inputs_tip(known: InputSpec | None) -> str:
    """Return a tip on how to state a network's inputs, none of which are known or accepted."""
    if known is None:
        return f"state its inputs: --input-shape C,H,W, or {EXAMPLE}"
    return f"if {known} is not what it takes, state its inputs with --input-shape or --input-spec"


def _tensors(value: InputValue) -> Iterator[InputTensor]:
    if isinstance(value, InputTensor):
        yield value
    else:
        for _, item in value.items:
            yield from _tensors(item)


def _listed(items: tuple[tuple[str | None, InputValue], ...]) -> str:
    return ",".join(str(value) if name is None else f"{name}:{value}" for name, value in items)


def _require_distinct(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"the input '{twice[0]}' is given twice")


def parse_inputs(text: str) -> InputSpec:
    """Read an input specification of the form shown at the head of the module.

    Raises:
        OptionError: it cannot be read; the message says where reading stopped.
    """
    if len(text) > _MOST_TEXT:
        raise OptionError(f"an input specification has at most {_MOST_TEXT} characters")
    reader = _Reader(text)
    arguments = reader.items(None)
    return InputSpec(arguments)


class _Reader:
    """A reader of specifications, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def items(
        self, closing: str | None, depth: int = 0
    ) -> tuple[tuple[str | None, InputValue], ...]:
        """Read entries up to the closing bracket or the end."""
        if depth > _MOST_DEPTH:
            raise self._refusal(f"at most {_MOST_DEPTH} brackets within one another")
        found = [self._item(depth)]
        while self._peek() == ",":
            self._take()
            found.append(self._item(depth))
        if self._peek() != closing:
            raise self._refusal(f"'{closing}' or a comma" if closing else "a comma or the end")
        if closing is not None:
            self._take()
        return tuple(found)

    def _item(self, depth: int) -> tuple[str | None, InputValue]:
        token = self._peek()
        if token in {"{", "["}:
            return None, self._group(depth)
        word = self._word("a type, a name or a bracket")
        if self._peek() != ":":
            return None, self._tensor(word)
        self._take()
        if self._peek() in {"{", "["}:
            return word, self._group(depth)
        return word, self._tensor(self._word("a type or a bracket"))

    def _group(self, depth: int) -> InputGroup:
        if self._take() == "[":
            items = self.items("]", depth + 1)
            if any(name is not None for name, _ in items):
                raise self._refusal("entries without names in a list")
            return InputGroup("list", items)
        items = self.items("}", depth + 1)
        names = [name for name, _ in items if name is not None]
        if len(names) < len(items):
            raise self._refusal("a name for every entry of a dictionary")
        _require_distinct(names)
        return InputGroup("dict", items)

    def _tensor(self, dtype: str) -> InputTensor:
        if self._peek() != "[":
            raise self._refusal(f"'[' and the shape after '{dtype}'")
        self._take()
        shape: list[int] = []
        while self._peek() != "]":
            if shape:
                self._expect(",")
            shape.append(self._number())
        self._take()
        below = None
        if self._peek() == "<":
            self._take()
            below = self._number()
        return InputTensor(tuple(shape), dtype, below)

    def _word(self, expected: str) -> str:
        token = self._peek()
        if token is None or not token.isidentifier():
            raise self._refusal(expected)
        return self._take()

    def _number(self) -> int:
        token = self._peek()
        if token is None or not token.isdecimal() or len(token) > 18:
            raise self._refusal("a whole number")
        return int(self._take())

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            raise self._refusal(f"'{token}'")
        self._take()

    def _peek(self) -> str | None:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            rest = self._text[self._at :].strip()
            return rest[:1] or None
        return match.group(1)

    def _take(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._refusal("something else")
        self._at = match.end()
        return match.group(1)

    def _refusal(self, expected: str) -> OptionError:
        rest = self._text[self._at :].strip()
        where = f"before '{rest[:20]}'" if rest else "at the end"
        return OptionError(
            f"the input specification cannot be read: expected {expected} {where}",
            tip=f"write it as in {EXAMPLE}",
        )


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of a call of a network."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, network: Callable[..., Any]) -> Any:
        """Call the network, and return its result."""
        return network(*self.args, **self.kwargs)


def example_call(
    inputs: InputSpec,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    widen: torch.dtype | None = None,
    seed: int = 0,
) -> Call:
    """Make random tensors to call a network with; on the meta device they have no values.

    Real and complex numbers are drawn from the standard normal distribution, whole ones
    uniformly from their range.

    Args:
        inputs: the network's inputs.
        dtype: the network's own floating-point type; see `floating_type`.
        device: the device of the tensors.
        batch_size: the number of samples, the new extent of first axes of 1.
        widen: the type to give to all real numbers, whatever the specification says.
        seed: the seed of the random numbers.

    Raises:
        OptionError: the batch takes more memory than it should.
    """
    inputs.require_batch(batch_size)
    generator = torch.Generator().manual_seed(seed)

    def make(value: InputValue) -> Any:
        if isinstance(value, InputTensor):
            drawn = _random(value, dtype, torch.device(device), batch_size, generator)
            return drawn.to(widen) if widen is not None and value.is_floating else drawn
        if value.kind == "list":
            return [make(item) for _, item in value.items]
        return {name: make(item) for name, item in value.items}

    made = [(name, make(value)) for name, value in inputs.arguments]
    return Call(
        tuple(value for name, value in made if name is None),
        {name: value for name, value in made if name is not None},
    )


def _random(
    tensor: InputTensor,
    network_type: torch.dtype,
    device: torch.device,
    batch_size: int,
    generator: torch.Generator,
) -> Tensor:
    dtype = network_type if tensor.dtype == GENERAL_FLOAT else getattr(torch, tensor.dtype)
    shape = tensor.shape
    if batch_size > 1 and shape[:1] == (1,):
        shape = (batch_size, *shape[1:])
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    if tensor.is_floating or dtype.is_complex:
        drawn = torch.randn(
            shape, dtype=dtype if dtype.is_complex else torch.float32, generator=generator
        )
        return drawn.to(device, dtype)
    drawn = torch.randint(0, tensor.below or 2, shape, generator=generator)
    return drawn.to(device, dtype)
