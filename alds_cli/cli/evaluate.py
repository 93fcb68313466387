"""`alds evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from alds_cli.cli import numbers, options


def command(
    model: options.Model,
    data: options.Data,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Another model to set beside it, e.g. the original.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Images in a forward pass.",
            parser=numbers.whole(1, numbers.MOST_SAMPLES),
        ),
    ] = 256,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", help="Do not time forward passes.")
    ] = False,
    latency_batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Images in a timed forward pass.",
            parser=numbers.whole(1, numbers.MOST_SAMPLES),
        ),
    ] = 1,
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
    """Measure accuracy, size, MACs and latency.

    [bold]alds evaluate small.pt --data imagefolder:val --baseline model.pt[/]
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.errors import OptionError  # noqa: PLC0415

    if model == baseline == "-":
        raise OptionError("only one model can come from standard input")
    interface = Interface(json_wanted=json, quiet=quiet, verbose=verbose, threads=threads)
    source = options.source_of(
        arch, arch_arg, None, None, state_key, strip_prefix, ignore, allow_pickle
    )
    with interface.progress() as progress:
        result = api.evaluate(
            model,
            data,
            source,
            baseline=baseline,
            # An artefact knows its network; what is said of the model holds for the original.
            baseline_source=source,
            preprocessing=options.preprocessing_of(preprocess, mean, std, resize, crop),
            classes=classes,
            download=download,
            batch_size=batch_size,
            workers=workers,
            latency=not no_latency,
            latency_batch_size=latency_batch_size,
            device=device,
            progress=progress,
        )
    interface.show(rendering.evaluation(result))
    interface.show_json(documents.evaluation(result))
