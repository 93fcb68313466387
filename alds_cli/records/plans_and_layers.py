"""Networks, their layers, the layers' error tables, and plans of what becomes of the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le, Len
from numpy.typing import NDArray

from alds_cli.forms import (
    MOST_CHANNELS,
    MOST_PIXELS,
    PLAIN,
    ArgumentName,
    Count,
    Finite,
    Name,
    Pixels,
    Positive,
    Real,
    Term,
)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A folding scheme: which kernel axes join the output channels in the rows.

    Attributes:
        name: in a word.
        row_axes: None means all of them.
        dimensions: of the kernels that it folds; None allows any.
        sliced: whether the k parts are slices of neighbouring channels. Error tables know of no
            other parts.
        label: what a report calls it beside k and j; empty for the usual scheme.
        sign: the same in a letter, for figures.
    """

    name: str
    row_axes: tuple[int, ...] | None
    dimensions: int | None = None
    sliced: bool = True
    label: str = ""
    sign: str = ""


OPERATOR = 0
"""The scheme of the paper: its matrix maps the patches that a layer sees to what the layer gives,
so that the matrix's norm is the layer's own."""

CLUSTERED = 4
"""The scheme that folds as 0 does, but gathers the columns into k clusters of any size."""

SCHEMES: Mapping[int, Scheme] = MappingProxyType(
    {
        OPERATOR: Scheme("encode", ()),
        1: Scheme("split-height", (0,), dimensions=2, label="scheme 1", sign="h"),
        2: Scheme("split-width", (1,), dimensions=2, label="scheme 2", sign="w"),
        3: Scheme("decode", None, label="scheme 3", sign="d"),
        CLUSTERED: Scheme("cluster", (), sliced=False, label="clustered", sign="c"),
    }
)

SLICED = tuple(number for number, scheme in SCHEMES.items() if scheme.sliced)
"""The schemes whose channels are sliced, and that error tables cover."""

SchemeNumber = Annotated[int, Ge(0), Le(max(SCHEMES))]


FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


ArgumentValue = Annotated[str | int | float | bool | None, PLAIN]
"""A value that `--arch-arg name=value` may pass to a network's constructor."""


_MOST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build a network: a name as `--arch` takes it, and constructor arguments.

    The name is torchvision's (`resnet18`), the built-in zoo's (`cifar_resnet20`),
    `timm:NAME`, `transformers:CLASS` or `package.module:factory`.
    """

    name: Term
    arguments: Mapping[ArgumentName, ArgumentValue] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the name, followed by the arguments in brackets, as far as they are short."""
        listed = ", ".join(
            f"{key}={value if len(str(value)) <= _MOST_SHOWN else '…'}"
            for key, value in sorted(self.arguments.items())
        )
        return f"{self.name}({listed})" if listed else self.name


Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From an image to the network's input.

    Resize the shorter side to `resize` pixels (both sides if `stretch`) by `interpolation`, crop
    the central `crop` × `crop`, scale to [0, 1], subtract `mean` and divide by `std` channel by
    channel. `resize` or `crop` of None leaves that step out. Where an odd number of pixels is cut
    off, half of it is rounded to an even number, as torchvision does, or with `crop_down` down.
    """

    mean: Annotated[tuple[Finite, ...], Len(1, MOST_CHANNELS)]
    std: Annotated[tuple[Finite, ...], Len(1, MOST_CHANNELS)]
    resize: Pixels | None = None
    crop: Pixels | None = None
    stretch: bool = False
    interpolation: Interpolation = "bilinear"
    crop_down: bool = False

    def __post_init__(self) -> None:
        """Refuse values with which no image can be prepared."""
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean must be finite in every channel, not {self.mean}")
        if not all(0 < value < math.inf for value in self.std):  # NaN is not either
            raise ValueError(f"std must be positive in every channel, not {self.std}")
        sizes = (self.resize, self.crop)
        if any(size is not None and not 1 <= size <= MOST_PIXELS for size in sizes):
            raise ValueError(f"resize and crop are at least one pixel and at most {MOST_PIXELS:,}")


LayerKind = Literal[
    "linear",
    "embedding",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One convolution, linear layer or embedding as the allocation sees it.

    An embedding is a linear layer on vectors that are 1 at the index looked up and 0 elsewhere:
    its inputs are its indices, its outputs the features.

    `kernel` has one extent per spatial dimension, and none unless the layer is a convolution.
    With `groups`, k counts the slices inside each group: it divides `in_channels` / `groups`.
    `reason` says why the layer must stay as it is; None where it may be decomposed.
    `max_slices` caps k where the surroundings allow no slices.

    The packed projection of an `nn.MultiheadAttention` NAME is a linear layer
    `NAME.in_proj`, whatever the attention calls its tensors.
    """

    name: str
    kind: LayerKind
    out_channels: int
    in_channels: int
    kernel: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False
    reason: str | None = None
    max_slices: int | None = None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape (f, c / groups, κ1, κ2, …), in whichever order the layer holds its weight."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def weight_params(self) -> int:
        """The number of scalars in the weight, without the bias."""
        count = 1
        for extent in self.weight_shape:
            count *= extent
        return count

    @property
    def params(self) -> int:
        """The number of scalars in the weight and the bias."""
        return self.weight_params + (self.out_channels if self.bias else 0)


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """A layer becomes a low-rank pair: folding `scheme`, `k` slices, rank `j` in each.

    With the scheme `CLUSTERED` the k parts are clusters of columns. A layer that
    is kept has no choice: its entry in a plan is None.
    """

    scheme: SchemeNumber
    k: Positive
    j: Positive


@dataclass(frozen=True, slots=True)
class Kept:
    """The channels of a module that filter pruning leaves, in ascending order.

    `outputs` are indices of its output channels (of a normalisation: of its features),
    `inputs` of its input channels or features; None leaves them all.
    """

    outputs: Annotated[tuple[Count, ...], Len(0, 1 << 17)] | None = None
    inputs: Annotated[tuple[Count, ...], Len(0, 1 << 17)] | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """The errors of one (scheme, k) of a layer, for every rank j = 0 … J.

    With σ_{i,m} the m-th singular value of slice i, entry j of each array is

    - `sum_squares`: Σ_i σ²_{i,j+1}, whose root bounds ‖W − Ŵ‖₂ from above;
    - `largest`: max_i σ_{i,j+1};
    - `tail_energy`: Σ_i Σ_{m>j} σ²_{i,m} = ‖W − Ŵ‖_F²;
    - `saved`: Σ_i σ²_{i,j+1}, what one more rank in every slice takes from `tail_energy`.

    A grouped layer's matrix is block diagonal: `sum_squares` and `largest` are then the
    maximum over the groups, `tail_energy` and `saved` the sum. Singular values are raised by what
    rounding may have taken from them; `tail_energy` is not raised.

    J, the smaller side of a slice, is the full rank, at which all four are 0.
    """

    sum_squares: FloatArray
    largest: FloatArray
    tail_energy: FloatArray
    saved: FloatArray


@dataclass(frozen=True, slots=True)
class LayerTable:
    """The option table of one layer: every (scheme, k, j) that shrinks it, cheapest first.

    Rows are ordered by (cost, scheme, k, j). `choices` (n, 3) holds scheme, k and j, `costs`
    (n,) the pair's parameters; `sum_squares`, `largest`, `tail_energy` and `saved` (n,) are a
    `Curve`'s at that j, and `exact` (n,) is ‖W − Ŵ‖₂ itself, NaN where it was never needed.

    By scheme, for those tabled so far: `norms` is σ_1 of the layer's weight so folded,
    `energies` ‖W‖_F² as the sum of its squared singular values, and `slack` by how much
    rounding may have moved such a square, so that `largest`² less twice that bounds from below.

    All of them are those of 2**-`exponent` times the weight. The exponent is 0 but for weights
    so large or small that their squares could not be held.
    """

    spec: LayerSpec
    norms: Mapping[int, float]
    energies: Mapping[int, float]
    slack: Mapping[int, float]
    choices: IntArray
    costs: IntArray
    sum_squares: FloatArray
    largest: FloatArray
    tail_energy: FloatArray
    saved: FloatArray
    exact: FloatArray
    exponent: int = 0

    def row(self, choice: Choice) -> int | None:
        """Return the row of a choice; None if it is not in the table."""
        wanted = (choice.scheme, choice.k, choice.j)
        (found,) = np.nonzero((self.choices == wanted).all(axis=1))
        return int(found[0]) if len(found) else None


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """The error tables of a network, by layer name, under the hash of its weights."""

    weights_hash: str
    layers: Mapping[str, LayerTable]


@dataclass(frozen=True, slots=True)
class Plan:
    """One choice per layer (None keeps it), and how the plan came about.

    A plan that prunes filters has no choices, but `pruned`: what is left of every module
    that loses channels, by name.

    `arguments` are the method's own options, where they are not the usual ones. `bound` names
    the error definition whose maximum over the layers was minimised, or the sum of whose
    squares; `objective` is that maximum or sum, and no plan within the same budgets has one
    below `objective_bound`.
    """

    choices: Mapping[str, Choice | None]
    method: str = "manual"
    solver: str | None = None
    bound: str | None = None
    seed: int | None = None
    objective: float | None = None
    objective_bound: float | None = None
    pruned: Mapping[str, Kept] = field(default_factory=dict)
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)

    @property
    def decomposed(self) -> dict[str, Choice]:
        """The layers that change, with their choices."""
        return {name: choice for name, choice in self.choices.items() if choice is not None}


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What became of one layer.

    `error` is the true ‖W − Ŵ‖₂ / ‖W‖₂ of the tensors written, 0 for a kept layer that
    was not tuned, and None where nothing was carried out; `error_bound` a proven bound on it
    from the error table, None where the factors are not those of the table, or were tuned. Both
    are those of the layer's operator, the weight in the paper's fold (scheme 0), whatever scheme
    the choice has;
    the tables, by which plans are made, measure every scheme in its own fold. `reason` tells
    why a layer was kept, `kept` which of its channels filter pruning left.
    """

    name: Name
    shape: Annotated[tuple[Count, ...], Len(0, 16)]
    params_before: Count
    params_after: Count
    choice: Choice | None = None
    error: Real | None = 0.0
    error_bound: Real | None = 0.0
    reason: Name | None = None
    kept: Kept | None = None
