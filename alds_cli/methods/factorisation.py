"""The task and the protocol of making the factors of a layer's pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from alds_cli.numerics.factors import low_rank_factors
from alds_cli.numerics.fold import factors_to_weights, fold
from alds_cli.records import ArgumentValue, Choice, LayerSpec
from alds_cli.schemes import SLICED


@dataclass(frozen=True, slots=True)
class FactorTask:
    """One layer that becomes a pair, with everything that its factors may be made from.

    Attributes:
        spec: the layer.
        choice: scheme, k and j of the pair.
        weight: the layer's weight, (f, c/g, κ…), in its own type; not to be changed.
        bias: the layer's bias, (f,), or None.
        seed: the plan's seed, for everything random.
        arguments: the method's arguments, where they differ from the defaults.
        statistics: the statistics of the layer's behaviour on images that the method needs, by
            the names in its `Method.needs`.
    """

    spec: LayerSpec
    choice: Choice
    weight: Tensor
    bias: Tensor | None = None
    seed: int = 0
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Factors:
    """The tensors and the constant that replace a layer.

    Attributes:
        tensors: the halves' weights, with the shapes of `numerics.fold.pair_shapes` and rounded to
            the layer's type, then whatever else the pair's form holds.
        constant: a constant in float64 to add to the layer's output in evaluation mode, (f,); None
            where there is none.
        absorber: the module that takes the constant: the layer itself into its bias, or a batch
            normalisation into its running mean.
    """

    tensors: tuple[Tensor, ...]
    constant: Tensor | None = None
    absorber: str | None = None


class Factorisation(Protocol):
    """A way to make the factors of pairs, called for one pair after another on several threads."""

    @property
    def schemes(self) -> Sequence[int]:
        """The schemes of the pairs that it makes."""
        ...

    @property
    def tabled(self) -> bool:
        """Whether its factors are those of the error tables, so that the tables' bounds hold."""
        ...

    def complaint(self, choice: Choice) -> str | None:
        """Return why it cannot make such a pair; None where it can."""
        ...

    def nbytes(self, task: FactorTask) -> int:
        """Return the approximate bytes of memory that making the factors takes."""
        ...

    def __call__(self, task: FactorTask) -> Factors:
        """Make the factors on the CPU: the same bits for the same task, on one BLAS thread."""
        ...


class SvdOfSlices:
    """The best approximation of every slice, by its singular value decomposition."""

    schemes = SLICED
    tabled = True

    def complaint(self, choice: Choice) -> str | None:
        """Return None: every slice has singular vectors."""
        del choice
        return None

    def nbytes(self, task: FactorTask) -> int:
        """Return the approximate bytes of a Gram matrix of the layer and its eigenvectors."""
        rows, channels, width = fold(task.weight, task.choice.scheme).shape
        return 3 * 8 * min(rows // task.spec.groups, channels * width) ** 2

    def __call__(self, task: FactorTask) -> Factors:
        """Fold the weight and decompose it slice by slice."""
        weight, choice, groups = task.weight, task.choice, task.spec.groups
        matrix = fold(weight, choice.scheme)
        left, right = low_rank_factors(matrix, choice.k, choice.j, weight.dtype, groups)
        shape = tuple(weight.shape)
        return Factors(factors_to_weights(left, right, shape, choice.scheme, groups))
