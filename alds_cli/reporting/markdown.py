"""A report as Markdown, with tables in GitHub's syntax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from alds_cli.reporting import wording
from alds_cli.reporting.delta_tables import Row, Table
from alds_cli.reporting.summary import Report
from alds_cli.text import visible

_SIGNS = frozenset("\\`*_[]<>|#&~$")
"""Characters that are special in Markdown, in HTML entities or in GitHub's formulas."""


def to_markdown(report: Report, pictures: Mapping[str, str] | None = None) -> str:
    """Format the whole report.

    Args:
        report: the report.
        pictures: captions of the pictures to embed, by file name.
    """
    baseline = report.results.baseline
    parts = [f"# {_plain(baseline.architecture)} on {_plain(wording.data_name(baseline.data))}"]
    for table in report.all_tables:
        parts += [f"## {wording.title(table)}", _table(report, table)]
    for found in wording.published_results(report):
        rows = [(_plain(name), *values) for name, *values in wording.results_rows(found)]
        parts += [
            f"## {wording.results_title(found)}",
            _grid(("method", *wording.RESULTS_HEADINGS), rows),
        ]
    parts += ["## Notes", "\n".join(f"- {_plain(note)}" for note in report.notes)]
    if report.paper is not None:
        parts.append(f"The paper: {_plain(report.paper.source)}")
    for name, caption in (pictures or {}).items():
        parts.append(f"![{_plain(caption)}]({name})")
    return "\n\n".join(parts) + "\n"


def _table(report: Report, table: Table) -> str:
    return _grid(*wording.headings_and_rows(report, table, name=_name, bold=_bold))


def _bold(text: str) -> str:
    return f"**{text}**"


def _name(row: Row) -> str:
    if row.published is not None:
        return f"*{_plain(wording.label(row))}*"
    return _code(row.method)


def _grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruler = ["---", *("---:" for _ in headings[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ruler, *rows))


def _code(text: str) -> str:
    """Format a method's name as code, with fences longer than its own and bars escaped."""
    one_line = visible(" ".join(text.split()))
    fence = "`"
    while fence in one_line:
        fence += "`"
    pad = " " if "`" in one_line else ""
    return f"{fence}{pad}{one_line}{pad}{fence}".replace("|", "\\|")


def _plain(text: str) -> str:
    """Escape text so that Markdown shows it literally, on one line."""
    one_line = visible(" ".join(text.split()))
    return "".join(f"\\{sign}" if sign in _SIGNS else sign for sign in one_line)
