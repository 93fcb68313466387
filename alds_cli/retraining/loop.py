"""Stochastic gradient descent over a compressed network.

Every random number comes from (seed, epoch), so a run that goes on from the state after
an epoch gives the weights of a run that was never interrupted: on the CPU to the bit, if
the number of threads is the same. oneDNN and MKL split long sums by threads, in the weight
gradient of a convolution and in large matrix products, which changes their last bits.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from alds_cli.network.logits import logits_of
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    EpochRecord,
    Fingerprint,
    Preprocessing,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.retraining.state import TrainingState
from alds_cli.tracing.trace import evaluation_mode, training_mode

_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """A finished run: a record of every epoch, those before a resumption included."""

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

    All parameters are trained, those that were frozen too. A network in half precision is
    trained on float32 weights and cast back at the end, because updates of a learning
    rate's size vanish in eleven bits. Modes, devices and `requires_grad` are afterwards
    what they were. A network that returns a tuple in training, as GoogLeNet with its
    auxiliary heads, is trained by the first entry.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes).
        dataset: the training images.
        settings: the hyperparameters.
        preprocessing: what the network was trained with.
        device: where to compute; None is where the network lies.
        workers: threads that decode image files; they do not change the result.
        progress: told after each step, task "retrain", in steps of the whole run.
        resume: go on after the epochs of this state instead of from the network's weights.
        on_epoch_end: handed the state after every epoch; it may keep it.

    Raises:
        ContractError: the training diverged; the weights are then of no use.
        DataError: the images, their labels and the network do not go together.
        OptionError: `resume` belongs to a run with other settings.
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
    with _master_weights(module, device) as held, training_mode(module):
        run = _Run(module, dataset, settings, preprocessing, held, workers, progress)
        history = () if resume is None else run.restore(resume)
        for epoch in range(len(history), settings.epochs):
            history = (*history, run.epoch(epoch))
            if on_epoch_end is not None:
                fingerprint = fingerprint or dataset.fingerprint()
                on_epoch_end(run.state(history, fingerprint))
    return RetrainResult(history)


class _Run:
    """The network, its optimiser and what stays the same from epoch to epoch."""

    def __init__(
        self,
        module: nn.Module,
        dataset: LabelledImages,
        settings: RetrainSettings,
        preprocessing: Preprocessing,
        held: _Held,
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
        self._optimiser = torch.optim.SGD(
            self._parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )

    def epoch(self, epoch: int) -> EpochRecord:
        """Train on every image once; `epoch` counts from 0."""
        start = time.monotonic()
        batches = self._batches(epoch)
        loss = correct = lr = 0.0
        with _seeded(_seed(self._settings.seed, epoch, "network"), self._device):
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
        """Whether the last update left a network to keep, which no step after it tells.

        Weights and statistics must be finite, also in the precision that they go back to,
        and so must be the loss of the epoch's last batch, by the network as it will be used.
        """
        if not self._held.finite():
            return False
        with evaluation_mode(self._module), torch.no_grad():
            logits = self._forward(inputs)
            return math.isfinite(F.cross_entropy(logits.float(), labels.to(logits.device)).item())

    def _batches(self, epoch: int) -> Batches:
        seed = _seed(self._settings.seed, epoch, "images")
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
        """One update; gives the mean loss before it and the number of images it had right."""
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        logits = self._forward(inputs)
        check_labels(labels, logits.shape[1])
        targets = labels.to(self._device)
        loss = F.cross_entropy(logits, targets, label_smoothing=self._settings.label_smoothing)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss.item(), int((logits.argmax(dim=1) == targets).sum())

    def _forward(self, inputs: Tensor) -> Tensor:
        dtype = self._parameters[0].dtype
        try:
            output = self._module(inputs.to(self._device, dtype))
        except (RuntimeError, ValueError, AssertionError) as error:
            # A network refuses a wrong size in whatever way its author chose.
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
        """A copy of everything the next epoch depends on, in main memory."""
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
        """Put network and optimiser where `state` left them."""
        # All is looked at before anything is changed.
        model = state.model_like(self._module.state_dict())
        optimiser = state.optimiser_like(self._optimiser.state_dict(), self._parameters)
        self._module.load_state_dict(model)
        self._optimiser.load_state_dict(optimiser)
        return state.history


@dataclass(frozen=True, slots=True)
class _Held:
    """A network's tensors while it trains.

    Attributes:
        device: where they lie.
        homes: each with the device, the type and the `requires_grad` that it came with.
        infinite: those that held NaN or infinities from the start, as masks do.
    """

    device: torch.device
    homes: Sequence[tuple[Tensor, torch.device, torch.dtype, bool]]
    infinite: Collection[int]

    def finite(self) -> bool:
        """Whether all numbers are, in the type they go back to, that were so in the beginning."""
        return all(
            index in self.infinite or _is_finite(tensor.data.to(dtype))
            for index, (tensor, _, dtype, _) in enumerate(self.homes)
        )


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


@contextmanager
def _master_weights(module: nn.Module, device: torch.device | None) -> Iterator[_Held]:
    """Hold the network on `device`, trainable, halves widened; then put all of it back."""
    tensors = [*module.parameters(), *module.buffers()]
    place = device or (tensors[0].device if tensors else torch.device("cpu"))
    homes = [(tensor, tensor.device, tensor.dtype, tensor.requires_grad) for tensor in tensors]
    if not any(parameter.is_floating_point() for parameter in module.parameters()):
        raise DataError("the network has no parameters to train", tip="name another checkpoint")
    infinite = [index for index, tensor in enumerate(tensors) if not _is_finite(tensor.data)]
    try:
        for tensor, _, dtype, _ in homes:
            tensor.data = tensor.data.to(place, torch.float32 if dtype in _HALVES else dtype)
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        yield _Held(place, homes, infinite)
    finally:
        for tensor, home, dtype, trainable in homes:
            tensor.grad = None
            tensor.requires_grad_(trainable)
            tensor.data = tensor.data.to(home, dtype)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and its like draw from the global generators: lend them a seed, then restore."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _seed(seed: int, epoch: int, purpose: str) -> int:
    """63 bits that differ for every seed, epoch and purpose."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _check_finite(loss: float, epoch: int, step: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise ContractError(
            f"retraining diverged in epoch {epoch + 1}, step {step + 1}, "
            f"at a learning rate of {lr:g}: the loss is no longer finite",
            tip="use a smaller --lr or a longer --warmup-epochs; no result was written",
        )


def _copied(values: Any) -> Any:
    """A copy of any nesting of dictionaries and lists, its tensors in main memory."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, Mapping):
        return {key: _copied(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_copied(value) for value in values]
    return values


def learning_rate(settings: RetrainSettings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of step 0, 1, … of the whole run.

    The warm-up's first step already moves: it takes lr / (steps of the warm-up), and the
    last one takes lr.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    total = settings.epochs * steps_per_epoch
    passed = sum(step >= milestone * total for milestone in settings.milestones)
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    return settings.lr * rise * settings.gamma**passed
