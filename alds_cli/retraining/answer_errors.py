"""How far the answers of a tuned network are from those of its original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from alds_cli.retraining.objective import divergence
from alds_cli.tracing.logits import each_answer, each_state
from alds_cli.tracing.tokens import Inputs, Tokens


@dataclass(frozen=True, slots=True)
class AnswerErrors:
    """Compares the answers of two networks for the same samples; padding has none.

    Logits are compared by their divergence. Of an encoder, which gives states of tokens and no
    logits, the squared error of all states counts, relative to their squares.

    Attributes:
        temperature: divides logits.
        masked: whether samples are images with masks; see `tracing.logits.position_logits_of`.
        states: whether the networks give states of tokens in place of logits.
    """

    temperature: float
    masked: bool = False
    states: bool = False

    def answers(self, output: object, inputs: Inputs, purpose: str = "tuned") -> list[Tensor]:
        """Return what an output answers for each sample, (positions, classes or features).

        Args:
            output: what a network returned.
            inputs: what it was called with.
            purpose: the participle in "only networks that give … can be …".

        Raises:
            NoLogitsError: there are no logits, or no states where these are compared.
        """
        if self.states and isinstance(inputs, Tokens):
            found = each_state(output, inputs, purpose)
        else:
            found = each_answer(output, inputs, purpose, masked=self.masked)
        return [own if own.dtype == torch.float64 else own.float() for own in found]

    def loss(self, answers: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        """Return the mean loss over all positions of all samples."""
        ours, theirs = torch.cat(list(answers)), torch.cat(list(expected))
        if self.states:
            scale = theirs.square().sum().clamp_min(torch.finfo(theirs.dtype).tiny)
            return (ours - theirs).square().sum() / scale
        return divergence(ours, theirs, self.temperature)

    def likeness(self, answers: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        """Return how alike the answers for each sample are, (n,).

        That is the part of its positions with the same likeliest class; of states, their mean
        cosine.
        """
        return torch.stack(
            [self._alike(ours, theirs) for ours, theirs in zip(answers, expected, strict=True)]
        )

    def _alike(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.states:
            return F.cosine_similarity(ours.double(), theirs.double(), dim=1).mean()
        return (ours.argmax(1) == theirs.argmax(1)).double().mean()
