"""Compressing and retraining in turns, a little more in every step.

Every step multiplies the pairs of the one before it back, so that its plan is made from a dense
network, and can give a layer more than it had. The folder beside the output keeps every step, and
a step is the same whether it was interrupted or not, and so is the result.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from alds_cli.checkpoint import hash_tensors, require_apart
from alds_cli.checkpoint.iteration_folder import IterationFolder
from alds_cli.compression.session import compress_networks
from alds_cli.datasets import LabelledImages, opened, tensor_files
from alds_cli.errors import OptionError, RunFolderError
from alds_cli.forms import SCHEMA
from alds_cli.methods import method_named
from alds_cli.network.networks import Network
from alds_cli.network.opening import open_network, require_target, settled_preprocessing
from alds_cli.options.choices import ORIGINAL, STATIC_TARGETS, require_known
from alds_cli.options.compress_options import CompressOptions
from alds_cli.options.iterate_options import IterateOptions
from alds_cli.options.model_source import Source
from alds_cli.options.retrain_options import RetrainOptions
from alds_cli.records import (
    CompressionReport,
    IterationStage,
    Preprocessing,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.retraining.training_run import retrain
from alds_cli.runtime.devices import pick_device
from alds_cli.schemas import MalformedError, held
from alds_cli.schemas.iteration_forms import IterationForm
from alds_cli.text import MOST_SEED, parse_ratio

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IterationResult:
    """The network of the last step, what every step did, and how many steps existed already."""

    network: Network
    stages: Sequence[IterationStage]
    resumed_from: int
    output: str
    nbytes: int
    seconds: float


def geometric_steps(to: Fraction, steps: int) -> list[Fraction]:
    """Return what steps remove so far, so that each leaves the same fraction of the one before.

    Step i of n removes 1 − (1 − to)^(i/n), to the nearest double; the last one removes `to`.

    Args:
        to: the fraction that is removed in the end, in (0, 1).
        steps: the number of steps, at least 1.
    """
    whole = math.log1p(-float(to))
    between = [Fraction(-math.expm1(step / steps * whole)) for step in range(1, steps)]
    return [*between, to]


def iterate(options: IterateOptions) -> IterationResult:
    """Compress a network and retrain it in turns.

    The steps are kept in a folder beside the output, which stays there in the end.

    Raises:
        OptionError: options make no sense, or differ from those of the run to resume.
        RunFolderError: the folder holds something else, is damaged, or is in use.
        ContractError: a ratio cannot be had, or a training diverged. Finished steps are kept.
        AldsError: a file cannot be read or written.
    """
    start = time.perf_counter()
    pick_device(options.device)
    ratios = _ratios(options)
    output = Path(options.output)
    folder = IterationFolder.beside(output)
    _require_apart(options, output, folder)
    original = open_network(options.model, options.source, multiply_back=True)
    original.document()  # raises where nobody could build the network of a step again
    images = opened(options.data, split="train", download=options.download)
    prepared = settled_preprocessing(options.preprocessing, original)
    run = _Iteration(
        options, ratios, folder, original, images, prepared, _teacher(options, original),
        None if options.validation is None
        else opened(options.validation, split="train", download=options.download),
    )  # fmt: skip
    anew = not (folder.begun and options.resume)
    if not anew:
        folder.require_same(run.form())
    else:
        if options.resume:
            logger.warning("there is no interrupted run to resume; starting anew")
        run.require_reachable()
    with folder.claim() as granted:
        if not granted:
            raise RunFolderError(
                f"another process works in {folder.path}", tip="wait for it, or end it"
            )
        if anew:
            folder.begin(run.form())
        resumed_from = run.finished
        stages = [run.stage(step) for step in range(1, len(ratios) + 1)]
        # This raises where the file was damaged since.
        network = open_network(folder.retrained(len(ratios)), _of_own_code(options))
        nbytes = folder.deliver(len(ratios), output)
    return IterationResult(
        network, stages, resumed_from, str(output), nbytes, time.perf_counter() - start
    )


def _ratios(options: IterateOptions) -> list[Fraction]:
    """Return what each step removes, after checking the options that need nothing else.

    Raises:
        OptionError: one makes no sense.
    """
    require_known("target", options.target, STATIC_TARGETS)
    if options.steps < 1:
        raise OptionError(f"{options.steps} steps make no network", tip="--steps 5")
    if options.to is None:
        raise OptionError(
            "how small the network is to become is not said",
            tip="--to 0.8 leaves at most 20 % in the end",
        )
    return geometric_steps(parse_ratio(options.to, "--to"), options.steps)


def _require_apart(options: IterateOptions, output: Path, folder: IterationFolder) -> None:
    """Check that the result can be written, and replaces nothing that a resumed run needs.

    Raises:
        OptionError: the output is a stream, or an iteration was begun and is not to be resumed.
        OutputError: it cannot be written, or would replace the model or images.
        RunFolderError: the folder beside it holds something else.
    """
    if str(output) == "-":
        raise OptionError(
            "an iteration keeps its steps beside its output, which has to be a file",
            tip="-o small.pt",
        )
    require_target(output)
    given = (options.model, options.teacher, options.classes)
    named = [each for each in given if isinstance(each, (str, Path))]
    images = [*tensor_files(options.data), *tensor_files(options.validation)]
    require_apart([output], [*images, *named])
    folder.require_own()
    if folder.begun and not options.resume and not folder.worthless:
        raise OptionError(
            f"{folder.path} holds an iteration that was begun already",
            tip="--resume goes on with it; to begin anew, remove the folder",
        )


def _teacher(options: IterateOptions, original: Network) -> Network | None:
    """Return the network that the retraining learns from; None where labels teach.

    Raises:
        AldsError: it cannot be read.
    """
    if options.teacher is None:
        return None
    named = options.teacher == ORIGINAL
    return original if named else open_network(options.teacher, options.source)


def _of_own_code(options: IterateOptions) -> Source:
    """Return how steps are read: what is built by the user's code needs it to be named again."""
    return Source(arch=options.source.arch, arch_args=options.source.arch_args)


@dataclass(frozen=True, slots=True)
class _Iteration:
    """An iteration: what it begins with, and where its steps are kept."""

    options: IterateOptions
    ratios: Sequence[Fraction]
    folder: IterationFolder
    original: Network
    images: LabelledImages
    prepared: Preprocessing
    teacher: Network | None
    judges: LabelledImages | None

    def form(self) -> IterationForm:
        """Return what the iteration begins with.

        Raises:
            OptionError: an option's value is out of bounds.
        """
        options = self.options
        try:
            return held(
                IterationForm,
                schema_=SCHEMA,
                weights=hash_tensors(self.original.module.state_dict()),
                images=len(self.images),
                fingerprint=self.images.fingerprint(),
                preprocessing=self.prepared,
                ratios=tuple(map(float, self.ratios)),
                target=options.target,
                method=self._method,
                arguments=dict(options.method_args),
                solver=options.solver,
                bound=options.bound,
                samples=options.samples,
                refit=options.refit,
                tune_steps=options.tune_steps,
                rank_multiple=options.rank_multiple,
                include=tuple(options.include),
                exclude=tuple(options.exclude),
                training=options.settings,
                teacher=self.teacher and hash_tensors(self.teacher.module.state_dict()),
                validation=self.judges and self.judges.fingerprint(),
            )
        except MalformedError as error:
            raise OptionError(f"these options cannot be kept: {error}") from error

    @property
    def _method(self) -> str:
        return self.options.method or "auto"

    @property
    def finished(self) -> int:
        """The number of steps that are finished."""
        stages = map(self.folder.stage, range(1, len(self.ratios) + 1))
        return sum(stage is not None and stage.finished for stage in stages)

    def require_reachable(self) -> None:
        """Make sure, before the first step, that a plan removes as much as the last step has to.

        Raises:
            ContractError: none does.
            OptionError: options of the compression make no sense.
        """
        options = replace(self._compression(self.original, self.ratios[-1]), dry_run=True)
        if method_named(self._method).candidates:
            # How much can be removed is a matter of shapes; comparing the candidates takes long.
            options = replace(options, method="alds", data=None)
        compress_networks(replace(options, refit=False, tune_steps=0))

    def stage(self, step: int) -> IterationStage:
        """Make a step, or what is left of it."""
        done = self.folder.stage(step)
        if done is None:
            done = self._compressed(step)
            self.folder.write(done)
        if not done.finished:
            done = self._retrained(done)
            self.folder.write(done)
            if self.options.watcher is not None:
                self.options.watcher(done)
        return done

    def _compressed(self, step: int) -> IterationStage:
        self.folder.make(step)
        start = time.perf_counter()
        network = self.original if step == 1 else self._dense(step - 1)
        options = replace(
            self._compression(network, self.ratios[step - 1]),
            output=self.folder.compressed(step),
            plan_output=self.folder.plan(step),
            progress=_within(self.options.progress, step, len(self.ratios)),
        )
        (result,) = compress_networks(options)
        seconds = {"compress": time.perf_counter() - start}
        return _described(result.report, step, self.ratios[step - 1], seconds)

    def _dense(self, step: int) -> Network:
        """Return a step's network with its pairs multiplied back, as large as the original."""
        network = open_network(
            self.folder.retrained(step), _of_own_code(self.options), multiply_back=True
        )
        return replace(network, name=self.original.name, nbytes=self.original.nbytes)

    def _compression(self, network: Network, ratio: Fraction) -> CompressOptions:
        options = self.options
        looks = bool(method_named(self._method).needs) or options.refit or options.tune_steps > 0
        return CompressOptions(
            network,
            ratio=ratio,
            target=options.target,
            method=self._method,
            method_args=options.method_args,
            data=self.images if looks else None,
            samples=options.samples,
            preprocessing=self.prepared,
            refit=options.refit,
            tune_steps=options.tune_steps,
            solver=options.solver,
            bound=options.bound,
            rank_multiple=options.rank_multiple,
            seed=options.settings.seed,
            include=options.include,
            exclude=options.exclude,
            device=options.device,
            workers=options.workers,
            cache=options.cache,
        )

    def _retrained(self, done: IterationStage) -> IterationStage:
        options, step = self.options, done.step
        # Another order of the images in every step.
        seed = (options.settings.seed + step - 1) % (MOST_SEED + 1)
        result = retrain(
            RetrainOptions(
                self.folder.compressed(step),
                self.images,
                replace(options.settings, seed=seed),
                _of_own_code(options),
                output=self.folder.retrained(step),
                resume=self.folder.interrupted(step),
                teacher=self.teacher,
                validation=self.judges,
                classes=options.classes,
                device=options.device,
                workers=options.workers,
                preprocessing=self.prepared,
                progress=_within(options.progress, step, len(self.ratios)),
            )
        )
        return replace(
            done,
            history=tuple(result.history),
            kept=result.kept,
            bytes=result.nbytes,
            seconds={**done.seconds, "retrain": result.seconds},
        )


def _described(
    report: CompressionReport, step: int, ratio: Fraction, seconds: dict[str, float]
) -> IterationStage:
    return IterationStage(
        step=step,
        ratio=float(ratio),
        method=report.method,
        solver=report.solver,
        bound=report.bound,
        params_before=report.params_before,
        params_after=report.params_after,
        macs_before=report.macs_before,
        macs_after=report.macs_after,
        max_relative_error=report.max_relative_error,
        seconds=seconds,
    )


def _within(progress: ProgressCallback | None, step: int, steps: int) -> ProgressCallback | None:
    """Return a callback that names the step that a part belongs to."""
    if progress is None:
        return None

    def told(event: ProgressEvent) -> None:
        progress(replace(event, task=f"{step}/{steps} {event.task}"))

    return told
