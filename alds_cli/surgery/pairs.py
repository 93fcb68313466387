"""The pairs that replace layers: their forms, and the pairs of slices.

The scheme of a choice determines the form, in plans and in artefacts. The form answers everything
that depends on it: what such a pair is built of, what it holds, whether it fits a layer, and
how much of the weight it loses.

A pair of slices is two modules. The `first` half applies the slices' right factors as one grouped
layer, the `second` half recombines them, separately for each group of the layer. A
kernel axis, with its stride, padding, output padding, dilation and padding mode, is carried by
exactly one half.

Source: Liebenwein et al., NeurIPS 2021, Sec. 2.1, supplement A.1 and A.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor, nn

from alds_cli.numerics.eigenvalues import operator_residual
from alds_cli.numerics.fold import (
    carried_by_second,
    distinct_schemes,
    full_rank,
    half_kernels,
    multiply_back,
    pair_params,
    weights_to_factors,
)
from alds_cli.records import SLICED, Choice, IntArray, LayerSpec
from alds_cli.surgery.clustered import ClusteredPairs
from alds_cli.surgery.layer_contents import TRANSPOSED, canonical, groups_of, layer_weight
from alds_cli.surgery.sliced_linear import SlicedLinear

Convolution = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


class SlicedPairs:
    """Pairs whose k parts are slices of neighbouring input channels; see `pairs.PairForm`."""

    schemes = SLICED
    extra: Sequence[str] = ()

    def reason_against(self, spec: LayerSpec) -> str | None:
        """Return None: every layer has slices."""
        del spec
        return None

    def complaint(self, spec: LayerSpec, choice: Choice) -> str | None:
        """Return why a scheme, k or j does not fit a layer; None if all fit."""
        if choice.scheme not in distinct_schemes(spec.kernel):
            return f"scheme {choice.scheme} does not apply to its kernel {spec.kernel}"
        channels = spec.in_channels // spec.groups
        if choice.k < 1 or channels % choice.k:
            where = "" if spec.groups == 1 else " of each group"
            return f"k = {choice.k} does not divide its {channels} input channels{where}"
        if spec.max_slices is not None and choice.k > spec.max_slices:
            return f"k = {choice.k} exceeds the {spec.max_slices} slices possible here"
        full = full_rank(spec.weight_shape, choice.scheme, choice.k, spec.groups)
        if not 1 <= choice.j <= full:
            return f"j = {choice.j} is not between 1 and {full}"
        return None

    def extra_bytes(self, spec: LayerSpec, choices: IntArray) -> IntArray:
        """Return zeros (n,): there are no tensors beside the weights."""
        del spec
        return np.zeros(len(choices), np.int64)

    def build(self, layer: nn.Module, choice: Choice, options: Mapping[str, Any]) -> nn.Sequential:
        """Build two modules of the layer's type; of an embedding, the second is linear."""
        if isinstance(layer, nn.Embedding):
            return _embedding_pair(layer, choice, options)
        if isinstance(layer, nn.Linear):
            return _linear_pair(layer, choice, options)
        return _convolution_pair(cast(Convolution, layer), choice, options)

    def fill(self, pair: nn.Sequential, extra: Sequence[Tensor]) -> None:
        """Make sure that there are no tensors beside the weights."""
        del pair
        if extra:
            raise ValueError(f"a pair of slices has two weights, not {2 + len(extra)}")

    def product(
        self,
        layer: nn.Module,
        choice: Choice,
        pair: nn.Sequential,
        halves: tuple[Tensor, Tensor],
        extra: Mapping[str, Tensor],
        name: str,
    ) -> Tensor:
        """Return the weight (f, c/g, κ…) that the two halves make together, in their type."""
        del extra, name
        modules: Any = pair
        first = canonical(halves[0], modules.first)
        second = canonical(halves[1], modules.second)
        shape = tuple(layer_weight(layer).shape)
        return multiply_back(first, second, shape, choice.scheme, choice.k, groups_of(layer))

    def residual(
        self, weight: Tensor, tensors: Sequence[Tensor], choice: Choice, groups: int, unit: int
    ) -> float:
        """Return ‖W − Ŵ‖₂ / 2**unit in the paper's fold."""
        first, second = tensors
        left, right = weights_to_factors(first, second, choice.k, groups)
        return operator_residual(weight, left, right, choice.scheme, groups, unit)


def _linear_pair(layer: nn.Linear, choice: Choice, options: Mapping[str, Any]) -> nn.Sequential:
    """Build two linear layers, of which the first is block diagonal if there are several slices."""
    inner = choice.k * choice.j
    pair = nn.Sequential()
    if choice.k == 1:
        pair.add_module("first", nn.Linear(layer.in_features, inner, bias=False, **options))
    else:
        pair.add_module("first", SlicedLinear(layer.in_features, choice.k, choice.j, **options))
    bias = layer.bias is not None
    pair.add_module("second", nn.Linear(inner, layer.out_features, bias=bias, **options))
    return pair


def _embedding_pair(
    layer: nn.Embedding, choice: Choice, options: Mapping[str, Any]
) -> nn.Sequential:
    """Build an embedding in j features, and the linear layer that makes the layer's own of them."""
    pair = nn.Sequential()
    first = nn.Embedding(
        layer.num_embeddings,
        choice.j,
        padding_idx=layer.padding_idx,
        scale_grad_by_freq=layer.scale_grad_by_freq,
        sparse=layer.sparse,
        **options,
    )
    pair.add_module("first", first)
    pair.add_module("second", nn.Linear(choice.j, layer.embedding_dim, bias=False, **options))
    return pair


def _convolution_pair(
    layer: Convolution, choice: Choice, options: Mapping[str, Any]
) -> nn.Sequential:
    kernel = tuple(layer.kernel_size)
    first_kernel, second_kernel = half_kernels(kernel, choice.scheme)
    in_second = carried_by_second(len(kernel), choice.scheme)
    inner = layer.groups * choice.k * choice.j
    family: Any = type(layer)
    pair = nn.Sequential()
    pair.add_module(
        "first",
        family(
            layer.in_channels,
            inner,
            first_kernel,
            groups=layer.groups * choice.k,
            bias=False,
            **_geometry(layer, [not mine for mine in in_second]),
            **options,
        ),
    )
    pair.add_module(
        "second",
        family(
            inner,
            layer.out_channels,
            second_kernel,
            groups=layer.groups,
            bias=layer.bias is not None,
            **_geometry(layer, list(in_second)),
            **options,
        ),
    )
    return pair


def _geometry(layer: Convolution, carried: list[bool]) -> dict[str, Any]:
    """Return stride, paddings and dilation for the axes that a half carries, neutral elsewhere."""

    def on_carried_axes(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(v if mine else neutral for v, mine in zip(values, carried, strict=True))

    padding = layer.padding
    geometry: dict[str, Any] = {
        "stride": on_carried_axes(tuple(layer.stride), 1),
        # "same" and "valid" need no splitting: they add no padding to an extent of 1.
        "padding": padding if isinstance(padding, str) else on_carried_axes(tuple(padding), 0),
        "dilation": on_carried_axes(tuple(layer.dilation), 1),
        "padding_mode": layer.padding_mode,
    }
    if isinstance(layer, TRANSPOSED):
        geometry["output_padding"] = on_carried_axes(tuple(layer.output_padding), 0)
    return geometry


class PairForm(Protocol):
    """The building, filling, multiplying back and checking of the pairs of some schemes.

    The halves' weights and the tensors beside them are passed as one tuple: the first
    half's weight, the second's, and then those that `extra` names.
    """

    @property
    def schemes(self) -> Sequence[int]:
        """The schemes of its choices, keys of `alds_cli.records.plans_and_layers.SCHEMES`."""
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
        layer: a plain linear layer, embedding or convolution, transposed or not.
        choice: its scheme, k and j, which must fit.
        device: the device of its parameters; on `meta` they take no memory.
    """
    options = {"device": device, "dtype": layer.weight.dtype}
    pair = form_of(choice.scheme).build(layer, choice, options)
    pair.train(layer.training)
    return pair
