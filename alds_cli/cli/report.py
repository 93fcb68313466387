"""`alds report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alds_cli.cli import options


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a sweep.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where to write report.md, report.csv, points.csv, report.tex and the "
            "pictures; DIR/report without it.",
            show_default=False,
        ),
    ] = None,
    delta: Annotated[
        str, typer.Option(metavar="D,D,…", help="Drops in top-1 allowed, in points.")
    ] = "0,0.5,1,2,3",
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,…",
            help="Only these, in this order.",
            show_default=False,
        ),
    ] = None,
    paper: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Set the paper's results for a network beside them, e.g. cifar10-resnet20.",
            show_default=False,
        ),
    ] = None,
    top5: Annotated[
        bool, typer.Option("--top5", help="Show differences in top-5 accuracy too.")
    ] = False,
    plots: Annotated[
        bool | None,
        typer.Option(
            "--plots/--no-plots",
            help="Draw the curves and the layers; without either, where matplotlib is installed.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Tell what a sweep found: the largest ratios within a drop in accuracy, and the curves.

    [bold]alds report runs/resnet20 --paper cifar10-resnet20[/]
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, report_tables  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.reporting import parse_deltas  # noqa: PLC0415

    interface = Interface(json_wanted=json, quiet=quiet, verbose=verbose)
    with interface.progress() as progress:
        result = api.report(
            folder,
            output=folder / "report" if output is None else output,
            deltas=parse_deltas(delta),
            methods=None if methods is None else [part.strip() for part in methods.split(",")],
            paper=paper,
            top5=top5,
            plots=plots,
            progress=progress,
        )
    for part in report_tables.shown(result.report, interface.results):
        interface.show(part)
    interface.show(f"written to {Path(result.files[0]).parent}: {len(result.files)} files")
    interface.show_json(documents.report(result))
