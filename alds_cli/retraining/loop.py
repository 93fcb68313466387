"""Training of a network by gradients.

Every random number is derived from (seed, epoch), so a run that is resumed after an epoch
gives the same weights as one that was never interrupted. On the CPU they agree to the bit if
the number of threads is the same: oneDNN and MKL split long sums among the threads, in the
weight gradients of convolutions and in large matrix products, which changes the last bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import (
    Batches,
    LabelledImages,
    check_labels,
    choose_augmentation,
)
from alds_cli.errors import ContractError, DataError, first_line
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    EpochRecord,
    Fingerprint,
    Preprocessing,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.retraining.held_weights import (
    HeldWeights,
    derived_seed,
    master_weights,
    seeded,
)
from alds_cli.retraining.optimisers import optimiser_of
from alds_cli.retraining.schedules import learning_rate
from alds_cli.retraining.state import TrainingState
from alds_cli.tracing.logits import logits_of
from alds_cli.tracing.trace import evaluation_mode, training_mode


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """The result of a finished run: a record of every epoch, including those before a resume."""

    history: tuple[EpochRecord, ...]


def retrain(
    module: nn.Module,
    dataset: LabelledImages,
    settings: RetrainSettings,
    *,
    preprocessing: Preprocessing,
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
        module: a network from (n, C, H, W) to logits (n, classes).
        dataset: the training images.
        settings: the hyperparameters.
        preprocessing: the preprocessing that the network was trained with.
        device: where to compute; None means the device of the network.
        workers: number of threads that decode image files; it does not change the result.
        progress: called after each step with the task `retrain`, counting steps of the run.
        resume: a state to resume from, instead of starting from the network's weights.
        on_epoch_end: called with the state after every epoch, which it may keep.

    Raises:
        ContractError: the training diverged, and the weights are of no use.
        DataError: the images, their labels and the network do not fit together.
        OptionError: `resume` belongs to a run with other settings or other images.
        CheckpointError: `resume` belongs to another network.
    """
    if len(dataset) < 2:
        raise DataError(
            f"{dataset.name} holds one image, which is too few to train on",
            tip="name a set with more images",
        )
    fingerprint: Fingerprint | None = None
    if resume is not None:
        fingerprint = resume.check_continues(settings, preprocessing, dataset)
    with master_weights(module, device) as held, training_mode(module):
        run = _Run(module, dataset, settings, preprocessing, held, workers, progress)
        history = () if resume is None else run.restore(resume)
        for epoch in range(len(history), settings.epochs):
            history = (*history, run.epoch(epoch))
            if on_epoch_end is not None:
                fingerprint = fingerprint or dataset.fingerprint()
                on_epoch_end(run.state(history, fingerprint))
    return RetrainResult(history)


class _Run:
    """A retraining run: the network, its optimiser, and the settings of all epochs."""

    def __init__(
        self,
        module: nn.Module,
        dataset: LabelledImages,
        settings: RetrainSettings,
        preprocessing: Preprocessing,
        held: HeldWeights,
        workers: int,
        progress: ProgressCallback | None,
    ) -> None:
        self._module = module
        self._dataset = dataset
        self._settings = settings
        self._preprocessing = preprocessing
        self._held = held
        self._device = held.device
        self._workers = workers
        self._progress = progress
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._optimiser = optimiser_of(settings, self._parameters)

    def epoch(self, epoch: int) -> EpochRecord:
        """Train on every image once; `epoch` counts from 0."""
        start = time.monotonic()
        batches = self._batches(epoch)
        loss = correct = lr = 0.0
        with seeded(derived_seed(self._settings.seed, epoch, "network"), self._device):
            for step, (inputs, labels) in enumerate(batches):
                lr = learning_rate(self._settings, epoch * len(batches) + step, len(batches))
                batch_loss, batch_correct = self._step(inputs, labels, lr)
                _check_finite(batch_loss, epoch, step, lr)
                loss += batch_loss * len(labels)
                correct += batch_correct
                self._tell(epoch, step, len(batches), batch_loss, batch_correct / len(labels), lr)
            if not self._sound(inputs, labels):
                _check_finite(math.inf, epoch, len(batches) - 1, lr)
        images = len(self._dataset)
        seconds = time.monotonic() - start
        return EpochRecord(epoch + 1, lr, loss / images, 100 * correct / images, seconds)

    def _sound(self, inputs: Tensor, labels: Tensor) -> bool:
        """Check the network after the last update of an epoch, which no later step would do.

        Return whether its weights and statistics are finite in the precision they are cast
        back to, and whether its loss on the given batch is finite in evaluation mode.
        """
        if not self._held.finite():
            return False
        with evaluation_mode(self._module), torch.no_grad():
            logits = self._forward(inputs)
            return math.isfinite(F.cross_entropy(logits.float(), labels.to(logits.device)).item())

    def _batches(self, epoch: int) -> Batches:
        """Return the shuffled and augmented batches of an epoch."""
        seed = derived_seed(self._settings.seed, epoch, "images")
        return Batches(
            self._dataset,
            self._preprocessing,
            batch_size=self._settings.batch_size,
            augmentation=choose_augmentation(self._settings.augmentation, self._preprocessing),
            generator=torch.Generator().manual_seed(seed),
            merge_last=True,
            workers=self._workers,
        )

    def _step(self, inputs: Tensor, labels: Tensor, lr: float) -> tuple[float, int]:
        """Make one update; return the mean loss and the number of correct images before it."""
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        logits = self._forward(inputs)
        check_labels(labels, logits.shape[1])
        targets = labels.to(self._device)
        loss = F.cross_entropy(logits, targets, label_smoothing=self._settings.label_smoothing)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        self._optimiser.step()
        return loss.item(), int((logits.argmax(dim=1) == targets).sum())

    def _forward(self, inputs: Tensor) -> Tensor:
        dtype = self._parameters[0].dtype
        try:
            output = self._module(inputs.to(self._device, dtype))
        except (RuntimeError, ValueError, AssertionError) as error:
            # Networks raise various errors if the size of the input is wrong.
            raise DataError(
                f"the network cannot train on inputs of shape {tuple(inputs.shape)}: "
                f"{first_line(error)}",
                tip="give the images the size it was trained with, or use a smaller --batch-size",
            ) from error
        return logits_of(output, len(inputs), "retrained")

    def _tell(
        self, epoch: int, step: int, steps: int, loss: float, right: float, lr: float
    ) -> None:
        if self._progress is not None:
            figures = {"loss": loss, "accuracy": 100 * right, "lr": lr, "epoch": epoch + 1.0}
            done, total = epoch * steps + step + 1, self._settings.epochs * steps
            self._progress(ProgressEvent("retrain", done, total, figures))

    def state(self, history: tuple[EpochRecord, ...], fingerprint: Fingerprint) -> TrainingState:
        """Copy everything that the next epoch depends on to main memory."""
        return TrainingState(
            self._settings,
            self._preprocessing,
            len(self._dataset),
            fingerprint,
            history,
            _copied(self._module.state_dict()),
            _copied(self._optimiser.state_dict()),
        )

    def restore(self, state: TrainingState) -> tuple[EpochRecord, ...]:
        """Restore the network and the optimiser from a state, and return its history."""
        # Check everything before changing anything.
        model = state.model_like(self._module.state_dict())
        optimiser = state.optimiser_like(self._optimiser.state_dict(), self._parameters)
        self._module.load_state_dict(model)
        self._optimiser.load_state_dict(optimiser)
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
    if isinstance(values, list):
        return [_copied(value) for value in values]
    return values
