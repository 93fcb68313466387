"""Retraining of a network from file to file, which can be resumed after an interruption."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alds_cli import retraining
from alds_cli.architectures import build
from alds_cli.checkpoint import hash_tensors, require_apart
from alds_cli.checkpoint.training_state import read_state, state_path, write_state
from alds_cli.datasets import (
    Batches,
    LabelledImages,
    MaskedImages,
    opened,
    tensor_files,
)
from alds_cli.errors import (
    AldsError,
    CheckpointError,
    ContractError,
    OptionError,
)
from alds_cli.evaluation import assigned
from alds_cli.inputs import InputSpec
from alds_cli.network.networks import Network, network_of
from alds_cli.network.opening import (
    open_network,
    require_target,
    settled_preprocessing,
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
from alds_cli.retraining.metrics import Metrics
from alds_cli.runtime.devices import pick_device

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

    With an output, the state after every epoch is kept beside it until the run is done.

    Raises:
        ContractError: the training diverged. Its state is then removed, because continuing from it
            would diverge again.
        OptionError: options make no sense, or differ from those of the run to resume.
        AldsError: a file cannot be read or written.
    """
    start = time.perf_counter()
    output = options.output
    place = pick_device(options.device)
    if options.resume and (output is None or str(output) == "-"):
        raise OptionError("a run is resumed by its output file, and none is named", tip="-o FILE")
    if output is not None:
        require_target(output)
        _require_apart(output, options)
    metrics = Metrics(options.log, options.tensorboard)
    network = open_network(options.model, options.source)
    prepared = settled_preprocessing(options.preprocessing, network)
    teacher = None if options.teacher is None else _teacher(options, prepared)
    images, assignment = _labelled(options.data, options, prepared, network, place)
    judges = None
    if options.validation is not None:
        judges, _ = _labelled(options.validation, options, prepared, network, place)
    keeper = _Keeper.of(network, teacher, output)
    state = keeper.resumed() if options.resume else None
    if not options.resume:
        keeper.warn_of_leftovers()
    with keeper.minded(state), closing(metrics):
        metrics.begin(() if state is None else state.history)

        def keep(now: TrainingState) -> None:
            keeper.keep(now)
            metrics.add(now.history[-1])

        result = retraining.retrain(
            network.module,
            images,
            options.settings,
            preprocessing=prepared,
            teacher=None if teacher is None else teacher.module,
            judges=judges,
            pairs={name: own for name, own in network.plan.choices.items() if own is not None},
            device=place,
            workers=options.workers,
            progress=options.progress,
            resume=state,
            on_epoch_end=keep,
        )
        network.module.eval()
        trained = replace(
            network,
            preprocessing=prepared,
            training=_described(options.settings, len(images), result, keeper.teacher),
            nbytes=None,
        )
        if trained.inputs is None:
            shape = Batches(images, prepared, batch_size=1).input_shape
            trained.inputs = InputSpec.of_sample(shape)
        if output is not None:
            trained.nbytes = write_network(trained, output, verify(trained))
    keeper.forget()
    return RetrainResult(
        trained,
        result.history,
        0 if state is None else state.epoch,
        result.kept,
        None if output is None else str(output),
        trained.nbytes,
        time.perf_counter() - start,
        assignment,
    )


def _teacher(options: RetrainOptions, prepared: Preprocessing) -> Network:
    """Open the network to learn from, which sees the same inputs."""
    assert options.teacher is not None  # noqa: S101 - asked for only where there is one
    teacher = open_network(options.teacher, options.source)
    if teacher.preprocessing not in {None, prepared}:
        logger.warning("the teacher was trained with another preprocessing of images")
    return teacher


def _labelled(
    data: str | LabelledImages,
    options: RetrainOptions,
    prepared: Preprocessing,
    network: Network,
    place: torch.device,
) -> tuple[LabelledImages, ClassAssignment]:
    """Open the images and number their classes.

    Masks have numbers, and images for a teacher may have no labels.
    """
    images = opened(data, split="train", download=options.download)
    if isinstance(images, MaskedImages):
        return images, ClassAssignment()
    if not images.labelled and options.teacher is not None and options.settings.label_weight == 0:
        return images, ClassAssignment()
    return assigned(images, prepared, network.module, options.classes, device=place)


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
            classes=options.classes,
            download=options.download,
            device=options.device,
            workers=options.workers,
            preprocessing=options.preprocessing,
            teacher=options.teacher,
            validation=options.validation,
            log=options.log,
            tensorboard=options.tensorboard,
            progress=options.progress,
        )
    )


def _require_apart(output: str | Path, options: RetrainOptions) -> None:
    """Check that neither the result nor the state beside it replaces an input of the run.

    A network may replace its original, but not the state of a run that was to replace it.

    Raises:
        OutputError: one would.
    """
    if str(output) == "-":
        return
    model = options.model
    state = state_path(Path(output))
    names = [own for own in (options.classes, options.teacher) if isinstance(own, (str, Path))]
    log = [] if options.log is None else [options.log]
    data = [*tensor_files(options.data), *tensor_files(options.validation)]
    require_apart([output, state, *log], [*data, *names])
    if isinstance(model, (str, Path)) and str(model) != "-":
        require_apart([state], [model])
        if state_path(Path(model)).exists():
            require_apart([output], [state_path(Path(model))])


def _described(
    settings: RetrainSettings, images: int, result: retraining.RetrainResult, teacher: str | None
) -> Training:
    """Return an artefact's record of its training; without times, so that equal runs are equal."""
    kept = result.history[result.kept - 1]
    return Training(
        settings,
        images,
        kept.loss,
        kept.accuracy,
        kept.epoch,
        kept.validation_loss,
        kept.validation_accuracy,
        teacher,
    )


@dataclass(slots=True)
class _Keeper:
    """The training state on disk, tied to the weights that the run began with.

    `start` and `teacher` are the fingerprints of the network and of that which it learns from.
    `epoch` is the one after which the state on disk was taken, if this run has written it.
    """

    path: Path | None
    start: str
    teacher: str | None
    epoch: int = 0

    @classmethod
    def of(cls, network: Network, teacher: Network | None, output: str | Path | None) -> _Keeper:
        """Return the keeper of a run; one that writes no file has nowhere to keep a state."""
        learnt = None if teacher is None else hash_tensors(teacher.module.state_dict())
        if output is None or str(output) == "-":
            return cls(None, "", learnt)
        return cls(state_path(Path(output)), hash_tensors(network.module.state_dict()), learnt)

    def warn_of_leftovers(self) -> None:
        """Warn that the state of an earlier run will be overwritten after the first epoch."""
        if self.path is not None and self.path.exists():
            logger.warning(
                "%s is left from an interrupted run and will be overwritten; "
                "--resume goes on with it",
                self.path,
            )

    def resumed(self) -> TrainingState | None:
        """Return the state to continue from; None where no run was interrupted.

        Raises:
            CheckpointError: it is damaged, or the run began with other weights.
        """
        if self.path is None or not self.path.exists():
            logger.warning("there is no interrupted run to resume; starting anew")
            return None
        content = read_state(self.path)
        start = content.get("start") if isinstance(content, Mapping) else None
        if not isinstance(content, Mapping) or not isinstance(start, str) or start != self.start:
            raise CheckpointError(
                f"{self.path} belongs to a run that began with another network",
                tip="name the same model, or leave out --resume",
            )
        if content.get("teacher") != self.teacher:
            raise CheckpointError(
                f"{self.path} belongs to a run that learnt from another teacher",
                tip="name the same --teacher, or leave out --resume",
            )
        return TrainingState.from_dict(content.get("state"))

    def keep(self, state: TrainingState) -> None:
        """Replace the state on disk by a newer one."""
        if self.path is not None:
            kept = {"start": self.start, "teacher": self.teacher, "state": state.to_dict()}
            write_state(kept, self.path)
            self.epoch = state.epoch

    @contextmanager
    def minded(self, resumed: TrainingState | None) -> Iterator[None]:
        """Remove the state of a run that diverges in this context.

        The run would diverge again from any epoch, so the state is of no use. After any other
        failure the state is kept, and a warning says so.
        """
        try:
            yield
        except ContractError:
            epoch = self._kept(resumed)
            if self.path is not None and epoch:
                self.forget()
                logger.warning(
                    "the state after epoch %d is removed: continuing from it would diverge again",
                    epoch,
                )
            raise
        except BaseException as error:
            # A user whose state was refused has already been told about it.
            epoch = self._kept(None if isinstance(error, AldsError) else resumed)
            if self.path is not None and epoch:
                logger.warning(
                    "the state after epoch %d is kept in %s; --resume goes on with it",
                    epoch,
                    self.path,
                )
            raise

    def _kept(self, resumed: TrainingState | None) -> int:
        """Return the epoch after which the state on disk was taken; 0 without one of this run."""
        return self.epoch or (0 if resumed is None else resumed.epoch)

    def forget(self) -> None:
        """Remove the state, because the run is done."""
        if self.path is not None:
            with suppress(FileNotFoundError):
                self.path.unlink()
