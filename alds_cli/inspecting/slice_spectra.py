"""The spectra of layers, sliced as their pairs are, and how much of them pairs keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.numerics.fold import fold, full_rank
from alds_cli.records import OPERATOR, SCHEMES, Choice, FloatArray, LayerReport, LayerSpec
from alds_cli.surgery import find_layers, weight_at


@dataclass(frozen=True, slots=True)
class SliceSpectrum:
    """The singular values of a layer's slices.

    Attributes:
        values: the root of the mean square over the slices, (J,), as a fraction of the largest;
            all 0 for a weight of zeros.
        kept: the fraction of the ranks that its pair keeps; None for a layer that is no pair.
    """

    values: FloatArray
    kept: float | None


def slice_spectra(module: nn.Module, layers: Sequence[LayerReport]) -> Mapping[str, SliceSpectrum]:
    """Return the spectra of layers by name, each folded and sliced as its pair is.

    Args:
        module: the dense network.
        layers: what became of its layers. One that is no pair has a single slice, in the paper's
            fold; so has one whose columns are clustered, and whose rank is that of all clusters.
    """
    specs = find_layers(module)
    with torch.no_grad():
        return {
            layer.name: _spectrum(weight_at(module, layer.name), specs[layer.name], layer.choice)
            for layer in layers
            if layer.name in specs
        }


def _spectrum(weight: Tensor, spec: LayerSpec, choice: Choice | None) -> SliceSpectrum:
    scheme, k, rank = OPERATOR, 1, None
    if choice is not None:
        sliced = SCHEMES[choice.scheme].sliced
        scheme, k, rank = (
            (choice.scheme, choice.k, choice.j) if sliced else (OPERATOR, 1, choice.k * choice.j)
        )
    squares = np.stack([_squares(part) for part in _slices(weight, scheme, k, spec.groups)])
    values = np.sqrt(squares.mean(axis=0))
    most = full_rank(spec.weight_shape, scheme, k, spec.groups)
    largest = values.max(initial=0.0)
    return SliceSpectrum(
        values / largest if largest > 0 else values,
        None if rank is None else min(1.0, rank / most),
    )


def _slices(weight: Tensor, scheme: int, k: int, groups: int) -> Iterator[Tensor]:
    for part in weight.double().chunk(groups):
        yield from (own.flatten(1) for own in fold(part, scheme).tensor_split(k, dim=1))


def _squares(matrix: Tensor) -> FloatArray:
    """Return the squared singular values of a matrix, from the largest."""
    if len(matrix) > matrix.shape[1]:
        matrix = matrix.T
    found: FloatArray = torch.linalg.eigvalsh(matrix @ matrix.T).clamp(min=0).flip(0).cpu().numpy()
    return found
