"""Making the report on a sweep and writing its files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from alds_cli.checkpoint.files import replacing, require_folder, require_writable, write_files
from alds_cli.checkpoint.run_folder import RunFolder
from alds_cli.errors import MissingExtraError
from alds_cli.options.readers import parse_deltas
from alds_cli.options.report_options import ReportOptions
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
from alds_cli.reporting.html import sweep_page
from alds_cli.runtime.environment import environment

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReportResult:
    """A report, its pictures, and the paths of the files that were written."""

    report: Report
    pictures: tuple[Picture, ...]
    files: tuple[str, ...]


def report(options: ReportOptions) -> ReportResult:
    """Tell what a sweep found, of the runs that are finished.

    Equal runs give the same bytes, whatever the order in which they were made.

    Raises:
        RunFolderError: there is no sweep, or none of its runs reached a ratio.
        OptionError: a method that has no runs, or a name that the paper does not have.
        MissingExtraError: `plots` is True and matplotlib is not installed.
        OutputError: the output cannot be written.
    """
    output, page = options.output, options.html
    runs = RunFolder(Path(options.folder))
    made = make_report(
        runs.baseline(),
        runs.records(),
        unfinished=runs.unfinished(),
        deltas=_deltas(options.deltas),
        methods=options.methods,
        paper=options.paper,
        top5=options.top5,
        target=str(runs.settings().get("target", "params")),
    )
    if output is not None:
        require_folder(Path(output))
    if page is not None:
        require_writable(Path(page))
    pictures = [] if options.plots is False else _pictures(made, options)
    files: tuple[str, ...] = ()
    if output is not None:
        contents = _contents(made, pictures)
        write_files(Path(output), contents)
        files = tuple(str(Path(output) / name) for name in contents)
    if page is not None:
        with replacing(Path(page)) as temporary:
            temporary.write_bytes(sweep_page(made, runs.settings(), pictures, environment()))
        files = (*files, str(page))
    return ReportResult(made, tuple(pictures), files)


def _deltas(given: str | Sequence[Fraction]) -> tuple[Fraction, ...]:
    return parse_deltas(given) if isinstance(given, str) else tuple(given)


def _pictures(made: Report, options: ReportOptions) -> list[Picture]:
    try:
        return draw(made.results, options.progress)
    except MissingExtraError as error:
        if options.plots:
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
