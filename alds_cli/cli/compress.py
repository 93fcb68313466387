"""`alds compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alds_cli.cli import options

_PLANNING = "Planning"


def command(
    model: options.Model,
    ratio: Annotated[
        str | None,
        typer.Option(
            "--ratio",
            "-r",
            metavar="R",
            help="Fraction of all the network's parameters to remove: 0.8 leaves at most 20 %.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The artefact: PyTorch's format, or safetensors by suffix; - is standard output.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="How to plan: alds.", rich_help_panel=_PLANNING)
    ] = "alds",
    solver: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="exact: the global optimum; alternating: the paper's Algorithm 1.",
            rich_help_panel=_PLANNING,
        ),
    ] = "exact",
    bound: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What to minimise the maximum of: density (what the next parameter would "
            "save), sum or theorem1 (proven bounds on the relative error), published-code.",
            rich_help_panel=_PLANNING,
        ),
    ] = "density",
    seed: Annotated[
        int,
        typer.Option(metavar="N", help="For solvers that draw lots.", rich_help_panel=_PLANNING),
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
    no_cache: options.NoCache = False,
    arch: options.Arch = None,
    arch_arg: options.ArchArg = None,
    input_shape: options.InputShape = None,
    state_key: options.StateKey = None,
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
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.errors import OptionError  # noqa: PLC0415

    interface = Interface(
        json_wanted=json,
        quiet=quiet,
        verbose=verbose,
        threads=threads,
        binary_stdout=output == "-" and not dry_run,
    )
    if output is None and plan_out is None and not dry_run:
        raise OptionError("where to? No output is named", tip="-o small.pt, or --dry-run")
    with interface.progress() as progress:
        result = api.compress(
            model,
            options.source_of(arch, arch_arg, input_shape, state_key, allow_pickle),
            ratio=ratio,
            plan=plan,
            output=output,
            plan_output=plan_out,
            method=method,
            solver=solver,
            bound=bound,
            seed=seed,
            include=include or (),
            exclude=exclude or (),
            table=table,
            cache=not no_cache,
            dry_run=dry_run or output is None,
            progress=progress,
        )
    if dry_run or verbose:
        interface.show(rendering.layer_table(result.report.layers))
    interface.show(rendering.compression_summary(model, result))
    interface.show_json(documents.compression(result))
