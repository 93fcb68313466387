"""`alds compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alds_cli.cli import numbers, options

_PLANNING = "Planning"
_BUDGET = "Budget"


def command(
    model: options.Model,
    ratio: Annotated[
        str | None,
        typer.Option(
            "--ratio",
            "-r",
            metavar="R[,R…]",
            help="Fraction of all the network's parameters (or of another --target) to remove: "
            "0.8 leaves at most 20 %. Several make a family.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The artefact: PyTorch's format, or safetensors by suffix; - is standard output. "
            "{ratio} in it stands for each of several ratios.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What the ratio is a fraction of: params, macs, bytes (of the file), latency "
            "(measured on --device).",
            rich_help_panel=_BUDGET,
        ),
    ] = "params",
    max_params: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Parameters that the result may have, e.g. 2M.",
            rich_help_panel=_BUDGET,
            show_default=False,
        ),
    ] = None,
    max_macs: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Multiply-accumulates that one sample may take, e.g. 300M.",
            rich_help_panel=_BUDGET,
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Size that the file may have, e.g. 5MB or 4.5MiB.",
            rich_help_panel=_BUDGET,
            show_default=False,
        ),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Time that a forward pass may take, e.g. 3ms.",
            rich_help_panel=_BUDGET,
            show_default=False,
        ),
    ] = None,
    never_slower: Annotated[
        bool,
        typer.Option(
            "--never-slower",
            help="Make no layer that measures slower than what it replaces.",
            rich_help_panel=_BUDGET,
        ),
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Samples in a forward pass whose time counts.",
            parser=numbers.whole(1, numbers.MOST_SAMPLES),
            rich_help_panel=_BUDGET,
        ),
    ] = 1,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where spectra are computed and times measured: cpu, cuda or cuda:N; CUDA where "
            "present.",
            rich_help_panel=_BUDGET,
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="alds; alds+ (four ways to fold); alds-error, svd-error (slices fixed, equal "
            "error); alds-simple, svd, messi (the same ratio in every layer); svd-energy; l-rank; "
            "pca; ft, pfp (remove filters); or package.module:object.",
            rich_help_panel=_PLANNING,
        ),
    ] = "alds",
    k: Annotated[
        int | None,
        typer.Option(
            "--k",
            metavar="N",
            help="Slices or clusters in every layer, for methods that fix them: alds-error, "
            "alds-simple, messi. Usually 3.",
            parser=numbers.whole(1, 2**20),
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    rounding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of the alternating solver: none (whole ranks throughout), or randomised.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    method_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Another option of the method's own, e.g. distance=absolute for messi. "
            "Repeatable.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Training images for methods that look at what the network does with them "
            "(pca, pfp): tensors:FILE[,GLOB], imagefolder:DIR or cifar10:DIR.",
            rich_help_panel=options.IMAGES,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="How many of these images, drawn at random by --seed.",
            parser=numbers.whole(1, numbers.MOST_IMAGES),
            rich_help_panel=options.IMAGES,
        ),
    ] = 512,
    download: options.Download = False,
    workers: options.Workers = 0,
    preprocess: options.Preprocess = None,
    mean: options.Mean = None,
    std: options.Std = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="exact: the least maximum over the layers; knapsack: the least sum of squares, "
            "with a certified gap; alternating: the paper's Algorithm 1. Without it: exact; "
            "knapsack where MACs or time are budgeted.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    bound: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What is minimised: density (what the next parameter would save), frobenius or "
            "exact (relative errors), sum or theorem1 (proven bounds on exact), published-code. "
            "Without it: density, for knapsack frobenius.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    rank_multiple: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Choose only ranks that are multiples of this, e.g. 8 for tensor cores.",
            parser=numbers.whole(1, 2**20),
            rich_help_panel=_PLANNING,
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="For solvers that draw lots.",
            parser=numbers.whole(0, numbers.MOST_SEED),
            rich_help_panel=_PLANNING,
        ),
    ] = 0,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Decompose only layers whose name matches, e.g. 'layer4.*'. Repeatable.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Keep layers whose name matches. Repeatable.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Carry out this plan, e.g. an edited one, instead of making one.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    plan_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the plan as JSON.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Error table written by `alds profile -o`; the cache without it.",
            rich_help_panel=_PLANNING,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and write no artefact.")
    ] = False,
    unverified: Annotated[
        bool,
        typer.Option(
            "--unverified",
            help="Write the result even if no forward pass can be made, so that nobody knows "
            "whether it runs.",
        ),
    ] = False,
    no_cache: options.NoCache = False,
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
    """Write a smaller network that runs.

    Convolutions and linear layers become low-rank pairs where that pays; how many
    parameters each may keep is settled for the whole network at once.

    [bold]alds compress model.pt --ratio 0.5 -o small.pt[/]

    Several budgets hold together; several ratios make a family from one profile:

    [bold]alds compress model.pt --max-size 5MB --max-macs 300M -o small.pt[/]

    [bold]alds compress model.pt --ratio 0.2,0.4,0.6 -o 'small-{ratio}.pt'[/]
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.cli.streams import output_name, output_path  # noqa: PLC0415
    from alds_cli.errors import OptionError  # noqa: PLC0415

    output, plan_named = output_name(output), plan_out
    plan_out = output_path(plan_out)
    interface = Interface(
        json_wanted=json,
        quiet=quiet,
        verbose=verbose,
        threads=threads,
        binary_stdout=(output == "-" and not dry_run) or plan_out != plan_named,
    )
    if output is None and plan_out is None and not dry_run:
        raise OptionError("where to? No output is named", tip="-o small.pt, or --dry-run")
    ratios = _ratios(ratio)
    with interface.progress() as progress:
        results = api.compress_family(
            model,
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
            ratios=ratios,
            plan=plan,
            output=output,
            plan_output=plan_out,
            target=target,
            max_params=max_params,
            max_macs=max_macs,
            max_size=max_size,
            max_latency=max_latency,
            never_slower=never_slower,
            batch_size=batch_size,
            device=device,
            method=method,
            method_args=options.method_arguments(method_arg, k=k, rounding=rounding),
            data=data,
            samples=samples,
            preprocessing=options.preprocessing_of(preprocess, mean, std, resize, crop),
            download=download,
            workers=workers,
            solver=solver,
            bound=bound,
            rank_multiple=rank_multiple,
            seed=seed,
            include=include or (),
            exclude=exclude or (),
            table=table,
            cache=not no_cache,
            dry_run=dry_run or output is None,
            unverified=unverified,
            progress=progress,
        )
    for result in results:
        if dry_run or verbose:
            interface.show(rendering.layer_table(result.report.layers))
    if len(results) > 1:
        interface.show(rendering.family(model, results))
        interface.show_json(documents.family(results))
    else:
        interface.show(rendering.compression_summary(model, results[0]))
        interface.show_json(documents.compression(results[0]))


def _ratios(text: str | None) -> list[str | None]:
    """The ratios of a list; without any, one result that only limits count for."""
    return [None] if text is None else [part.strip() for part in text.split(",")]
