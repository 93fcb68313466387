"""Making the report on a sweep and writing its files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from alds_cli.checkpoint import RunFolder
from alds_cli.checkpoint.files import require_folder, write_files
from alds_cli.errors import MissingExtraError
from alds_cli.records import ProgressCallback
from alds_cli.reporting import (
    Picture,
    Report,
    cells_csv,
    draw,
    make_report,
    points_csv,
    to_latex,
    to_markdown,
)
from alds_cli.reporting.delta_tables import DELTAS

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReportResult:
    """A report, its pictures, and the paths of the files that were written."""

    report: Report
    pictures: tuple[Picture, ...]
    files: tuple[str, ...]


def report(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    deltas: Sequence[Fraction] = DELTAS,
    methods: Sequence[str] | None = None,
    paper: str | None = None,
    top5: bool = False,
    plots: bool | None = None,
    progress: ProgressCallback | None = None,
) -> ReportResult:
    """Report on the finished runs of a sweep.

    Equal runs give the same bytes, whatever the order in which they were made.

    Args:
        folder: the folder of the sweep.
        output: a folder for `report.md`, `report.csv` (the cells of the tables), `points.csv`
            (the points of the curves), `report.tex` and the pictures; None writes nothing.
        deltas: the drops in top-1 to allow, in points.
        methods: the methods to report on, in this order; None means all.
        paper: the network whose published results to compare with, such as `cifar10-resnet20`.
        top5: whether to show differences in top-5, too.
        plots: whether to draw the pictures; None draws them if matplotlib is installed.
        progress: called for every picture, with the task `pictures`.

    Raises:
        RunFolderError: there is no sweep, or none of its runs reached a ratio.
        OptionError: a method has no runs or is named twice, or the paper has no results for
            the network.
        MissingExtraError: `plots` is True and matplotlib is not installed.
        OutputError: the output cannot be written.
    """
    runs = RunFolder(Path(folder))
    made = make_report(
        runs.baseline(),
        runs.records(),
        unfinished=runs.unfinished(),
        deltas=deltas,
        methods=methods,
        paper=paper,
        top5=top5,
        target=str(runs.settings().get("target", "params")),
    )
    if output is not None:
        require_folder(Path(output))
    pictures = [] if plots is False else _pictures(made, wanted=plots, progress=progress)
    files: tuple[str, ...] = ()
    if output is not None:
        contents = _contents(made, pictures)
        write_files(Path(output), contents)
        files = tuple(str(Path(output) / name) for name in contents)
    return ReportResult(made, tuple(pictures), files)


def _pictures(
    made: Report, *, wanted: bool | None, progress: ProgressCallback | None
) -> list[Picture]:
    """Draw the pictures; without matplotlib, warn and draw none unless they are `wanted`."""
    try:
        return draw(made.results, progress)
    except MissingExtraError as error:
        if wanted:
            raise
        _log.warning("no pictures: %s (%s)", error.message, error.tip)
        return []


def _contents(made: Report, pictures: Sequence[Picture]) -> dict[str, bytes]:
    """Return the content of every file of the report, by file name."""
    captions = {f"{picture.name}.png": picture.caption for picture in pictures}
    texts = {
        "report.md": to_markdown(made, captions),
        "report.csv": cells_csv(made),
        "points.csv": points_csv(made),
        "report.tex": to_latex(made),
    }
    drawn = {
        f"{picture.name}.{kind}": content
        for picture in pictures
        for kind, content in picture.content.items()
    }
    return {name: text.encode() for name, text in texts.items()} | drawn
