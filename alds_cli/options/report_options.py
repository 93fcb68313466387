"""The options of `report`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.choices import METHOD_NAMES
from alds_cli.options.declaring import Keyword, Option
from alds_cli.options.readers import parse_deltas, stripped

if TYPE_CHECKING:
    from alds_cli import ProgressCallback


DELTAS = "0,0.5,1,2,3"
"""The drops in top-1 that the paper allows, in points."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The choice of what to report on a sweep."""

    folder: Annotated[
        str | Path,
        Option(help="The folder of a sweep.", metavar="DIR", given=Path, positional=True),
    ]
    _: KW_ONLY
    output: Annotated[
        str | Path | None,
        Option(
            help="Where to write report.md, report.csv, points.csv, report.tex and the "
            "pictures; DIR/report without it.",
            metavar="FOLDER",
            flags=("--output", "-o"),
            given=Path,
            python="A folder for `report.md`, `report.csv` (the cells of the tables), "
            "`points.csv` (the points of the curves), `report.tex` and the pictures; None writes "
            "nothing.",
        ),
    ] = None
    html: Annotated[
        str | Path | None,
        Option(
            help="Also write the report as one HTML page, which needs nothing else.",
            metavar="FILE",
            given=Path,
        ),
    ] = None
    deltas: Annotated[
        str | Sequence[Fraction],
        Option(
            help="Drops in top-1 allowed, in points.",
            metavar="D,D,…",
            flags=("--delta",),
            given=str,
            read=parse_deltas,
        ),
    ] = DELTAS
    methods: Annotated[
        Sequence[str] | None,
        Option(
            help="Report on these methods only, in this order.",
            values=METHOD_NAMES,
            others=True,
            metavar="NAME,NAME,…",
            given=str,
            read=stripped,
            python="The methods to report on, in this order; None is all of them.",
        ),
    ] = None
    paper: Annotated[
        str | None,
        Option(
            help="Show the paper's results for a network beside them, e.g. cifar10-resnet20.",
            values="networks of the paper",
            metavar="NAME",
        ),
    ] = None
    top5: Annotated[bool, Option(help="Show differences in top-5 accuracy too.")] = False
    plots: Annotated[
        bool | None,
        Option(
            help="Draw the curves and the layers; by default only if matplotlib is installed.",
            flags=("--plots/--no-plots",),
            python="Draw the curves and the layers; None draws them if matplotlib is installed.",
        ),
    ] = None
    progress: Annotated[
        "ProgressCallback | None", Keyword("Called with the progress; task `pictures`.")
    ] = None
