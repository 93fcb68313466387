"""A comparison of methods over ratios and amounts of retraining, run by run into a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.datasets import LabelledImages, MaskedImages, opened
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation import assigned
from alds_cli.network.opening import (
    open_network,
    settled_preprocessing,
    trace_network,
)
from alds_cli.options.choices import ENGINES, ORIGINAL, TARGETS, require_known
from alds_cli.options.sweep_options import SweepOptions
from alds_cli.options.training_options import RetrainSettings
from alds_cli.profiling import error_tables
from alds_cli.records import SweepBaseline, SweepRecord
from alds_cli.runtime.devices import pick_device
from alds_cli.schemas.sweep_folder import BY_RUN
from alds_cli.surgery import find_layers
from alds_cli.sweeping import (
    Watcher,
    agreed,
    geometric_ratios,
    planned_runs,
    work_off,
    written,
)
from alds_cli.sweeping.method_specs import MethodSpec, parse_method_specs
from alds_cli.sweeping.runs import SweepRunner, image_fingerprint
from alds_cli.sweeping.work_queue import Engine
from alds_cli.text import parse_ratio


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A finished sweep.

    Attributes:
        folder: the folder with its records.
        baseline: the network before compression.
        records: the records of the requested runs, in the order of the work.
        made: how many of them this call made; the others existed, or were made concurrently.
    """

    folder: Path
    baseline: SweepBaseline
    records: Sequence[SweepRecord]
    made: int

    @property
    def unreachable(self) -> int:
        """The number of runs that ended because the method cannot remove so much."""
        return sum(not record.reached for record in self.records)


def sweep(options: SweepOptions) -> SweepResult:
    """Compress a network by every method at every ratio, retrain and evaluate.

    Every finished run is a small file in the folder, and none is made twice. An interrupted sweep
    continues; methods, ratios, repeats and amounts of retraining can be added to a folder; and
    several processes may work on one. Repeat r uses seed r for all its random numbers, those of
    the method and those of retraining.

    Raises:
        OptionError: options make no sense, or the folder's sweep was begun with others.
        RunFolderError: the folder holds something else, or a damaged record.
        MissingExtraError: Ray is asked for and not installed.
        EngineError: there is no such cluster, or it lost its workers again and again.
        ArchitectureError: networks are to be kept but could not be built again.
        AldsError: the model or the data cannot be used. Finished runs are kept.
    """
    pick_device(options.device)
    _check_engine(options)
    if options.teacher is not None:
        require_known("teacher", options.teacher, (ORIGINAL,), "or leave it out")
    specs = _method_specs(options)
    keys = planned_runs(
        {spec.text: spec.seeded for spec in specs},
        _ratios(options),
        repeats=options.repeats,
        retrain_epochs=options.retrain_epochs,
    )
    retraining = options.retraining or RetrainSettings(epochs=1)
    for key in keys:
        if key.retrain_epochs:  # raises where a schedule does not fit into so many epochs
            replace(retraining, epochs=key.retrain_epochs, seed=key.repeat)
    folder = RunFolder(Path(options.output))
    folder.require_usable()
    with _engine(options) as engine:
        return _swept(options, specs, keys, folder, engine)


def _check_engine(options: SweepOptions) -> None:
    """Raise OptionError if there is no such engine, or options for another one are given."""
    require_known("engine", options.engine, ENGINES)
    if options.engine != "ray":
        given = {
            "--ray-address": options.ray_address is not None,
            "--run-cpus": options.run_cpus != 1,
            "--run-gpus": options.run_gpus is not None,
        }
        for option in (name for name, is_given in given.items() if is_given):
            raise OptionError(f"{option} is for runs by Ray", tip="--engine ray, or leave it out")


@contextmanager
def _engine(options: SweepOptions) -> Iterator[Engine]:
    """Yield what makes the runs.

    Raises:
        MissingExtraError: it needs Ray, which is not installed.
        EngineError: there is no such cluster.
    """
    if options.engine == "local":
        yield work_off
        return
    from alds_cli.sweeping.ray_engine import connected  # noqa: PLC0415 - only where it is asked for

    gpus = 0 if options.device == "cpu" else options.run_gpus
    with connected(options.ray_address, options.run_cpus, gpus) as cluster:
        yield cluster.work_off


def _swept(
    options: SweepOptions,
    specs: Sequence[MethodSpec],
    keys: Sequence[RunKey],
    folder: RunFolder,
    engine: Engine,
) -> SweepResult:
    """Sweep with an engine, after the options have been checked."""
    network = open_network(options.model, options.source, multiply_back=True)
    if options.keep_artefacts:
        network.document()  # raises where nobody could build the network again
    prepared = settled_preprocessing(options.preprocessing, network)
    retrains = max(options.retrain_epochs) > 0
    learns = retrains or any(spec.looks for spec in specs)
    retraining = options.retraining or RetrainSettings(epochs=1)
    by_labels = retrains and (retraining.label_weight > 0 or options.teacher is None)

    def label(images: LabelledImages, *, needed: bool = True) -> LabelledImages:
        if not (needed or images.labelled):
            return images
        if isinstance(images, MaskedImages):
            raise DataError(
                f"{images.name} has masks, and sweeps measure the accuracy of whole images",
                tip="`alds compress --max-drop` and `alds evaluate --baseline` measure mean IoU",
            )
        place = pick_device(options.device)
        return assigned(images, prepared, network.module, options.classes, device=place)[0]

    runner = SweepRunner(
        network=replace(network, preprocessing=prepared),
        images=label(opened(options.data, split="test", download=options.download)),
        training=label(
            opened(options.train_data, split="train", download=options.download),
            needed=by_labels,
        )
        if options.train_data is not None and learns
        else None,
        specs={spec.text: spec for spec in specs},
        retraining=retraining,
        preprocessing=prepared,
        artefacts=folder if options.keep_artefacts else None,
        options=options,
    )
    known = _begun(folder, runner, keys, retrains=retrains)
    watcher = options.watcher or Watcher()
    watcher.planned(
        folder.baseline(), keys, [record for record in known if RunKey.of(record) in set(keys)]
    )
    runs = runner if options.engine == "local" else runner.detached()
    made = engine(folder, keys, runs.run, watcher)
    records = [folder.record(key) for key in keys]
    return SweepResult(folder.path, folder.baseline(), records, made)


def _method_specs(options: SweepOptions) -> list[MethodSpec]:
    """Return the methods, and check that images are named where they are needed.

    Raises:
        OptionError: there are no methods, or an option does not fit them.
    """
    target = options.target
    require_known("target", target, TARGETS)
    specs = parse_method_specs(options.methods, target)
    if options.train_data is None:
        purpose = "retraining" if any(epochs > 0 for epochs in options.retrain_epochs) else None
        looking = next((spec.text for spec in specs if spec.looks), purpose)
        if looking is not None:
            raise OptionError(
                f"{looking} needs images to learn from, and none are named",
                tip="--train-data SPEC; not the images that the networks are judged by",
            )
    return specs


def _ratios(options: SweepOptions) -> list[str]:
    if options.ratios is None:
        return geometric_ratios(options.alpha, options.steps)
    return [written(parse_ratio(ratio)) for ratio in options.ratios if ratio is not None]


def _begun(
    folder: RunFolder, runner: SweepRunner, keys: Sequence[RunKey], *, retrains: bool
) -> list[SweepRecord]:
    """Begin the sweep, or check that it continues as it was begun; return its records so far.

    Raises:
        OptionError: it was begun differently.
        RunFolderError: a file in the folder is damaged.
    """
    asked = _settings(runner, retrains=retrains)
    try:
        with folder.claim_start():
            if folder.exists():
                known = folder.settings()
                settings = agreed(folder.path, known, asked)
                if settings != known:
                    folder.write_baseline(folder.baseline(), settings)
            else:
                folder.write_baseline(runner.baseline(), asked)
            folder.ask(keys)
            _profile(runner)
        return folder.records()
    except BaseException:
        folder.abandon()
        raise


def _settings(runner: SweepRunner, *, retrains: bool) -> dict[str, object]:
    """Return what all runs of the folder share, as JSON holds it; None for what no run needs."""
    hyperparameters = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(runner.retraining).items()
        if key not in BY_RUN
    }
    looks = any(spec.looks for spec in runner.specs.values())
    preprocessing = runner.preprocessing
    return {
        "weights": runner.weights_hash,
        "data": image_fingerprint(runner.images),
        "train_data": None if runner.training is None else image_fingerprint(runner.training),
        "preprocessing": {
            **asdict(preprocessing),
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "target": runner.options.target,
        "samples": runner.options.samples if looks else None,
        "retraining": hyperparameters if retrains else None,
        "latency": runner.options.latency,
        "teacher": (runner.options.teacher or "labels") if retrains else None,
    }


def _profile(runner: SweepRunner) -> None:
    """Put the error tables of all methods into the cache, where every run finds them.

    Methods that remove filters need none.
    """
    network = runner.network
    planning = [spec for spec in runner.specs.values() if spec.method.plan is not None]
    schemes = {scheme for spec in planning for scheme in spec.schemes}
    if not schemes:
        return
    error_tables(
        network.module,
        find_layers(network.module, trace_network(network)),
        schemes=sorted(schemes),
        device=pick_device(runner.options.device),
        progress=runner.options.progress,
    )
