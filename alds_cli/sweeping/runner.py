"""Comparing methods over ratios and amounts of retraining, run by run into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from alds_cli.checkpoint import RunFolder, RunKey
from alds_cli.compression.settings import Ratio
from alds_cli.compression.targets import TARGETS
from alds_cli.datasets import LabelledImages, opened
from alds_cli.errors import OptionError
from alds_cli.evaluation import assigned
from alds_cli.network.opening import (
    AS_IT_IS,
    Model,
    Preparation,
    Source,
    open_network,
    settled_preprocessing,
    trace_network,
)
from alds_cli.profiling import error_tables
from alds_cli.quantities import parse_ratio
from alds_cli.records import ProgressCallback, SweepBaseline, SweepRecord
from alds_cli.retraining import RetrainSettings
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


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A finished sweep.

    Attributes:
        folder: where its records are.
        baseline: the network before.
        records: of the runs asked for, in the order of the work.
        made: how many of them this call made; the others were there, or made beside it.
    """

    folder: Path
    baseline: SweepBaseline
    records: Sequence[SweepRecord]
    made: int

    @property
    def unreachable(self) -> int:
        """How many runs ended because the method cannot remove so much."""
        return sum(not record.reached for record in self.records)


def sweep(
    model: Model,
    data: str | LabelledImages,
    source: Source = AS_IT_IS,
    *,
    methods: Sequence[str],
    output: str | Path,
    alpha: str | float = 0.8,
    steps: int = 12,
    ratios: Sequence[Ratio] | None = None,
    repeats: int = 3,
    retrain_epochs: Sequence[int] = (0,),
    retraining: RetrainSettings | None = None,
    train_data: str | LabelledImages | None = None,
    samples: int = 512,
    target: str = "params",
    latency: bool = False,
    keep_artefacts: bool = False,
    preprocessing: Preparation = None,
    classes: Sequence[str] | str | Path | None = None,
    download: bool = False,
    workers: int = 0,
    device: str | None = None,
    watcher: Watcher | None = None,
    progress: ProgressCallback | None = None,
) -> SweepResult:
    """Compress a network by every method at every ratio, retrain and evaluate.

    Every finished run is a small file in the folder, and none is made twice: an interrupted
    sweep goes on, methods, ratios, repeats and amounts of retraining can be added to a
    folder, and several processes may work on one. Repeat r draws all its random numbers, of
    the method as of the retraining, by seed r.

    Args:
        model: the network; pairs of an artefact are multiplied back first.
        data: the labelled images to evaluate on, or a spec such as `tensors:FILE`.
        source: how to read the model's file.
        methods: each `name` or `name:key=value:…`, with `solver` and `bound` among the keys.
        output: the folder.
        alpha: the ratios are 1 − alphaⁱ …
        steps: … for i = 1 … steps,
        ratios: unless they are listed.
        repeats: runs that differ in their seed; one where nothing random is in a run.
        retrain_epochs: amounts of retraining, each from the network as it was compressed;
            0 evaluates that.
        retraining: the other hyperparameters; its epochs and seed do not count.
        train_data: images to retrain on, and for methods that look at some.
        samples: how many images such methods look at.
        target: what a ratio is a fraction of, as for `compress`.
        latency: time every network too, in turns with the original.
        keep_artefacts: keep the network of every run that is made.
        preprocessing: from an image to the input, or a function that changes what the
            model's file says; None is what that says.
        classes: the network's classes in order, by the names of the image folders; or a file
            with one of them a line. None recognises those of published data sets.
        download: fetch a published set that is not there.
        workers: threads that decode image files.
        device: where to compute; None is CUDA where present.
        watcher: told of every run.
        progress: told how far the parts of a run are.

    Raises:
        OptionError: options make no sense, or the folder's sweep was begun with others.
        RunFolderError: the folder holds something else, or a damaged record.
        ArchitectureError: networks are to be kept that nobody could build again.
        AldsError: the model or the data cannot be used. What was finished before is kept.
    """
    pick_device(device)
    specs = _method_specs(methods, target, train_data, retrain_epochs)
    keys = planned_runs(
        {spec.text: spec.seeded for spec in specs},
        _ratios(alpha, steps, ratios),
        repeats=repeats,
        retrain_epochs=retrain_epochs,
    )
    retraining = retraining or RetrainSettings(epochs=1)
    for key in keys:
        if key.retrain_epochs:  # raises where a schedule does not fit into so many epochs
            replace(retraining, epochs=key.retrain_epochs, seed=key.repeat)
    folder = RunFolder(Path(output))
    folder.require_usable()
    network = open_network(model, source, multiply_back=True)
    if keep_artefacts:
        network.document()  # raises where nobody could build the network again
    prepared = settled_preprocessing(preprocessing, network)
    trains = train_data is not None and (
        max(retrain_epochs) > 0 or any(spec.method.needs for spec in specs)
    )

    def label(images: LabelledImages) -> LabelledImages:
        place = pick_device(device)
        return assigned(images, prepared, network.module, classes, device=place)[0]

    runner = SweepRunner(
        network=replace(network, preprocessing=prepared),
        images=label(opened(data, split="test", download=download)),
        training=label(opened(train_data, split="train", download=download))
        if train_data and trains
        else None,
        specs={spec.text: spec for spec in specs},
        retraining=retraining,
        preprocessing=prepared,
        samples=samples,
        target=target,
        latency=latency,
        workers=workers,
        device=device,
        artefacts=folder if keep_artefacts else None,
        progress=progress,
    )
    known = _begun(folder, runner, keys, retrains=max(retrain_epochs) > 0)
    watcher = watcher or Watcher()
    watcher.planned(folder.baseline(), keys, [own for own in known if RunKey.of(own) in set(keys)])
    made = work_off(folder, keys, runner.run, watcher)
    records = [folder.record(key) for key in keys]
    return SweepResult(folder.path, folder.baseline(), records, made)


def _method_specs(
    methods: Sequence[str],
    target: str,
    train_data: str | LabelledImages | None,
    retrain_epochs: Sequence[int],
) -> list[MethodSpec]:
    """The methods, each with the images that it needs.

    Raises:
        OptionError: there are none, or something is not as it should be.
    """
    if target not in TARGETS:
        raise OptionError(f"unknown target '{target}'", tip=f"choose from {', '.join(TARGETS)}")
    specs = parse_method_specs(methods, target)
    if train_data is None:
        purpose = "retraining" if any(epochs > 0 for epochs in retrain_epochs) else None
        looking = next((own.text for own in specs if own.method.needs), purpose)
        if looking is not None:
            raise OptionError(
                f"{looking} needs images to learn from, and none are named",
                tip="--train-data SPEC; not the images that the networks are judged by",
            )
    return specs


def _ratios(alpha: str | float, steps: int, ratios: Sequence[Ratio] | None) -> list[str]:
    if ratios is None:
        return geometric_ratios(alpha, steps)
    return [written(parse_ratio(ratio)) for ratio in ratios if ratio is not None]


def _begun(
    folder: RunFolder, runner: SweepRunner, keys: Sequence[RunKey], *, retrains: bool
) -> list[SweepRecord]:
    """Begin the sweep, or see that it goes on as it was begun; its records so far.

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
    """What all runs of the folder have in common, as JSON holds it; None is what none needs."""
    hyperparameters = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(runner.retraining).items()
        if key not in BY_RUN
    }
    looks = any(spec.method.needs for spec in runner.specs.values())
    own = runner.preprocessing
    return {
        "weights": runner.weights_hash,
        "data": image_fingerprint(runner.images),
        "train_data": None if runner.training is None else image_fingerprint(runner.training),
        "preprocessing": {**asdict(own), "mean": list(own.mean), "std": list(own.std)},
        "target": runner.target,
        "samples": runner.samples if looks else None,
        "retraining": hyperparameters if retrains else None,
        "latency": runner.latency,
    }


def _profile(runner: SweepRunner) -> None:
    """Have the error tables of all methods in the cache, where every run finds them.

    Methods that remove filters plan without any.
    """
    network = runner.network
    planning = [own for own in runner.specs.values() if own.method.plan is not None]
    schemes = {scheme for own in planning for scheme in own.schemes}
    if not schemes:
        return
    error_tables(
        network.module,
        find_layers(network.module, trace_network(network)),
        schemes=sorted(schemes),
        device=pick_device(runner.device),
        progress=runner.progress,
    )
