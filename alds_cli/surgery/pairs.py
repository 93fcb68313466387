"""The forms of the pairs that replace layers.

The scheme of a choice determines the form, in plans and in artefacts. The form answers everything
that depends on it: what such a pair is built of, what it holds, whether it fits a layer, and
how much of the weight it loses.
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
    """The building, filling, multiplying back and checking of the pairs of some schemes.

    The halves' weights and the tensors beside them are passed as one tuple: the first
    half's weight, the second's, and then those that `extra` names.
    """

    @property
    def schemes(self) -> Sequence[int]:
        """The schemes of its choices, keys of `alds_cli.schemes.SCHEMES`."""
        ...

    @property
    def extra(self) -> Sequence[str]:
        """The names of the tensors that the first half holds beside its weight."""
        ...

    def reason_against(self, spec: LayerSpec) -> str | None:
        """Return why a layer can have no such pair, whatever k and j; None if it can."""
        ...

    def complaint(self, spec: LayerSpec, choice: Choice) -> str | None:
        """Return why a choice does not fit a layer, apart from its size; None if it does."""
        ...

    def extra_bytes(self, spec: LayerSpec, choices: IntArray) -> IntArray:
        """Return the bytes (n,) that pairs (n, 3) hold in a file beside their weights."""
        ...

    def build(self, layer: nn.Module, choice: Choice, options: Mapping[str, Any]) -> nn.Sequential:
        """Build a `first` and a `second` module; `options` are the device and type of tensors."""
        ...

    def fill(self, pair: nn.Sequential, extra: Sequence[Tensor]) -> None:
        """Set a pair's tensors beside its weights, on the device where the weights will be."""
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
        """Return the weight (f, c/g, κ…) that a pair stands for.

        Args:
            layer: the layer that it replaces.
            choice: its scheme, k and j.
            pair: a pair of these shapes, which may be changed.
            halves: the weights as the pair's modules hold them.
            extra: the tensors beside them, by name.
            name: the layer's name, for messages.

        Raises:
            BadWeightsError: the tensors beside the weights make no sense.
        """
        ...

    def residual(
        self, weight: Tensor, tensors: Sequence[Tensor], choice: Choice, groups: int, unit: int
    ) -> float:
        """Return ‖W − Ŵ‖₂ / 2**unit in the paper's fold, for a layer's weight (f, c/g, κ…)."""
        ...


FORMS: tuple[PairForm, ...] = (SlicedPairs(), ClusteredPairs())

_OF_SCHEME: Mapping[int, PairForm] = MappingProxyType(
    {scheme: form for form in FORMS for scheme in form.schemes}
)


def form_of(scheme: int) -> PairForm:
    """Return the form of the pairs of a scheme.

    Raises:
        KeyError: there is no such scheme.
    """
    return _OF_SCHEME[scheme]


def complaint_against(spec: LayerSpec, choice: Choice) -> str | None:
    """Return why a choice does not fit a layer, or makes it no smaller; None if it fits."""
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
    """Make a low-rank pair of a layer's type to replace it, with weights yet to be set.

    If columns are clustered, the first half is a module of `surgery.clustered`.

    Args:
        layer: a plain linear layer or convolution, transposed or not.
        choice: its scheme, k and j, which must fit.
        device: the device of its parameters; on `meta` they take no memory.
    """
    options = {"device": device, "dtype": layer.weight.dtype}
    pair = form_of(choice.scheme).build(layer, choice, options)
    pair.train(layer.training)
    return pair
