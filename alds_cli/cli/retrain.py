"""`alds retrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from alds_cli.cli import numbers, options, training_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from alds_cli.retraining import EpochRecord


def command(
    model: options.Model,
    data: options.Data,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The artefact; - is standard output.",
            show_default=False,
        ),
    ],
    epochs: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Passes over the data.",
            parser=numbers.whole(1, numbers.MOST_EPOCHS),
            rich_help_panel=training_options.TRAINING,
        ),
    ] = 3,
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
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Of the images' order and augmentation.",
            parser=numbers.whole(0, numbers.MOST_SEED),
            rich_help_panel=training_options.TRAINING,
        ),
    ] = 0,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with an interrupted run to the same output."),
    ] = False,
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
    state_key: options.StateKey = None,
    strip_prefix: options.StripPrefix = None,
    ignore: options.Ignore = None,
    allow_pickle: options.AllowPickle = False,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a compressed network further; its pairs stay pairs.

    The state after every epoch is kept beside the output until the run is done, so that
    [bold]--resume[/] can go on after an interruption. Equal seeds and equal numbers of
    threads give equal weights.
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.cli.streams import output_name  # noqa: PLC0415
    from alds_cli.retraining import RetrainSettings  # noqa: PLC0415

    output = output_name(output) or output
    interface = Interface(
        json_wanted=json,
        quiet=quiet,
        verbose=verbose,
        threads=threads,
        binary_stdout=output == "-",
    )
    settings = RetrainSettings(
        epochs=epochs,
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
        seed=seed,
    )
    source = options.source_of(
        arch, arch_arg, None, None, state_key, strip_prefix, ignore, allow_pickle
    )
    with interface.progress() as progress:
        result = api.retrain(
            model,
            data,
            settings,
            source,
            output=output,
            preprocessing=options.preprocessing_of(preprocess, mean, std, resize, crop),
            classes=classes,
            download=download,
            workers=workers,
            device=device,
            resume=resume,
            progress=progress,
        )
    interface.show(_history(result.history))
    places = f"{rendering.place(model, 'input')} → {rendering.place(output, 'output')}"
    interface.show(f"{places} in {result.seconds:.1f} s")
    interface.show_json(documents.retraining(result))


def _history(history: Sequence[EpochRecord]) -> Table:
    from alds_cli.cli.rendering import table  # noqa: PLC0415

    made = table(None, "epoch", "learning rate", "loss", "accuracy", "time")
    for record in history:
        made.add_row(
            str(record.epoch),
            f"{record.lr:g}",
            f"{record.loss:.4f}",
            f"{record.accuracy:.2f} %",
            f"{record.seconds:.1f} s",
        )
    return made
