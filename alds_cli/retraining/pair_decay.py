"""Weight decay of the weights that pairs stand for, instead of their halves.

Decay of both halves A and B shrinks ‖A‖² + ‖B‖², which is at least twice the nuclear norm of A B,
and so lowers the rank of the product. Decay of the product shrinks ½‖A B‖², as it did the dense
layer's weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from alds_cli.numerics.fold import weights_to_factors
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import SLICED, Choice
from alds_cli.surgery.layer_contents import canonical, groups_of


class ProductDecay:
    """Decays the products of the pairs of slices in a network; other pairs are left out.

    Args:
        module: the network.
        choices: the choices of its layers, by the names of the modules that may be pairs.
        strength: the factor of ½‖A B‖² whose gradient is added.
        decoupled: whether a step is made along it by itself, as AdamW decays, instead of adding it
            to the gradient.
    """

    def __init__(
        self,
        module: nn.Module,
        choices: Mapping[str, Choice],
        strength: float,
        *,
        decoupled: bool,
    ) -> None:
        self._strength = strength
        self._decoupled = decoupled
        self._pairs: list[tuple[Any, int]] = []
        parts = dict(module.named_modules())
        for name, choice in choices.items():
            pair: Any = parts.get(name)
            if choice.scheme in SLICED and hasattr(pair, "first") and hasattr(pair, "second"):
                self._pairs.append((pair, choice.k))

    @property
    def halves(self) -> list[Parameter]:
        """The weights of the pairs, each once; the optimiser must not decay them."""
        found = [own.weight for pair, _ in self._pairs for own in (pair.first, pair.second)]
        return list(dict.fromkeys(found))

    def energy(self) -> Tensor:
        """Return ½ Σ ‖A B‖² over all pairs."""
        return torch.stack([0.5 * _squared(pair, k) for pair, k in self._pairs]).sum()

    def apply(self, lr: float) -> None:
        """Add the decay's gradient to the halves' own, or make a step along it, before a step."""
        halves = self.halves
        if not halves:
            return
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.energy(), halves)
        with torch.no_grad():
            for half, gradient in zip(halves, gradients, strict=True):
                if self._decoupled:
                    half.sub_(gradient, alpha=lr * self._strength)
                elif half.grad is not None:
                    half.grad.add_(gradient, alpha=self._strength)


def _squared(pair: Any, k: int) -> Tensor:
    """Return ‖A B‖² of a pair, from the Gram matrices of its slices' factors."""
    first, second = (canonical(own.weight, own) for own in (pair.first, pair.second))
    left, right = weights_to_factors(first, second, k, groups_of(pair.second))
    return ((left.mT @ left) * (right @ right.mT)).sum()


def product_decay(
    module: nn.Module, choices: Mapping[str, Choice], settings: RetrainSettings
) -> ProductDecay | None:
    """Return the decay of a network's pairs; None where the optimiser decays their halves."""
    if settings.pair_decay != "product":
        return None
    decoupled = settings.optimiser == "adamw"
    return ProductDecay(module, choices, settings.weight_decay, decoupled=decoupled)
