"""The report on a sweep: tables, pictures and the paper's results beside them."""

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
    """Tell what a sweep found, of the runs that are finished.

    Equal runs give the same bytes, whatever the order in which they were made.

    Args:
        folder: the sweep's.
        output: a folder for `report.md`, `report.csv` (the cells of the tables), `points.csv`
            (the points of the curves), `report.tex` and the pictures; None writes nothing.
        deltas: the drops in top-1 allowed, in points.
        methods: which to report on, in this order; None is all.
        paper: the network whose published results to set beside them, `cifar10-resnet20`.
        top5: show differences in top-5 too.
        plots: draw the pictures; None draws them where matplotlib is installed.
        progress: told how far it is; task `pictures`.

    Raises:
        RunFolderError: there is no sweep, or none of its runs reached a ratio.
        OptionError: a method that has no runs, or a name that the paper does not have.
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
    try:
        return draw(made.results, progress)
    except MissingExtraError as error:
        if wanted:
            raise
        _log.warning("no pictures: %s (%s)", error.message, error.tip)
        return []


def _contents(made: Report, pictures: Sequence[Picture]) -> dict[str, bytes]:
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
