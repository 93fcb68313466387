"""What a training on texts makes small: the loss of next tokens, and the distance from a teacher.

Sources: Szegedy et al., CVPR 2016 (label smoothing); Hinton, Vinyals, Dean, arXiv 1503.02531
(distillation).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import TokenBatches, TokenBlocks
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation.language import foretells, with_next_tokens
from alds_cli.options.training_options import RetrainSettings
from alds_cli.retraining.answer_errors import AnswerErrors
from alds_cli.retraining.objective import MixedBatch, answer_of, other_teacher
from alds_cli.runtime.devices import accepted, ready
from alds_cli.tracing.logits import gives_states, token_logits
from alds_cli.tracing.tokens import Tokens


class TextObjective:
    """The loss of a run on texts.

    A network that foretells has the mean loss over all tokens but the first of each text, as
    `evaluation.language` counts it, and learns from a teacher at the same places. What other
    networks give for tokens or texts is compared with the teacher's as in tuning, see
    `AnswerErrors`; of states, each process of a job takes its part of a batch for itself.

    Args:
        settings: the hyperparameters.
        teacher: the network to learn from, in evaluation mode where the run computes; None learns
            from the texts alone.
        errors: compares answers.
        foretells: whether the network gives logits for next tokens.
        by_token: whether it answers for every token, rather than for a text as a whole.
    """

    def __init__(
        self,
        settings: RetrainSettings,
        teacher: nn.Module | None,
        errors: AnswerErrors,
        *,
        foretells: bool,
        by_token: bool,
    ) -> None:
        self._smoothing = settings.label_smoothing
        self._teacher, self._errors = teacher, errors
        self._foretells, self._by_token = foretells, by_token
        self._weight = 1.0 if teacher is None else settings.label_weight
        self.rights = not errors.states

    def __call__(self, output: object, batch: MixedBatch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a network's output, and how many answers for each text are right.

        Right is the token that follows, or else what the teacher finds the likeliest, (n,). States
        are neither right nor wrong.

        Raises:
            DataError: what is needed is not in it, or the teacher gives something else.
        """
        inputs = _texts(batch)
        answers = self._errors.answers(output, inputs, "retrained")
        found = []
        if self._weight > 0:
            found.append(self._weight * self._next_token_loss(answers, inputs, self._smoothing))
        expected = None if self._weight == 1 else self._expected(answers, inputs)
        if expected is not None:
            distance = self._errors.loss(*(self._compared(own) for own in (answers, expected)))
            found.append((1 - self._weight) * distance)
        return torch.stack(found).sum(), self._right(answers, inputs, expected)

    def judged(self, output: object, batch: MixedBatch) -> tuple[Tensor, Tensor]:
        """Return the same without smoothing, and by the texts alone where the network foretells."""
        if not self._foretells:
            return self(output, batch)
        inputs = _texts(batch)
        answers = self._errors.answers(output, inputs, "retrained")
        return self._next_token_loss(answers, inputs), self._right(answers, inputs, None)

    def counted(self, batch: MixedBatch) -> int:
        """Return the number of answers that the mean loss is over."""
        inputs = _texts(batch)
        if not self._by_token:
            return len(inputs)
        return int(inputs.mask.sum()) - self._foretells * len(inputs)

    def _compared(self, answers: list[Tensor]) -> list[Tensor]:
        """Return the answers that are compared with a teacher's."""
        return [own[:-1] for own in answers] if self._foretells else answers

    def _next_token_loss(
        self, answers: list[Tensor], inputs: Tokens, smoothing: float = 0.0
    ) -> Tensor:
        pairs = with_next_tokens(answers, inputs)
        logits, tokens = (torch.cat(own) for own in zip(*pairs, strict=True))
        total = F.cross_entropy(logits, tokens, reduction="sum", label_smoothing=smoothing)
        return total / max(1, len(tokens))

    def _right(
        self, answers: list[Tensor], inputs: Tokens, expected: list[Tensor] | None
    ) -> Tensor:
        if not self.rights:
            return torch.zeros(len(inputs))
        if self._foretells:
            pairs = with_next_tokens(answers, inputs)
            return torch.stack([(own.argmax(1) == tokens).float().sum() for own, tokens in pairs])
        assert expected is not None  # noqa: S101 - others are trained with a teacher alone
        alike = self._errors.likeness(answers, expected)
        return (alike * alike.new_tensor([len(own) for own in answers])).float()

    def _expected(self, answers: list[Tensor], inputs: Tokens) -> list[Tensor]:
        assert self._teacher is not None  # noqa: S101 - asked for only where there is one
        expected = self._errors.answers(answer_of(self._teacher, inputs), inputs, "teachers")
        theirs, ours = ((len(own[0]), own[0].shape[1]) for own in (expected, answers))
        if theirs != ours:
            what = "features" if self._errors.states else "logits"
            raise other_teacher(f"{theirs[1]} {what}", f"{ours[1]}", "tokens and kind of answers")
        return expected


def objective_on(
    module: nn.Module,
    texts: TokenBlocks,
    judges: TokenBlocks | None,
    settings: RetrainSettings,
    teacher: nn.Module | None,
    device: torch.device,
) -> TextObjective:
    """Return the loss of a run on texts, by what the network gives for the longest of them.

    Args:
        module: the network, where the run computes.
        texts: those that are trained on.
        judges: those that judge, if there are any.
        settings: the hyperparameters.
        teacher: the network to learn from, if there is one.
        device: where the run computes.

    Raises:
        OptionError: the network does not foretell, and is to learn without a teacher or from texts.
        DataError: it gives nothing that can be trained, or no text has a second token.
    """
    inputs = _longest(texts)
    with ready(module, device) as run, torch.no_grad():
        foretelling, output = foretells(run, inputs), accepted(run, inputs)
        states, by_token = gives_states(output, inputs), token_logits(output, inputs) is not None
    if not foretelling and (teacher is None or settings.label_weight > 0):
        raise OptionError(
            "the network does not foretell text, so that texts alone teach it nothing: it gives no "
            "logits for tokens that depend on those before them alone",
            tip="--teacher MODEL, usually the network that was compressed, and no --label-weight",
        )
    for own in (texts, judges):
        if foretelling and own is not None and _longest(own).shape[1] < 2:
            raise DataError(
                f"no text of {own.name} has a second token to foretell", tip="name longer texts"
            )
    errors = AnswerErrors(settings.temperature, states=states)
    return TextObjective(
        settings, teacher, errors, foretells=foretelling, by_token=by_token or states
    )


def _longest(texts: TokenBlocks) -> Tokens:
    """Return the text with the most tokens, without padding."""
    one = texts if texts.real is None else texts.subset(texts.real.sum(1).argmax()[None])
    inputs, _ = next(iter(TokenBatches(one, batch_size=1)))
    return inputs


def _texts(batch: MixedBatch) -> Tokens:
    assert isinstance(batch.inputs, Tokens)  # noqa: S101 - texts are trained on
    return batch.inputs
