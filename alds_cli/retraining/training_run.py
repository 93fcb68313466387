"""Retraining of a network from file to file, which can be resumed after an interruption."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alds_cli import retraining
from alds_cli.architectures import build
from alds_cli.checkpoint import require_apart
from alds_cli.checkpoint.training_state import state_path
from alds_cli.datasets import (
    Batches,
    MaskedImages,
    Reading,
    Samples,
    TokenBlocks,
    opened_samples,
    tensor_files,
)
from alds_cli.errors import (
    OptionError,
)
from alds_cli.evaluation import assigned
from alds_cli.inputs import InputSpec
from alds_cli.network.networks import Network, network_of
from alds_cli.network.opening import (
    open_network,
    preparation_of,
    require_target,
    stated_architecture,
    write_network,
)
from alds_cli.network.verification import verify
from alds_cli.options.model_source import Source
from alds_cli.options.retrain_options import RetrainOptions
from alds_cli.options.train_options import TrainOptions
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    ClassAssignment,
    EpochRecord,
    Preprocessing,
    Training,
)
from alds_cli.retraining import TrainingState
from alds_cli.retraining.held_weights import derived_seed, seeded
from alds_cli.retraining.kept_state import Keeper
from alds_cli.retraining.metrics import Metrics
from alds_cli.runtime.distributed import joined, world

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """The trained network and its history, of which `resumed_from` epochs existed already.

    `kept` is the epoch whose weights the network has: the last, or the best on images held back.
    """

    network: Network
    history: Sequence[EpochRecord]
    resumed_from: int
    kept: int
    output: str | None
    nbytes: int | None
    seconds: float
    assignment: ClassAssignment


def retrain(options: RetrainOptions) -> RetrainResult:
    """Train a (compressed) network further; its pairs remain pairs.

    With an output, the state is kept beside it until the run is done: after every epoch, after so
    many minutes, and when the process is asked to stop. Of a job of several processes, the first
    alone writes files.

    Raises:
        ContractError: the training diverged. The last state whose numbers were finite is kept.
        OptionError: options make no sense, or differ from those of the run to resume.
        AldsError: a file cannot be read or written.
    """
    with joined(options.device) as place:
        return _retrained(options, place)


def _retrained(options: RetrainOptions, place: torch.device) -> RetrainResult:
    start = time.perf_counter()
    output = options.output
    if options.resume and (output is None or str(output) == "-"):
        raise OptionError("a run is resumed by its output file, and none is named", tip="-o FILE")
    results = [own for own in (output, options.last, options.log) if own is not None]
    for result in results:
        require_target(result)
    _require_apart(results, options)
    first = world().first
    metrics = Metrics(*((options.log, options.tensorboard) if first else (None, None)))
    network = open_network(options.model, options.source)
    reading = Reading.of(options, network.inputs)
    opened = opened_samples(options.data, reading, split="train", download=options.download)
    prepared = preparation_of(opened, options.preprocessing, network)
    teacher = None if options.teacher is None else _teacher(options, prepared)
    samples, assignment = _labelled(opened, options, prepared, network, place)
    judges = None
    if options.validation is not None:
        opened = opened_samples(
            options.validation, reading, split="train", download=options.download
        )
        judges, _ = _labelled(opened, options, prepared, network, place)
    keeper = Keeper.of(network, teacher, output, options.checkpoint_minutes)
    state = keeper.resumed() if options.resume else None
    if not options.resume:
        keeper.warn_of_leftovers()
    with keeper.minded(state), closing(metrics):

        def keep(now: TrainingState) -> None:
            keeper.keep(now)
            if not now.within.step:
                metrics.add(now.history)

        found = retraining.retrain(
            network.module,
            samples,
            options.settings,
            preprocessing=prepared,
            teacher=None if teacher is None else teacher.module,
            judges=judges,
            pairs={name: own for name, own in network.plan.choices.items() if own is not None},
            device=place,
            workers=options.workers,
            progress=options.progress,
            resume=state,
            keep=keep,
            due=keeper.due,
        )
        network.module.eval()
        trained = replace(
            network,
            preprocessing=network.preprocessing if prepared is None else prepared,
            training=_described(options.settings, samples, found, keeper.teacher),
            nbytes=None,
        )
        if trained.inputs is None:
            trained.inputs = _inputs(samples, prepared)
        if output is not None and first:
            trained.nbytes = write_network(trained, output, verify(trained))
        if options.last is not None and first:
            last = _last(trained, found)
            write_network(last, options.last, verify(last))
    keeper.forget()
    return RetrainResult(
        trained,
        found.history,
        0 if state is None else state.epoch,
        found.kept,
        None if output is None else str(output),
        trained.nbytes,
        time.perf_counter() - start,
        assignment,
    )


def _last(trained: Network, found: retraining.RetrainResult) -> Network:
    """Return the network after the last epoch."""
    if found.last is None or trained.training is None:
        return trained
    module = copy.deepcopy(trained.module)
    module.load_state_dict(found.last)
    return replace(trained, module=module, training=_told(trained.training, found.history[-1]))


def _inputs(samples: Samples, prepared: Preprocessing | None) -> InputSpec:
    """Return what a network is called with for one sample."""
    if prepared is None or isinstance(samples, TokenBlocks):
        return samples.inputs  # type: ignore[union-attr]
    return InputSpec.of_sample(Batches(samples, prepared, batch_size=1).input_shape)


def _teacher(options: RetrainOptions, prepared: Preprocessing | None) -> Network:
    """Open the network to learn from, which sees the same inputs."""
    assert options.teacher is not None  # noqa: S101 - asked for only where there is one
    teacher = open_network(options.teacher, options.source)
    if prepared is not None and teacher.preprocessing not in {None, prepared}:
        logger.warning("the teacher was trained with another preprocessing of images")
    return teacher


def _labelled(
    samples: Samples,
    options: RetrainOptions,
    prepared: Preprocessing | None,
    network: Network,
    place: torch.device,
) -> tuple[Samples, ClassAssignment]:
    """Number the classes of images.

    Masks have numbers, images for a teacher may have no labels, and texts have none.

    Raises:
        OptionError: there are names of classes or a preprocessing for texts.
        DataError: see `assigned`.
    """
    if isinstance(samples, TokenBlocks):
        _require_none_of_images(options)
        return samples, ClassAssignment()
    if isinstance(samples, MaskedImages):
        return samples, ClassAssignment()
    if not samples.labelled and options.teacher is not None and options.settings.label_weight == 0:
        return samples, ClassAssignment()
    assert prepared is not None  # noqa: S101 - images come with it
    return assigned(samples, prepared, network.module, options.classes, device=place)


def _require_none_of_images(options: RetrainOptions) -> None:
    """Refuse what is stated of images, where the samples are texts.

    Raises:
        OptionError: something is.
    """
    stated = {
        "--classes": options.classes,
        "--preprocess, --mean and their like": options.preprocessing,
    }
    found = [name for name, value in stated.items() if value is not None]
    if found:
        raise OptionError(
            f"texts have neither classes nor a preprocessing, but {' and '.join(found)} are given",
            tip=f"leave out {' and '.join(found)}",
        )


def train(options: TrainOptions) -> RetrainResult:
    """Train a network from random weights, which the seed decides.

    Raises:
        ArchitectureError: there is no such network, or it cannot be built.
        ContractError: see `retrain`.
        OptionError: options make no sense, or differ from those of the run to resume.
        AldsError: a file cannot be read or written.
    """
    source = Source(arch=options.arch, arch_args=options.arch_args)
    architecture = stated_architecture(source)
    if architecture is None:
        raise OptionError(
            "which network to train is not known", tip="--arch NAME, or a --recipe that names one"
        )
    if options.output is not None:
        require_target(options.output)
    seed = derived_seed(options.settings.seed, 0, "weights")
    with seeded(seed, torch.device("cpu")):
        module = build(architecture)
    network = replace(network_of(module, architecture), name=str(architecture), foreign=False)
    return retrain(
        RetrainOptions(
            network,
            options.data,
            options.settings,
            output=options.output,
            resume=options.resume,
            tokenizer=options.tokenizer,
            block_length=options.block_length,
            classes=options.classes,
            download=options.download,
            device=options.device,
            workers=options.workers,
            preprocessing=options.preprocessing,
            teacher=options.teacher,
            validation=options.validation,
            last=options.last,
            log=options.log,
            tensorboard=options.tensorboard,
            checkpoint_minutes=options.checkpoint_minutes,
            progress=options.progress,
        )
    )


def _require_apart(results: Sequence[str | Path], options: RetrainOptions) -> None:
    """Check that no result, nor the state beside the output, replaces an input or another.

    A network may replace its original, but not the state of a run that was to replace it.

    Raises:
        OutputError: one would.
    """
    model, output = options.model, options.output
    named = [own for own in results if str(own) != "-"]
    state = [] if output is None or str(output) == "-" else [state_path(Path(output))]
    others = (options.classes, options.teacher, options.tokenizer)
    names = [own for own in others if isinstance(own, (str, Path))]
    data = [*tensor_files(options.data), *tensor_files(options.validation)]
    require_apart([*results, *state], [*data, *names])
    if isinstance(model, (str, Path)) and str(model) != "-":
        elsewhere = [own for own in named if own is not output]
        require_apart([*elsewhere, *state], [model])
        if state_path(Path(model)).exists():
            require_apart(named, [state_path(Path(model))])


def _described(
    settings: RetrainSettings,
    samples: Samples,
    found: retraining.RetrainResult,
    teacher: str | None,
) -> Training:
    """Return an artefact's record of its training; without times, so that equal runs are equal."""
    kept = found.history[found.kept - 1]
    return _told(Training(settings, len(samples), 0.0, 0.0, teacher=teacher), kept)


def _told(training: Training, epoch: EpochRecord) -> Training:
    """Return the record of a training with the figures of the epoch whose weights are kept."""
    return replace(
        training,
        loss=epoch.loss,
        accuracy=epoch.accuracy,
        epoch=epoch.epoch,
        validation_loss=epoch.validation_loss,
        validation_accuracy=epoch.validation_accuracy,
    )
