"""How well networks foretell text, and how alike two of them are on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import exp, isfinite
from operator import length_hint

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import Batch
from alds_cli.errors import DataError
from alds_cli.evaluation.paired import Drop, mean_rise
from alds_cli.records import Comparison, Language, ProgressCallback, ProgressEvent
from alds_cli.runtime.devices import accepted, pick_device, ready
from alds_cli.tracing.logits import logits_of, of_each_text, token_logits, token_states
from alds_cli.tracing.tokens import Tokens

Run = Callable[[Tokens], object]


@dataclass(slots=True)
class Foretold:
    """Of every text so far, the sum of the losses of its tokens, and how many have one."""

    losses: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def add(self, logits: Tensor, tokens: Tensor) -> None:
        """Count a text: logits (places, classes), and the tokens (places,) that follow."""
        loss = F.cross_entropy(logits.float(), tokens, reduction="sum")
        self.losses.append(float(loss))
        self.counts.append(len(tokens))

    def quality(self) -> Language:
        """Return the mean loss over all tokens, and the perplexity."""
        loss, count = sum(self.losses) / sum(self.counts), sum(self.counts)
        # Beyond the largest number there is no other; NaN stays NaN.
        perplexity = float("inf") if loss > 700 else exp(loss)
        return Language(loss, perplexity, count, len(self.counts))

    def rise(self, before: Foretold) -> Drop:
        """Return how much larger the loss per token is than another network's on the same texts."""
        apart = [own - other for own, other in zip(self.losses, before.losses, strict=True)]
        return mean_rise(torch.tensor(apart, dtype=torch.float64), torch.tensor(self.counts))


@dataclass(slots=True)
class _Alike:
    """Sums over what two networks give at the same places."""

    places: int = 0
    same: int = 0
    cosine: float = 0.0

    def add(self, one: Tensor, other: Tensor) -> None:
        """Count what both give for one text, (places, features)."""
        self.places += len(one)
        self.same += int((one.argmax(1) == other.argmax(1)).sum())
        self.cosine += float(F.cosine_similarity(one.double(), other.double(), dim=1).sum())


@dataclass(frozen=True, slots=True)
class OnTexts:
    """What texts tell of one or two networks.

    Attributes:
        foretold: the losses of each by its name; None where it foretells nothing.
        comparison: how the two compare; None for one.
    """

    foretold: Mapping[str, Foretold | None]
    comparison: Comparison | None

    @property
    def qualities(self) -> dict[str, Language | None]:
        """How well each network foretells the texts, by its name; None where it does not."""
        return {name: None if own is None else own.quality() for name, own in self.foretold.items()}

    @property
    def rise(self) -> Drop | None:
        """How much larger the first network's loss is than the second's, if both have one."""
        found = [own for own in self.foretold.values() if own is not None]
        return found[0].rise(found[1]) if len(found) == 2 else None


def measure_texts(
    modules: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
    foretelling: bool = False,
) -> OnTexts:
    """Measure one or two networks on texts.

    A network foretells text if it gives logits for every token, and those do not depend on later
    tokens: then those at one token are for the next one. Of other networks, what both give for
    the tokens is compared. Both see a batch after one another. The networks are left as they were.

    Args:
        modules: one or two networks by name, the model and its baseline.
        batches: texts, usually `datasets.TokenBatches`.
        device: where to compute; None means `pick_device()`.
        progress: called after each batch with the task "evaluate", counting batches.
        foretelling: whether two networks that foretell nothing are refused, as one alone is.

    Raises:
        DataError: a network does not take the texts, or foretells nothing where it has to.
    """
    with ExitStack() as stack, torch.inference_mode():
        place = device or pick_device()
        measuring = _Measuring(
            {name: stack.enter_context(ready(own, place)) for name, own in modules.items()},
            foretelling=foretelling or len(modules) < 2,
        )
        for done, (inputs, _) in enumerate(batches, start=1):
            assert isinstance(inputs, Tokens)  # noqa: S101 - these are texts
            measuring.add(inputs)
            if progress is not None:
                progress(ProgressEvent("evaluate", done, length_hint(batches)))
    return measuring.found()


class _Measuring:
    """Counts what one or two networks, by name, give for batches of texts."""

    def __init__(self, runs: Mapping[str, Run], *, foretelling: bool) -> None:
        self._runs, self._foretelling = runs, foretelling
        self._foretold = {name: Foretold() for name in runs}
        self._alike = _Alike()
        self._texts, self._causal = 0, True

    def add(self, inputs: Tokens) -> None:
        """Count a batch."""
        if not self._texts:
            self._causal = all(foretells(run, inputs) for run in self._runs.values())
            if self._foretelling and not self._causal:
                raise _foretells_nothing()
        self._texts += len(inputs)
        found = {
            name: _answers(run, inputs, causal=self._causal) for name, run in self._runs.items()
        }
        if self._causal:
            for name, answers in found.items():
                for logits, tokens in with_next_tokens(answers, inputs):
                    self._foretold[name].add(logits, tokens)
        if len(found) > 1:
            for one, other in zip(*found.values(), strict=True):
                self._alike.add(one, other)

    def found(self) -> OnTexts:
        """Return what all batches tell.

        Raises:
            DataError: nothing could be foretold in them.
        """
        tallies = list(self._foretold.values())
        if self._causal and not sum(tallies[0].counts):
            raise DataError("no text has a second token to foretell", tip="name longer texts")
        foretold = {name: own if self._causal else None for name, own in self._foretold.items()}
        if len(tallies) < 2:
            return OnTexts(foretold, None)
        return OnTexts(foretold, self._compared())

    def _compared(self) -> Comparison:
        alike, (model, baseline) = self._alike, self._foretold.values()
        agreement, cosine = 100 * alike.same / alike.places, alike.cosine / alike.places
        if not self._causal:
            return Comparison(self._texts, agreement=None, cosine=cosine)
        rise = model.rise(baseline)
        difference, low, high = rise.with_interval
        known = isfinite(rise.error)
        return Comparison(
            self._texts,
            agreement=agreement,
            cosine=cosine,
            difference=difference,
            difference_low=low if known else None,
            difference_high=high if known else None,
        )


def foretells(run: Run, inputs: Tokens) -> bool:
    """Return whether a network gives logits for tokens that do not depend on later ones.

    The first text is shown twice, with another last token the second time.
    """
    ids = inputs.ids[:1][inputs.mask[:1]][None]
    if ids.shape[1] < 2:
        return True
    changed = ids.clone()
    changed[0, -1] = 0 if ids[0, -1] else ids.max() if ids.any() else 1
    before, after = (
        token_logits(accepted(run, own), own) for own in (Tokens(ids), Tokens(changed))
    )
    if before is None or after is None:
        return False
    return torch.allclose(before[:, :-1], after[:, :-1], rtol=1e-3, atol=1e-4)


def with_next_tokens(answers: Sequence[Tensor], inputs: Tokens) -> list[tuple[Tensor, Tensor]]:
    """Return for each text logits, and the tokens that they are for.

    Args:
        answers: the logits (tokens, classes) of each text, without padding.
        inputs: the texts.

    Returns:
        Logits (tokens − 1, classes) at all tokens but the last, and those (tokens − 1,) that follow
        them, on the device of the logits.
    """
    return [
        (own[:-1], ids[real][1:].to(own.device))
        for own, ids, real in zip(answers, inputs.ids, inputs.mask, strict=True)
    ]


def _foretells_nothing() -> DataError:
    return DataError(
        "the network does not foretell text, so that it has no loss: it gives no logits for tokens "
        "that depend on those before them alone",
        tip="`alds evaluate --baseline MODEL`, without --max-loss-rise, compares what two networks "
        "give for the same tokens",
    )


def _answers(run: Run, inputs: Tokens, *, causal: bool) -> list[Tensor]:
    """Return what a network gives for the tokens of each text, or for the text: (places, …)."""
    output = accepted(run, inputs)
    found = token_logits(output, inputs)
    if found is None and not causal:
        found = token_states(output, inputs)
    if found is None:
        return list(logits_of(output, len(inputs), "compared on texts")[:, None])
    return of_each_text(found, inputs)
