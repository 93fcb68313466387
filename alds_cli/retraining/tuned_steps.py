"""The steps of a tuning towards an original network, and the state between any two of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.datasets import Batches, TokenBatches
from alds_cli.errors import DataError
from alds_cli.records import ProgressCallback, ProgressEvent, Tuning
from alds_cli.retraining.answer_errors import AnswerErrors
from alds_cli.retraining.block_outputs import BlockOutputs
from alds_cli.retraining.held_weights import HeldWeights
from alds_cli.retraining.state import in_memory
from alds_cli.retraining.updates import Updates
from alds_cli.runtime.devices import accepted
from alds_cli.runtime.interruption import Interruption
from alds_cli.tracing.tokens import Inputs, call
from alds_cli.tracing.trace import floating_type

_PROMILLE = 1000
"""The units of progress where only the time is limited."""

_KEPT_EVERY = 60.0
"""The seconds after which the state is kept again."""

_REMEMBERED = {"step", "exp_avg", "exp_avg_sq"}
"""What AdamW keeps of a parameter."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters of tuning.

    They were chosen on ResNet20 and ResNet56 with 1,800 images of CIFAR-10, by the divergence of
    the answers on other training images: the best at ratios of 0.3, 0.5 and 0.7 alike. At half of
    ResNet20's parameters the divergence was 0.027, and 0.047 without mix-up and with a weight of 1
    for the blocks; 0.057 without blocks; 0.049 with batch normalisation in training mode.

    The rate that suits these networks is too fast for others, such as a MobileNetV2. With it the
    loss of these rises too at first, and falls below that of the untuned one within half of a run.

    Attributes:
        lr: AdamW's learning rate after the warm-up; it falls to 0 as a cosine.
        slowing: the rate is multiplied by it when half of the budget, or of what is left of it, has
            made nothing better; then the rest begins anew with the untuned weights.
        warmup: steps of the linear warm-up, at most a tenth of all.
        batch_size: samples in a step. Images are divided evenly, so it is near that; of texts, it
            is at most that.
        temperature: divides the logits of both networks, in (0, ∞).
        block_weight: of the mean relative squared error of the blocks' outputs, beside the
            divergence of the answers times the square of the temperature.
        mixup: whether every image is mixed with its neighbour in the batch, by a share drawn
            uniformly from [0, 1); texts never are.
        augmentation: of images, a name in `datasets.AUGMENTATIONS`, or `auto`.
        held_back: the share of the samples that judge and are not tuned on; at least one.
        checks: how often they judge, spread evenly over the run.
    """

    lr: float = 1e-3
    slowing: float = 0.125
    warmup: int = 50
    batch_size: int = 128
    temperature: float = 2.0
    block_weight: float = 20.0
    mixup: bool = True
    augmentation: str = "auto"
    held_back: float = 0.1
    checks: int = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """When tuning ends: after `steps` steps or `minutes` minutes, whichever comes first."""

    steps: int | None
    minutes: float | None


@dataclass(frozen=True, slots=True)
class TuningJudgement:
    """The mean loss on the samples held back, and how alike both networks' answers for them are.

    See `AnswerErrors.likeness`.
    """

    loss: float
    likeness: float


@dataclass(slots=True)
class TuningProgress:
    """What a tuning has come to.

    Attributes:
        lr: the largest learning rate, after it was lowered.
        first: how the untuned network was judged.
        best: how the best one was.
        step: how many steps are made.
        best_step: after how many the best network was seen; 0 is before all.
        checked: how often networks were judged on the way.
        begun: the part of the budget that was spent when it last began anew.
        seconds: what the steps before an interruption took.
    """

    lr: float
    first: TuningJudgement
    best: TuningJudgement
    step: int = 0
    best_step: int = 0
    checked: int = 0
    begun: float = 0.0
    seconds: float = 0.0


class TunedSteps:
    """One tuning: both networks, the optimiser, and when it ends."""

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        blocks: BlockOutputs,
        judges: Batches | TokenBatches,
        held: HeldWeights,
        recipe: Recipe,
        budget: Budget,
        errors: AnswerErrors,
    ) -> None:
        self._errors = errors
        self._network, self._teacher = network, teacher
        self._blocks, self._judges = blocks, judges
        self._held, self._recipe, self._budget = held, recipe, budget
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._dtypes = floating_type(teacher), floating_type(network)
        optimiser = torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=0.0)
        self._updates = Updates(optimiser, self._parameters)
        self._untuned = self._best = self._copied()
        first = self._judged()
        self._at = TuningProgress(lr=recipe.lr, first=first, best=first)
        self._start = time.perf_counter()

    @property
    def step(self) -> int:
        """How many steps are made."""
        return self._at.step

    def tuned(
        self,
        batches: Iterator[Inputs],
        images: int,
        progress: ProgressCallback | None,
        keep: Callable[[Mapping[str, Any]], None] | None,
        asked: Interruption,
    ) -> Tuning:
        """Tune until the budget is spent or the loss is not finite; keep the best weights.

        Args:
            batches: those of the steps to come: images (n, C, H, W), or texts.
            images: how many samples are tuned on, for the report.
            progress: called after each step.
            keep: given the state every minute, and when the process is asked to stop.
            asked: whether it is.

        Raises:
            KeyboardInterrupt: the process was asked to stop, and its state is kept.
        """
        kept, diverged = time.perf_counter(), False
        while self._spent() < 1 and not diverged:
            loss = self._step(next(batches), self._at.lr * self._rise_and_fall())
            self._at.step += 1
            diverged = not math.isfinite(loss)
            if not diverged:
                self._check()
            self._tell(progress, loss)
            if keep is not None and (asked or time.perf_counter() - kept >= _KEPT_EVERY):
                kept = time.perf_counter()
                keep(self._state())
            if asked:
                raise KeyboardInterrupt
        self._put_back(self._best)
        at = self._at
        likenesses = at.first.likeness, at.best.likeness
        states = self._errors.states
        agreements = (None, None) if states else tuple(100 * own for own in likenesses)
        cosines = likenesses if states else (None, None)
        return Tuning(
            steps=at.step,
            best_step=at.best_step,
            lr=at.lr,
            images=images,
            held_back=len(self._judges.dataset),
            loss_before=at.first.loss,
            loss_after=at.best.loss,
            agreement_before=agreements[0],
            agreement_after=agreements[1],
            diverged=diverged,
            seconds=self._seconds,
            cosine_before=cosines[0],
            cosine_after=cosines[1],
        )

    def _check(self) -> None:
        """Judge the network where that is due, and begin more slowly where nothing got better."""
        at, spent = self._at, self._spent()
        due = math.floor(spent * self._recipe.checks)
        if due <= at.checked:
            return
        at.checked = due
        found = self._judged()
        if found.loss < at.best.loss:
            at.best, at.best_step, self._best = found, at.step, self._copied()
        elif at.best_step == 0 and spent >= (1 + at.begun) / 2:
            self._put_back(self._untuned)
            self._updates.optimiser.state.clear()
            at.lr, at.begun = at.lr * self._recipe.slowing, spent

    def _tell(self, progress: ProgressCallback | None, loss: float) -> None:
        if progress is not None:
            total = self._budget.steps or _PROMILLE
            done = min(total, round(self._spent() * total))
            progress(ProgressEvent("tune", done, total, {"loss": loss}))

    @property
    def _seconds(self) -> float:
        """The seconds of all steps, those before an interruption included."""
        return self._at.seconds + time.perf_counter() - self._start

    def _state(self) -> dict[str, Any]:
        """Return tensors in main memory and plain values: all that the next step depends on."""
        plain = {**asdict(self._at), "seconds": self._seconds}
        tensors = {"parameters": self._parameters, "best": self._best}
        remembered = self._updates.optimiser.state_dict()["state"]
        state: dict[str, Any] = in_memory({"at": plain, **tensors, "optimiser": remembered})
        return state

    def restore(self, state: object) -> bool:
        """Go on from a state of the same tuning, and return whether it is one."""
        try:
            restored, parameters, best, momenta = self._read(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            return False
        self._updates.restore({**self._updates.optimiser.state_dict(), "state": momenta}, {})
        self._put_back(parameters)
        self._at, self._best = restored, best
        self._start = time.perf_counter()
        return True

    def _read(self, state: Any) -> tuple[TuningProgress, list[Tensor], list[Tensor], Any]:
        """Return the parts of a state; raise an error of some kind if it is something else."""
        at = dict(state["at"])
        first, best = (TuningJudgement(**at.pop(name)) for name in ("first", "best"))
        parameters, best_ones = (self._alike(state[name]) for name in ("parameters", "best"))
        momenta = {}
        for index, entry in state["optimiser"].items():
            if set(entry) != _REMEMBERED:
                raise ValueError("another optimiser")
            like = self._parameters[index]
            momenta[index] = {
                key: _finite(own) if key == "step" else _finite(own).view_as(like)
                for key, own in entry.items()
            }
        return TuningProgress(**at, first=first, best=best), parameters, best_ones, momenta

    def _alike(self, tensors: Any) -> list[Tensor]:
        """Return finite tensors that can take the places of the parameters."""
        return [
            _finite(own).to(parameter.device).view_as(parameter)
            for own, parameter in zip(tensors, self._parameters, strict=True)
        ]

    def _spent(self) -> float:
        """Return which part of the budget is spent, from 0 to 1."""
        steps, minutes = self._budget.steps, self._budget.minutes
        parts = [0.0]
        if steps is not None:
            parts.append(self._at.step / steps)
        if minutes is not None:
            parts.append(self._seconds / (60 * minutes))
        return min(1.0, max(parts))

    def _rise_and_fall(self) -> float:
        """Return the learning rate of the next step, as a part of the largest."""
        steps, begun = self._budget.steps, self._at.begun
        warmup = self._recipe.warmup if steps is None else min(self._recipe.warmup, steps // 10)
        rise = min(1.0, (self._at.step + 1) / max(1, warmup))
        part = (self._spent() - begun) / (1 - begun) if begun < 1 else 1.0
        return rise * 0.5 * (1 + math.cos(math.pi * part))

    def _copied(self) -> Sequence[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def _put_back(self, weights: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, weights, strict=True):
            parameter.data.copy_(value)

    def _step(self, inputs: Inputs, lr: float) -> float:
        """Make one update, unless the loss is not finite; return the loss before it."""
        with _memory_told(len(inputs)):
            loss, _ = self._compared(inputs)
            value = loss.item()
            if not math.isfinite(value):
                return value
            if not loss.requires_grad:
                raise DataError(
                    "the network cannot be tuned: no gradient reaches its parameters",
                    tip="leave out --tune-steps and --tune-minutes",
                )
            self._updates.make(loss, lr)
        return value

    def _judged(self) -> TuningJudgement:
        """Measure the network, as it is stored, on the samples held back."""
        loss, likeness, samples = 0.0, 0.0, len(self._judges.dataset)
        with self._held.rounded(), torch.no_grad():
            for inputs, _ in self._judges:
                found, alike = self._compared(inputs)
                loss += found.item() * len(inputs)
                likeness += float(alike.sum())
        return TuningJudgement(loss / samples, likeness / samples)

    def _compared(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return the loss on a batch, and how alike the answers for every sample are, (n,)."""
        self._blocks.inputs = inputs
        with torch.no_grad():
            expected = self._answers(self._teacher, inputs, self._dtypes[0])
        answers = self._answers(self._network, inputs, self._dtypes[1])
        loss, errors = self._errors.loss(answers, expected), self._blocks.error()
        if errors is not None:
            loss = loss + self._recipe.block_weight * errors
        return loss, self._errors.likeness(answers, expected)

    def _answers(self, module: nn.Module, inputs: Inputs, dtype: torch.dtype) -> list[Tensor]:
        device = self._held.device
        output = accepted(lambda own: call(module, own, device, dtype), inputs)
        return self._errors.answers(output, inputs)


def _finite(tensor: Tensor) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise ValueError("not finite")
    return tensor.clone()


@contextmanager
def _memory_told(samples: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DataError(
            f"tuning on {samples} samples at a time does not fit into memory", tip="--device cpu"
        ) from error
