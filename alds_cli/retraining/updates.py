"""The updates of weights, as every training makes them: of epochs, and of tuning by steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.retraining.pair_decay import ProductDecay


class Updates:
    """An optimiser, and what is done to gradients before its steps.

    Args:
        optimiser: its rates are set before each step.
        parameters: all that it trains.
        clip_norm: the largest norm of the gradient of all parameters together; None leaves it.
        decay: of the products of pairs, if they are decayed by themselves.
        scaled: whether losses are scaled, as training in float16 needs.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        *,
        clip_norm: float | None = None,
        decay: ProductDecay | None = None,
        scaled: bool = False,
    ) -> None:
        self.optimiser, self.parameters = optimiser, parameters
        self._clip_norm, self._decay = clip_norm, decay
        self._scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    def make(self, loss: Tensor, lr: float) -> None:
        """Make one update that lowers a loss, at a learning rate; gradients are freed again."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._clip_norm is not None or self._decay is not None:
            self._scaler.unscale_(self.optimiser)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self._clip_norm)
        if self._decay is not None:
            self._decay.apply(lr)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self.optimiser.zero_grad(set_to_none=True)

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the scaler of losses; it is empty where they are not scaled."""
        return self._scaler.state_dict()

    def restore(self, optimiser: Mapping[str, Any], scaler: Mapping[str, Any]) -> None:
        """Take up the states of the optimiser and of the scaler of losses."""
        self.optimiser.load_state_dict(dict(optimiser))
        self._scaler.load_state_dict(dict(scaler))
