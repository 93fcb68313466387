"""Pairs from the principal components of a layer's responses, and the constant they leave.

Source: Zhang, Zou, He, Sun, TPAMI 2016, Sec. 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration import Responses
from alds_cli.numerics.fold import factors_to_weights, fold
from alds_cli.numerics.norms import residual_norm
from alds_cli.numerics.pool import Spawn
from alds_cli.numerics.response_factors import constant_left, response_factors
from alds_cli.numerics.scaling import unit_exponent
from alds_cli.records import Choice, LayerSpec
from alds_cli.surgery import layer_at, layer_weight


@dataclass(slots=True)
class ResponsePairJob:
    """Factors of one layer, their true error, and the constant to add, for the pool.

    Attributes:
        weight: (f, c/g, κ…).
        groups: g.
        choice: of scheme 0 and one slice.
        norm: ‖W‖₂, in the units of `scaling.unit_exponent`.
        responses: of the layer.
        bias: (f,), or None.
        weights: of the pair's halves, once the job is done.
        error: ‖W − Ŵ‖₂ / ‖W‖₂ of these as they are rounded for storage.
        shift: (f,) in float64, what is then missing in the pair's output on the average; None
            where nothing can absorb it.
    """

    weight: Tensor
    groups: int
    choice: Choice
    norm: float
    responses: Responses
    bias: Tensor | None = None
    weights: tuple[Tensor, ...] = ()
    error: float = 0.0
    shift: Tensor | None = None

    @classmethod
    def of(
        cls, module: nn.Module, spec: LayerSpec, choice: Choice, norm: float, responses: Responses
    ) -> ResponsePairJob:
        """The job for a layer of a network.

        Raises:
            ValueError: the choice has another scheme, or several slices.
        """
        if (choice.scheme, choice.k) != (0, 1):
            raise ValueError(f"principal components of responses give no pair for {choice}")
        layer: Any = layer_at(module, spec.name)
        bias = None if layer.bias is None else layer.bias.detach()
        return cls(layer_weight(layer), spec.groups, choice, norm, responses, bias)

    @property
    def nbytes(self) -> int:
        """About what the moments' eigenvectors take, and the weight in float64."""
        return 8 * (3 * self.responses.moments.numel() + 2 * self.weight.numel())

    def __call__(self, spawn: Spawn) -> None:
        """Factor, then measure with the numbers as they are rounded for storage."""
        del spawn
        matrix = fold(self.weight, 0)
        responses = self.responses
        left, right, basis = response_factors(
            matrix, responses.moments, responses.frame, self.choice.j, self.weight.dtype
        )
        if self.norm > 0:
            unit = unit_exponent(self.weight)
            self.error = residual_norm(matrix, left, right, self.groups, unit) / self.norm
        self.weights = factors_to_weights(left, right, tuple(self.weight.shape), 0, self.groups)
        if self.responses.absorber is not None:
            mean = self.responses.mean
            rest = mean if self.bias is None else mean - self.bias.to("cpu", torch.float64)
            self.shift = constant_left(basis, rest)


def absorb_shift(module: nn.Module, name: str, responses: Responses, shift: Tensor) -> None:
    """Add a constant to the output of a pair in evaluation mode, at no cost.

    It goes into the bias of the second half, or, with the opposite sign, into the running
    mean of the batch normalisation that follows.

    Args:
        module: the network with the pair installed; changed in place. The tensor concerned is
            replaced, not overwritten.
        name: the layer that the pair stands for.
        responses: of that layer; their absorber takes the constant.
        shift: (f,).

    Raises:
        ValueError: the layer has nothing that could take it.
    """
    if responses.absorber is None:
        raise ValueError(f"nothing after {name} takes a constant")
    part: Any = module.get_submodule(responses.absorber)
    with torch.no_grad():
        if responses.absorber != name:
            part.running_mean = _added(part.running_mean, -shift)
            return
        bias = part.second.bias
        part.second.bias = nn.Parameter(_added(bias, shift), requires_grad=bias.requires_grad)


def _added(tensor: Tensor, shift: Tensor) -> Tensor:
    """The sum in float64, rounded once."""
    return (tensor.to("cpu", torch.float64) + shift).to(tensor)
