"""How the factors of a layer's pair are made."""

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
    """One layer that becomes a pair, and all that its factors may be made from.

    Attributes:
        spec: the layer.
        choice: scheme, k and j of the pair.
        weight: (f, c/g, κ…) of the layer, in its own type; not to be changed.
        bias: (f,), or None.
        seed: the plan's, of everything random.
        arguments: the method's own, where they are not the usual ones.
        statistics: what the method needs to know of the layer's behaviour on images, by the
            names of its `Method.needs`.
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
    """What takes a layer's place.

    Attributes:
        tensors: the halves' weights, shaped as `numerics.fold.pair_shapes` says and rounded to
            the layer's type, and what the pair's form holds beside them.
        constant: (f,) in float64, to be added to what the layer gives in evaluation mode; None
            where nothing is.
        absorber: the module that the constant goes to: the layer itself into its bias, or a batch
            normalisation into its running mean.
    """

    tensors: tuple[Tensor, ...]
    constant: Tensor | None = None
    absorber: str | None = None


class Factorisation(Protocol):
    """Makes the factors of one pair after another, on several threads."""

    @property
    def schemes(self) -> Sequence[int]:
        """Those of the pairs that it makes."""
        ...

    @property
    def tabled(self) -> bool:
        """Whether its factors are those of the error tables, whose bounds hold of them then."""
        ...

    def complaint(self, choice: Choice) -> str | None:
        """Why it makes no such pair; None where it does."""
        ...

    def nbytes(self, task: FactorTask) -> int:
        """About how much memory making the factors takes."""
        ...

    def __call__(self, task: FactorTask) -> Factors:
        """Make them, on the CPU: the same bits for the same task, given one BLAS thread."""
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
        """About what a Gram matrix of the layer and its eigenvectors take."""
        rows, channels, width = fold(task.weight, task.choice.scheme).shape
        return 3 * 8 * min(rows // task.spec.groups, channels * width) ** 2

    def __call__(self, task: FactorTask) -> Factors:
        """Fold, and decompose slice by slice."""
        weight, choice, groups = task.weight, task.choice, task.spec.groups
        matrix = fold(weight, choice.scheme)
        left, right = low_rank_factors(matrix, choice.k, choice.j, weight.dtype, groups)
        shape = tuple(weight.shape)
        return Factors(factors_to_weights(left, right, shape, choice.scheme, groups))
