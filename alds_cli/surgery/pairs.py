"""The forms that a pair in a layer's place can have, and the pairs of each.

The scheme of a choice says which form it is, in plans as in artefacts. All that depends on that
is asked of the form: what such a pair is built of, what it holds, whether it fits a layer, and
what it leaves of the weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

from alds_cli.numerics.costs import pair_params
from alds_cli.records import Choice, IntArray, LayerSpec
from alds_cli.surgery.clustered import ClusteredPairs
from alds_cli.surgery.sliced import SlicedPairs


class PairForm(Protocol):
    """How the pairs of some schemes are built, filled, multiplied back and checked.

    The halves' weights and what stands beside them travel as one tuple of tensors: the first
    half's weight, the second's, and then those that `extra` names.
    """

    @property
    def schemes(self) -> Sequence[int]:
        """Those of its choices, keys of `alds_cli.schemes.SCHEMES`."""
        ...

    @property
    def extra(self) -> Sequence[str]:
        """Names of the tensors that the first half holds beside its weight."""
        ...

    def reason_against(self, spec: LayerSpec) -> str | None:
        """Why a layer can have no such pair, whatever k and j; None where it can."""
        ...

    def complaint(self, spec: LayerSpec, choice: Choice) -> str | None:
        """Why a choice does not fit a layer; None where it does, its size aside."""
        ...

    def extra_bytes(self, spec: LayerSpec, choices: IntArray) -> IntArray:
        """What pairs (n, 3) hold in a file beside their weights, in bytes: (n,)."""
        ...

    def build(self, layer: nn.Module, choice: Choice, options: Mapping[str, Any]) -> nn.Sequential:
        """A pair of a `first` and a `second` module; options are those of their tensors."""
        ...

    def fill(self, pair: nn.Sequential, extra: Sequence[Tensor]) -> None:
        """Let a pair hold what stands beside its weights, on the device where these will be."""
        ...

    def product(
        self,
        layer: nn.Module,
        choice: Choice,
        pair: nn.Sequential,
        halves: tuple[Tensor, Tensor],
        extra: Mapping[str, Tensor],
        name: str,
    ) -> Tensor:
        """The weight (f, c/g, κ…) that a pair stands for.

        Args:
            layer: in whose place it stands.
            choice: what it is.
            pair: such a pair, for its shapes; perhaps changed.
            halves: the weights as the pair's modules hold them.
            extra: the tensors beside them, by name.
            name: of the layer, for messages.

        Raises:
            BadWeightsError: what stands beside the weights makes no sense.
        """
        ...

    def residual(
        self, weight: Tensor, tensors: Sequence[Tensor], choice: Choice, groups: int, unit: int
    ) -> float:
        """‖W − Ŵ‖₂ / 2**unit in the paper's fold, of a layer's weight (f, c/g, κ…)."""
        ...


FORMS: tuple[PairForm, ...] = (SlicedPairs(), ClusteredPairs())

_OF_SCHEME: Mapping[int, PairForm] = MappingProxyType(
    {scheme: form for form in FORMS for scheme in form.schemes}
)


def form_of(scheme: int) -> PairForm:
    """The form of the pairs of a scheme.

    Raises:
        KeyError: there is no such scheme.
    """
    return _OF_SCHEME[scheme]


def complaint_against(spec: LayerSpec, choice: Choice) -> str | None:
    """Why a choice does not fit a layer, or makes it no smaller; None where it fits."""
    form = _OF_SCHEME.get(choice.scheme)
    if form is None:
        return f"scheme {choice.scheme} does not apply to its kernel {spec.kernel}"
    if complaint := form.complaint(spec, choice):
        return complaint
    size = pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)
    if size >= spec.weight_params:
        return f"the pair would have {size} weights, the layer has {spec.weight_params}"
    return None


def make_pair(layer: nn.Module, choice: Choice, device: str = "meta") -> nn.Sequential:
    """A low-rank pair in the place of a layer, of its type, its weights yet to be set.

    Where columns are clustered, the first half is a module of `surgery.clustered`.

    Args:
        layer: a plain linear layer or convolution, transposed or not.
        choice: scheme, k and j, known to fit.
        device: where its parameters live; on `meta` they take no memory.
    """
    options = {"device": device, "dtype": layer.weight.dtype}
    pair = form_of(choice.scheme).build(layer, choice, options)
    pair.train(layer.training)
    return pair
