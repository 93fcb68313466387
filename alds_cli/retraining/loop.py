"""Training of a network by gradients.

Every random number is derived from (seed, epoch), so a run that is resumed after an epoch
gives the same weights as one that was never interrupted. On the CPU they agree to the bit if
the number of threads is the same: oneDNN and MKL split long sums among the threads, in the
weight gradients of convolutions and in large matrix products, which changes the last bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.datasets import LabelledImages
from alds_cli.errors import ContractError, DataError, OptionError, first_line
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    Choice,
    EpochRecord,
    Preprocessing,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.retraining.averaging import WeightAverage
from alds_cli.retraining.held_weights import (
    HeldWeights,
    derived_seed,
    master_weights,
    seeded,
)
from alds_cli.retraining.judging import Judgement, RunImages, has_labels
from alds_cli.retraining.memory_layout import channels_last
from alds_cli.retraining.mixing import mixture
from alds_cli.retraining.objective import MixedBatch, Objective
from alds_cli.retraining.optimisers import optimiser_of
from alds_cli.retraining.pair_decay import ProductDecay, product_decay
from alds_cli.retraining.schedules import learning_rate
from alds_cli.retraining.state import SeenImages, TrainingState
from alds_cli.runtime.devices import evaluating
from alds_cli.tracing.trace import evaluation_mode, floating_type, training_mode


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """The result of a finished run: a record of every epoch, including those before a resume.

    `kept` is the epoch whose weights the network has, counted from 1.
    """

    history: tuple[EpochRecord, ...]
    kept: int


def retrain(
    module: nn.Module,
    dataset: LabelledImages,
    settings: RetrainSettings,
    *,
    preprocessing: Preprocessing,
    teacher: nn.Module | None = None,
    judges: LabelledImages | None = None,
    pairs: Mapping[str, Choice] | None = None,
    device: torch.device | None = None,
    workers: int = 0,
    progress: ProgressCallback | None = None,
    resume: TrainingState | None = None,
    on_epoch_end: Callable[[TrainingState], None] | None = None,
) -> RetrainResult:
    """Train a network in place.

    All floating-point parameters are trained, including frozen ones. A network in half
    precision is trained with float32 weights and cast back at the end, because small updates
    are lost in the 8 or 11 significant bits of its types. Training modes, devices and
    `requires_grad` are restored afterwards. If the network returns a tuple in training, as
    GoogLeNet does with its auxiliary heads, the loss is taken of the first entry.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes), or to (n, classes, H, W) for
            images with masks.
        dataset: the training images.
        settings: the hyperparameters.
        preprocessing: the preprocessing that the network was trained with.
        teacher: a network with the same inputs and outputs to learn from; left unchanged.
        judges: images that judge after every epoch; None holds back as many as the settings say.
        pairs: the choices of the layers that are pairs, for decay of their products.
        device: where to compute; None means the device of the network.
        workers: number of threads that decode image files; it does not change the result.
        progress: called after each step with the task `retrain`, counting steps of the run.
        resume: a state to resume from, instead of starting from the network's weights.
        on_epoch_end: called with the state after every epoch, which it may keep.

    Raises:
        ContractError: the training diverged, and the weights are of no use.
        DataError: the images, their labels and the networks do not fit together.
        OptionError: `resume` belongs to a run with other settings or other images, the settings
            and `judges` contradict each other, or the device does not compute in the precision.
        CheckpointError: `resume` belongs to another network.
    """
    _require_trainable(dataset, settings, teacher)
    seen = SeenImages(dataset, judges)
    if resume is not None:
        resume.check_continues(settings, preprocessing, seen)
    with ExitStack() as stack:
        held = stack.enter_context(master_weights(module, device))
        _require_precision(settings, held.device)
        if teacher is not None:
            teacher = stack.enter_context(evaluating(teacher, held.device))
        objective = Objective(settings, teacher, labelled=has_labels(dataset))
        decay = product_decay(module, pairs or {}, settings)
        images = RunImages(dataset, settings, preprocessing, judges, workers)
        fast = ("cpu",) if settings.precision == "float32" else ("cpu", "cuda")
        for network in filter(None, (module, teacher)):
            shape, dtype = (2, *images.input_shape), floating_type(network)
            sample = torch.zeros(shape, dtype=dtype, device=held.device)
            stack.enter_context(channels_last(network, sample, devices=fast))
        stack.enter_context(training_mode(module))
        run = _Run(module, images, settings, held, objective, decay, progress)
        history = () if resume is None else run.restore(resume)
        while len(history) < settings.epochs and not _exhausted(history, settings):
            history = (*history, run.epoch(len(history)))
            if on_epoch_end is not None:
                on_epoch_end(run.state(history, seen))
        run.settle()
    return RetrainResult(history, best_epoch(history))


def best_epoch(history: Sequence[EpochRecord]) -> int:
    """Return the epoch of least loss on images held back, counted from 1; the last without any."""
    judged = [
        (own.validation_loss, own.epoch) for own in history if own.validation_loss is not None
    ]
    return min(judged)[1] if judged else len(history)


def _exhausted(history: Sequence[EpochRecord], settings: RetrainSettings) -> bool:
    """Return whether so many epochs made nothing better that the training ends."""
    if settings.patience is None or not history:
        return False
    return len(history) - best_epoch(history) >= settings.patience


def _require_trainable(
    dataset: LabelledImages, settings: RetrainSettings, teacher: nn.Module | None
) -> None:
    if len(dataset) < 2:
        raise DataError(
            f"{dataset.name} holds one image, which is too few to train on",
            tip="name a set with more images",
        )
    if not has_labels(dataset) and (teacher is None or settings.label_weight > 0):
        raise DataError(
            f"{dataset.name} has no labels to train on",
            tip="name a set with labels, or learn from a --teacher with a --label-weight of 0",
        )


def _require_precision(settings: RetrainSettings, device: torch.device) -> None:
    if settings.precision == "float16" and device.type != "cuda":
        raise OptionError(
            f"training in float16 needs CUDA, and this is {device}",
            tip="--precision bfloat16 or float32",
        )


class _Run:
    """A training run: the network, its optimiser, and the settings of all epochs.

    What an epoch draws depends on the seed, the epoch and the step alone, apart from what the
    network draws itself.
    """

    def __init__(
        self,
        module: nn.Module,
        images: RunImages,
        settings: RetrainSettings,
        held: HeldWeights,
        objective: Objective,
        decay: ProductDecay | None,
        progress: ProgressCallback | None,
    ) -> None:
        self._module = module
        self._images = images
        self._settings = settings
        self._held = held
        self._device = held.device
        self._objective = objective
        self._progress = progress
        halves = [] if decay is None else decay.halves
        apart = {id(own) for own in halves}
        others = [p for p in module.parameters() if p.requires_grad and id(p) not in apart]
        self._decay = decay
        self._parameters = [*others, *halves]
        self._optimiser = optimiser_of(settings, others, halves)
        self._average = None if settings.ema is None else WeightAverage(module, held, settings.ema)
        self._scaler = torch.amp.GradScaler("cuda", enabled=settings.precision == "float16")
        self._best_loss = math.inf
        self._best: Mapping[str, Tensor] | None = None

    def epoch(self, epoch: int) -> EpochRecord:
        """Train on every image once, and judge; `epoch` counts from 0."""
        start = time.monotonic()
        batches = self._images.epoch(epoch)
        loss = correct = lr = 0.0
        with seeded(derived_seed(self._settings.seed, epoch, "network"), self._device):
            for step, (inputs, labels) in enumerate(batches):
                lr = learning_rate(self._settings, epoch * len(batches) + step, len(batches))
                batch = self._mixed(inputs, labels, epoch, step)
                batch_loss, batch_correct = self._step(batch, lr)
                _check_finite(batch_loss, epoch, step, lr)
                loss += batch_loss * len(labels)
                correct += batch_correct
                self._tell(epoch, step, len(batches), batch_loss, batch_correct / len(labels), lr)
            if not self._sound(batch):
                _check_finite(math.inf, epoch, len(batches) - 1, lr)
            judgement = self._judged()
        images = self._images.count
        record = EpochRecord(
            epoch + 1,
            lr,
            loss / images,
            min(100.0, 100 * correct / images),
            time.monotonic() - start,
        )
        if judgement is None:
            return record
        return replace(
            record, validation_loss=judgement.loss, validation_accuracy=judgement.accuracy
        )

    def _mixed(self, inputs: Tensor, labels: Tensor, epoch: int, step: int) -> MixedBatch:
        """Return a batch with its images mixed, on the device and in the network's type."""
        share = 1.0
        if self._settings.mixup > 0 or self._settings.cutmix > 0:
            seed = derived_seed(self._settings.seed, epoch, f"mixture {step}")
            inputs, share = mixture(inputs, self._settings, seed)
        return self._placed(inputs, labels, share)

    def _placed(self, inputs: Tensor, labels: Tensor, share: float = 1.0) -> MixedBatch:
        dtype = self._parameters[0].dtype
        return MixedBatch(inputs.to(self._device, dtype), labels.to(self._device), share)

    def _sound(self, batch: MixedBatch) -> bool:
        """Check the network after the last update of an epoch, which no later step would do.

        Return whether its weights and statistics are finite in the precision they are cast
        back to, and whether its loss on the given batch is finite in evaluation mode.
        """
        if not self._held.finite():
            return False
        with evaluation_mode(self._module), torch.no_grad(), self._precision():
            loss, _ = self._objective(self._output(batch), batch)
            return math.isfinite(loss.item())

    def _judged(self) -> Judgement | None:
        """Judge the network as it would be written, and keep it if it is the best so far."""
        judges = self._images.judges
        if judges is None:
            return None
        loss, correct, images = 0.0, 0.0, len(judges.dataset)
        with self._averaged():
            with (
                self._held.rounded(),
                evaluation_mode(self._module),
                torch.no_grad(),
                self._precision(),
            ):
                for inputs, labels in judges:
                    batch = self._placed(inputs, labels)
                    found, right = self._objective.judged(self._output(batch), batch)
                    loss += found.item() * len(labels) / images
                    correct += right.sum().item()
            if loss < self._best_loss:
                self._best_loss, self._best = loss, _copied(self._module.state_dict())
        return Judgement(loss, min(100.0, 100 * correct / images))

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self._average is None else self._average.instead()

    def _precision(self) -> AbstractContextManager[object]:
        """Return the context in which the network computes in the precision asked for."""
        name = self._settings.precision
        if name == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, getattr(torch, name))

    def _step(self, batch: MixedBatch, lr: float) -> tuple[float, float]:
        """Make one update; return the mean loss and the number of correct images before it."""
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        with self._precision():
            loss, right = self._objective(self._output(batch), batch)
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._settings.clip_norm is not None or self._decay is not None:
            self._scaler.unscale_(self._optimiser)
        if self._settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        if self._decay is not None:
            self._decay.apply(lr)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self._average is not None:
            self._average.update()
        return loss.item(), right.sum().item()

    def _output(self, batch: MixedBatch) -> object:
        inputs = batch.inputs
        try:
            return self._module(inputs)
        except (RuntimeError, ValueError, AssertionError) as error:
            # Networks raise various errors if the size of the input is wrong.
            raise DataError(
                f"the network cannot train on inputs of shape {tuple(inputs.shape)}: "
                f"{first_line(error)}",
                tip="give the images the size it was trained with, or use a smaller --batch-size",
            ) from error

    def _tell(
        self, epoch: int, step: int, steps: int, loss: float, right: float, lr: float
    ) -> None:
        if self._progress is not None:
            figures = {"loss": loss, "accuracy": 100 * right, "lr": lr, "epoch": epoch + 1.0}
            done, total = epoch * steps + step + 1, self._settings.epochs * steps
            self._progress(ProgressEvent("retrain", done, total, figures))

    def settle(self) -> None:
        """Give the network the weights that the run results in."""
        if self._best is not None:
            self._module.load_state_dict(self._best)
        elif self._average is not None:
            self._average.settle()

    def state(self, history: tuple[EpochRecord, ...], seen: SeenImages) -> TrainingState:
        """Copy everything that the next epoch depends on to main memory."""
        return TrainingState(
            self._settings,
            self._images.preprocessing,
            len(self._images.dataset),
            seen.fingerprint,
            history,
            _copied(self._module.state_dict()),
            _copied(self._optimiser.state_dict()),
            None if self._average is None else _copied(self._average.tensors),
            self._best,
            self._scaler.state_dict() if self._scaler.is_enabled() else None,
            seen.validation,
        )

    def restore(self, state: TrainingState) -> tuple[EpochRecord, ...]:
        """Restore the network and the optimiser from a state, and return its history."""
        # Check everything before changing anything.
        expected = self._module.state_dict()
        model = state.model_like(expected)
        optimiser = state.optimiser_like(self._optimiser.state_dict(), self._parameters)
        averages = state.averages_like(() if self._average is None else self._average.tensors)
        best = state.best_like(expected, judged=self._images.judges is not None)
        scaler = state.scaler_like(self._scaler.state_dict())
        self._module.load_state_dict(model)
        self._optimiser.load_state_dict(optimiser)
        self._scaler.load_state_dict(scaler)
        if self._average is not None:
            self._average.restore(averages)
        if best is not None:
            losses = [own.validation_loss for own in state.history]
            self._best, self._best_loss = best, min(own for own in losses if own is not None)
        return state.history


def _check_finite(loss: float, epoch: int, step: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise ContractError(
            f"retraining diverged in epoch {epoch + 1}, step {step + 1}, "
            f"at a learning rate of {lr:g}: the loss is no longer finite",
            tip="use a smaller --lr or a longer --warmup-epochs; no result was written",
        )


def _copied(values: Any) -> Any:
    """Copy nested dictionaries and lists, with their tensors in main memory."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, Mapping):
        return {key: _copied(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_copied(value) for value in values]
    return values
