"""Training of a network by gradients.

Every random number is derived from (seed, epoch, step) or is part of the state that is kept, so
a run that is resumed gives the same weights as one that was never interrupted. On the CPU they
agree to the bit if the number of threads is the same: oneDNN and MKL split long sums among the
threads, in the weight gradients of convolutions and in large matrix products, which changes the
last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alds_cli.datasets import Samples, TokenBlocks, noun_of
from alds_cli.errors import DataError, OptionError
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    Choice,
    EpochRecord,
    Preprocessing,
    ProgressCallback,
)
from alds_cli.retraining.compiling import CompiledNetwork, compiler
from alds_cli.retraining.epochs import Epochs
from alds_cli.retraining.held_weights import master_weights
from alds_cli.retraining.judging import RunSamples, has_labels
from alds_cli.retraining.memory_layout import channels_last
from alds_cli.retraining.objective import Objective, RunObjective
from alds_cli.retraining.pair_decay import product_decay
from alds_cli.retraining.shared_statistics import shared_statistics
from alds_cli.retraining.state import SeenSamples, TrainingState
from alds_cli.retraining.text_objective import objective_on
from alds_cli.runtime.devices import evaluating
from alds_cli.runtime.interruption import deferred
from alds_cli.tracing.trace import floating_type, training_mode


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """The result of a finished run: a record of every epoch, including those before a resume.

    `kept` is the epoch whose weights the network has, counted from 1. `last` is the state dict
    after the last epoch, in main memory, where images judged.
    """

    history: tuple[EpochRecord, ...]
    kept: int
    last: Mapping[str, Tensor] | None


def retrain(
    module: nn.Module,
    dataset: Samples,
    settings: RetrainSettings,
    *,
    preprocessing: Preprocessing | None,
    teacher: nn.Module | None = None,
    judges: Samples | None = None,
    pairs: Mapping[str, Choice] | None = None,
    device: torch.device | None = None,
    workers: int = 0,
    progress: ProgressCallback | None = None,
    resume: TrainingState | None = None,
    keep: Callable[[TrainingState], None] | None = None,
    due: Callable[[], bool] | None = None,
) -> RetrainResult:
    """Train a network in place.

    All floating-point parameters are trained, including frozen ones. A network in half
    precision is trained with float32 weights and cast back at the end, because small updates
    are lost in the 8 or 11 significant bits of its types. Training modes, devices and
    `requires_grad` are restored afterwards. If the network returns a tuple in training, as
    GoogLeNet does with its auxiliary heads, the loss is taken of the first entry.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes), or to (n, classes, H, W) for
            images with masks; or from texts to logits of tokens; or, with a teacher, to anything
            that tuning takes.
        dataset: the training images, or texts.
        settings: the hyperparameters.
        preprocessing: the preprocessing that the network was trained with; None for texts.
        teacher: a network with the same inputs and outputs to learn from; left unchanged.
        judges: samples that judge after every epoch; None holds back as many as the settings say.
        pairs: the choices of the layers that are pairs, for decay of their products.
        device: where to compute; None means the device of the network.
        workers: number of threads that decode image files; it does not change the result.
        progress: called after each step with the task `retrain`, counting steps of the run.
        resume: a state to resume from, instead of starting from the network's weights.
        keep: called with the state after every epoch; between steps when that is due, and when a
            signal asks the process to stop, which it does then. It may keep the state.
        due: asked after every step whether its state is to be kept.

    Raises:
        ContractError: the training diverged, and the weights are of no use.
        DataError: the images, their labels and the networks do not fit together.
        OptionError: `resume` belongs to a run with other settings or other samples, the settings
            and `judges` contradict each other, or the device does not compute in the precision; or
            texts are to be changed as images are, or alone to teach a network that foretells none.
        CheckpointError: `resume` belongs to another network.
    """
    _require_trainable(dataset, settings, teacher)
    seen = SeenSamples(dataset, judges)
    if resume is not None:
        resume.check_continues(settings, preprocessing, seen)
    with ExitStack() as stack:
        held = stack.enter_context(master_weights(module, device))
        _require_precision(settings, held.device)
        if teacher is not None:
            teacher = stack.enter_context(evaluating(teacher, held.device))
        decay = product_decay(module, pairs or {}, settings)
        samples = RunSamples(dataset, settings, preprocessing, judges, workers, held.device)
        fast = ("cpu",) if settings.precision == "float32" else ("cpu", "cuda")
        if (shape := samples.input_shape) is not None:
            for network in filter(None, (module, teacher)):
                sample = torch.zeros((2, *shape), dtype=floating_type(network), device=held.device)
                stack.enter_context(channels_last(network, sample, devices=fast))
        if settings.compile:
            stack.enter_context(compiler())
            if teacher is not None:
                teacher = CompiledNetwork(teacher, samples.full, held.device)
        objective = _objective(module, samples, settings, teacher, held.device)
        stack.enter_context(training_mode(module))
        stack.enter_context(shared_statistics(module))
        asked = stack.enter_context(deferred())
        run = Epochs(
            module,
            samples,
            settings,
            held,
            objective,
            decay,
            progress,
            seen,
            asked,
            keep,
            due,
        )
        if resume is not None:
            run.restore(resume)
        while len(run.history) < settings.epochs and not _exhausted(run.history, settings):
            run.epoch()
        last = run.settle()
    return RetrainResult(run.history, best_epoch(run.history), last)


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


def _objective(
    module: nn.Module,
    samples: RunSamples,
    settings: RetrainSettings,
    teacher: nn.Module | None,
    device: torch.device,
) -> RunObjective:
    """Return what a run makes small, on samples of its kind."""
    trained = samples.trained
    if not isinstance(trained, TokenBlocks):
        return Objective(settings, teacher, labelled=has_labels(trained))
    judges = None if samples.judges is None else samples.judges.dataset
    assert judges is None or isinstance(judges, TokenBlocks)  # noqa: S101 - they are of one kind
    return objective_on(module, trained, judges, settings, teacher, device)


def _require_trainable(
    dataset: Samples, settings: RetrainSettings, teacher: nn.Module | None
) -> None:
    if len(dataset) < 2:
        noun = noun_of(dataset)
        raise DataError(
            f"{dataset.name} holds one {noun[:-1]}, which is too few to train on",
            tip=f"name a set with more {noun}",
        )
    if isinstance(dataset, TokenBlocks):
        return
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
