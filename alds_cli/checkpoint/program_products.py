"""Linear layers that `run_decompositions()` made batched products and sums, as they were before.

A layer on several axes becomes a `bmm` with its matrix repeated for every matrix of the batch, and
its bias a sum of its own. Repeated, the matrix would be no parameter any more but a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from alds_cli.records import Program, ProgramStep, ProgramTensor, references

_REPEATING = frozenset({"aten.expand.default", "aten.view.default", "aten._unsafe_view.default"})
"""Operators that give a tensor other axes before the last ones, by its new extents."""

_MOST_STEPS = 4
"""The most operators that repeat one matrix; in a damaged file they could go round for ever."""

_EXCHANGES: Mapping[str, tuple[Any, ...]] = {
    "aten.t.default": ((),),
    "aten.numpy_T.default": ((),),
    "aten.permute.default": (([1, 0],),),
    "aten.transpose.int": ((0, 1), (1, 0), (-1, -2), (-2, -1)),
}
"""What exchanges the axes of a matrix, with its arguments beside the matrix."""

_MATRIX_AXES = 2

_PRODUCT = "aten.matmul.default"

_UNBIASED = frozenset({_PRODUCT, "aten.mm.default"})


def with_linear_layers(program: Program) -> Program:
    """Return a program of the same results that calls linear layers as linear layers.

    Each product of a batch with one repeated matrix becomes a product with that matrix, and a
    vector of parameters added to the result of a product becomes its bias.
    """
    found = _Products(program)
    return replace(program, steps=tuple(found.steps()))


class _Products:
    """The products among a program's steps.

    Args:
        program: the program.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._steps = {step.name: step for step in program.steps}
        self._uses = Counter(name for _, name in program.uses_of("value"))
        self._uses.update(references(program.output, "value"))

    def steps(self) -> Iterator[ProgramStep]:
        """Yield the steps, those of linear layers in the place of what stood for them."""
        for step in self._program.steps:
            self._steps[step.name] = self._with_one_matrix(step)
        biased = {step.name: found for step in self._program.steps if (found := self._biased(step))}
        gone = {product.name for _, product, _ in biased.values()}
        for step in self._program.steps:
            if step.name in biased:
                yield from self._layer(step, *biased[step.name])
            elif step.name not in gone:
                yield self._steps[step.name]

    def _with_one_matrix(self, step: ProgramStep) -> ProgramStep:
        """Return a batched product as one with the matrix that its batch repeats, if it does."""
        if step.operator != "aten.bmm.default":
            return step
        first, second = step.arguments
        matrix = self._repeated(second)
        if matrix is None:
            return step
        return replace(step, operator=_PRODUCT, arguments=(first, matrix))

    def _repeated(self, value: Any) -> Any:
        """Return the matrix that a tensor holds again and again; None if it holds others."""
        extents: list[tuple[Any, ...]] = []
        for _ in range(_MOST_STEPS):
            step = self._made(value)
            if step is None or step.operator not in _REPEATING:
                break
            value, sizes = step.arguments[:2]
            extents.append(tuple(_sizes(sizes)[-_MATRIX_AXES:]))
        matrix = self._matrix(value)
        held = matrix is not None and extents and all(each == matrix.shape for each in extents)
        return value if held else None

    def _made(self, value: Any) -> ProgramStep | None:
        name = value.get("value") if isinstance(value, Mapping) else None
        return self._steps.get(name) if isinstance(name, str) else None

    def _matrix(self, value: Any) -> ProgramTensor | None:
        """Return what is known of a matrix of parameters, whose axes may be exchanged."""
        step = self._made(value)
        exchanged = step is not None and exchanges_axes(step)
        tensor = self._trained(step.arguments[0] if step is not None and exchanged else value)
        if tensor is None or len(tensor.shape) != _MATRIX_AXES:
            return None
        return replace(tensor, shape=tensor.shape[:: -1 if exchanged else 1])

    def _trained(self, value: Any) -> ProgramTensor | None:
        """Return what is known of a parameter; None of all else."""
        name = value.get("tensor") if isinstance(value, Mapping) else None
        tensor = self._program.tensors.get(name) if isinstance(name, str) else None
        return tensor if tensor is not None and tensor.trained else None

    def _biased(self, step: ProgramStep) -> tuple[ProgramStep | None, ProgramStep, Any] | None:
        """Return what lies behind a sum that adds a bias to the result of a product.

        Returns:
            What gives the product other axes, if anything does; the product; the bias.
        """
        if step.operator != "aten.add.Tensor" or step.options or len(step.arguments) != 2:
            return None
        result, bias = step.arguments
        shaping = self._made(result)
        if shaping is not None and shaping.operator in _REPEATING and self._uses[shaping.name] == 1:
            product = self._made(shaping.arguments[0])
        else:
            product, shaping = shaping, None
        if product is None or product.operator not in _UNBIASED or self._uses[product.name] != 1:
            return None
        matrix, added = self._matrix(product.arguments[1]), self._trained(bias)
        if matrix is None or added is None or added != replace(matrix, shape=matrix.shape[1:]):
            return None
        # Only axes before the features may be others than the product's.
        kept = shaping is None or _sizes(shaping.arguments[1])[-1:] == [*added.shape]
        return (shaping, product, bias) if kept else None

    def _layer(
        self, step: ProgramStep, shaping: ProgramStep | None, product: ProgramStep, bias: Any
    ) -> Iterator[ProgramStep]:
        """Yield a linear layer and what gives its result other axes, in the place of a sum."""
        first, matrix = product.arguments
        exchanged = self._made(matrix)
        if exchanged is not None:
            weight = exchanged.arguments[0]
        else:
            turned = ProgramStep(
                f"{product.name}_weight", "aten.t.default", (matrix,), axes=_MATRIX_AXES
            )
            yield turned
            weight = {"value": turned.name}
        name = product.name if shaping is not None else step.name
        yield ProgramStep(name, "aten.linear.default", (first, weight, bias), axes=product.axes)
        if shaping is not None:
            yield replace(shaping, name=step.name)


def exchanges_axes(step: ProgramStep) -> bool:
    """Return whether a step exchanges the axes of what it is given, if that is a matrix."""
    return step.arguments[1:] in _EXCHANGES.get(step.operator, ())


def _sizes(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
