"""`alds sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from alds_cli.cli import numbers, options, training_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from alds_cli.api import SweepResult
    from alds_cli.records import SweepRecord

T = TypeVar("T")

_GRID = "What is compared"


def command(
    model: options.Model,
    data: options.Data,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            metavar="NAME[,NAME…]",
            help="Each as --method of `alds compress` takes it, with arguments after colons: "
            "alds,alds-simple:k=5 or alds:solver=knapsack.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The folder of the runs; an existing one is gone on with.",
            show_default=False,
        ),
    ],
    alpha: Annotated[
        str,
        typer.Option(
            metavar="A", help="The ratios are 1 − A, 1 − A², 1 − A³, …", rich_help_panel=_GRID
        ),
    ] = "0.8",
    steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="So many of them.",
            parser=numbers.whole(1, 1000),
            rich_help_panel=_GRID,
        ),
    ] = 12,
    ratios: Annotated[
        str | None,
        typer.Option(
            metavar="R[,R…]",
            help="These ratios instead.",
            rich_help_panel=_GRID,
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What a ratio is a fraction of: params, macs, bytes or latency.",
            rich_help_panel=_GRID,
        ),
    ] = "params",
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Runs with the seeds 0 to N − 1; one where nothing random is in a run.",
            parser=numbers.whole(1, 1000),
            rich_help_panel=_GRID,
        ),
    ] = 3,
    retrain_epochs: Annotated[
        str,
        typer.Option(
            metavar="E[,E…]",
            help="Amounts of retraining; 0 judges the network as it was compressed.",
            rich_help_panel=_GRID,
        ),
    ] = "0",
    latency: Annotated[
        bool,
        typer.Option(
            "--latency",
            help="Time every network too, in turns with the original.",
            rich_help_panel=_GRID,
        ),
    ] = False,
    keep_artefacts: Annotated[
        bool,
        typer.Option("--keep-artefacts", help="Keep the network of every run that is made."),
    ] = False,
    train_data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Images to retrain on, and for methods that look at some (pca, pfp); not those "
            "of --data, which judge.",
            rich_help_panel=training_options.TRAINING,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="How many images such methods look at, drawn at random by the seed.",
            parser=numbers.whole(1, numbers.MOST_IMAGES),
            rich_help_panel=training_options.TRAINING,
        ),
    ] = 512,
    batch_size: training_options.BatchSize = 128,
    lr: training_options.Lr = 0.01,
    momentum: training_options.Momentum = 0.9,
    nesterov: training_options.Nesterov = False,
    weight_decay: training_options.WeightDecay = 1e-4,
    warmup_epochs: training_options.WarmupEpochs = 0.0,
    milestones: training_options.Milestones = "0.5,0.75",
    gamma: training_options.Gamma = 0.1,
    augment: training_options.Augment = "auto",
    label_smoothing: training_options.LabelSmoothing = 0.0,
    classes: options.Classes = None,
    download: options.Download = False,
    device: options.Device = None,
    workers: options.Workers = 0,
    preprocess: options.Preprocess = None,
    mean: options.Mean = None,
    std: options.Std = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    arch: options.Arch = None,
    arch_arg: options.ArchArg = None,
    input_shape: options.InputShape = None,
    input_spec: options.InputSpec = None,
    state_key: options.StateKey = None,
    strip_prefix: options.StripPrefix = None,
    ignore: options.Ignore = None,
    allow_pickle: options.AllowPickle = False,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare methods: compress by each at every ratio, retrain, evaluate.

    [bold]alds sweep model.pt --data imagefolder:val --methods alds,svd -o runs/model[/]

    Every finished run is a small file in the folder. The same command goes on
    after an interruption; methods, ratios, repeats and amounts of retraining can
    be added to a folder; several processes with this command share the work.

    [bold]alds report runs/model[/] makes tables and curves of it.
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.cli.sweep_display import watching  # noqa: PLC0415
    from alds_cli.retraining import RetrainSettings  # noqa: PLC0415

    interface = Interface(json_wanted=json, quiet=quiet, verbose=verbose, threads=threads)
    amounts = _listed(retrain_epochs, numbers.whole(0, numbers.MOST_EPOCHS), "--retrain-epochs 0,1")
    retraining = RetrainSettings(
        epochs=max([1, *amounts]),
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        milestones=training_options.fractions(milestones),
        gamma=gamma,
        augmentation=augment,
        label_smoothing=label_smoothing,
    )
    with watching(interface, output) as (watcher, progress):
        result = api.sweep(
            model,
            data,
            options.source_of(
                arch,
                arch_arg,
                input_shape,
                input_spec,
                state_key,
                strip_prefix,
                ignore,
                allow_pickle,
            ),
            methods=_listed(methods, str, "--methods alds,svd"),
            output=output,
            alpha=alpha,
            steps=steps,
            ratios=None if ratios is None else _listed(ratios, str, "--ratios 0.2,0.5"),
            repeats=repeats,
            retrain_epochs=amounts,
            retraining=retraining,
            train_data=train_data,
            samples=samples,
            target=target,
            latency=latency,
            keep_artefacts=keep_artefacts,
            preprocessing=options.preprocessing_of(preprocess, mean, std, resize, crop),
            classes=classes,
            download=download,
            workers=workers,
            device=device,
            watcher=watcher,
            progress=progress,
        )
    interface.show(_summary(result))
    interface.show_json(documents.sweep(result))


def _listed(text: str, kind: Callable[[str], T], example: str) -> list[T]:
    """The parts of a list with commas."""
    from alds_cli.errors import OptionError  # noqa: PLC0415

    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except typer.BadParameter as error:
        raise OptionError(f"{example.split(maxsplit=1)[0]}: {error.message}", tip=example) from None


def _summary(result: SweepResult) -> RenderableType:
    """What was done, method by method, and what can be done with it."""
    from rich.console import Group  # noqa: PLC0415 - slow to import

    from alds_cli.cli.interface import line  # noqa: PLC0415
    from alds_cli.cli.rendering import table  # noqa: PLC0415

    base = result.baseline
    made = table(
        f"{base.model} ({base.architecture}) → {result.folder}",
        "method",
        "runs",
        "out of reach",
        "largest ratio",
        _top1_heading(result.records),
    )
    for method in dict.fromkeys(record.method for record in result.records):
        made.add_row(method, *_cells([own for own in result.records if own.method == method]))
    total = len(result.records)
    origin = f"{result.made:,} made now, {total - result.made:,} found"
    lines = (
        f"{total:,} runs: {origin}; {result.unreachable:,} out of reach",
        f"top-1 of the original: {base.quality.top1:.2f} % on {base.quality.images:,} images",
        f"tables and curves: alds report {result.folder}",
    )
    return Group(made, *(line(text) for text in lines))


def _top1_heading(records: Sequence[SweepRecord]) -> str:
    """Of several amounts of retraining the largest is the one told of."""
    most = max(record.retrain_epochs for record in records)
    return f"its top-1 after retraining ({most})" if most else "its top-1"


def _cells(records: Sequence[SweepRecord]) -> list[str]:
    """The figures of one method."""
    from fractions import Fraction  # noqa: PLC0415

    reached = [own for own in records if own.reached and own.quality is not None]
    unreachable = len(records) - len(reached)
    if not reached:
        return [str(len(records)), str(unreachable), "–", "–"]
    last = max(reached, key=lambda own: (Fraction(own.ratio), own.retrain_epochs))
    alike = [
        own.quality.top1
        for own in reached
        if own.quality and (own.ratio, own.retrain_epochs) == (last.ratio, last.retrain_epochs)
    ]
    top1 = f"{sum(alike) / len(alike):.2f} %"
    return [str(len(records)), str(unreachable), f"{float(Fraction(last.ratio)):g}", top1]
