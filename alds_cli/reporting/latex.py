"""A report as LaTeX tables, for a document that loads `booktabs` and `graphicx`."""

from __future__ import annotations

from collections.abc import Iterable

from alds_cli.reporting import wording
from alds_cli.reporting.delta_tables import Row, Table
from alds_cli.reporting.paper import PublishedTable
from alds_cli.reporting.summary import Report
from alds_cli.text import visible

_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "δ": r"$\delta$",
    "κ": r"$\kappa$",
    "σ": r"$\sigma$",
    "ε": r"$\varepsilon$",
    "−": r"$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "‖": r"$\|$",
    "…": r"\dots{}",
    "–": "--",
    "’": "'",
}
"""Replacements of characters that are special in LaTeX, or that its fonts may lack."""


_SHRUNK = r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Shrinks a table that is wider than the line, as with five values of δ, and no other."""


def escape(text: str) -> str:
    """Escape text so that LaTeX prints it literally."""
    return "".join(_SIGNS.get(sign, sign) for sign in visible(" ".join(text.split())))


def to_latex(report: Report) -> str:
    """Format the report as one table environment for each table, followed by the notes."""
    blocks = [_table(report, table) for table in report.all_tables]
    blocks += [_results(found) for found in wording.published_results(report)]
    notes = [*report.notes, *([f"The paper: {report.paper.source}"] if report.paper else [])]
    blocks.append(
        "\n".join(
            [
                r"\begin{itemize}",
                *(rf"  \item{{}} {escape(note)}" for note in notes),
                r"\end{itemize}",
            ]
        )
    )
    head = "% In the preamble: \\usepackage{booktabs,graphicx}"
    return "\n\n".join([head, *blocks]) + "\n"


def _table(report: Report, table: Table) -> str:
    top5 = wording.shows_top5(report, table)
    groups = [wording.heading(table, column) for column in table.columns]
    quality = wording.quality_heading(top5=top5)
    lines = [
        "    & "
        + " & ".join(rf"\multicolumn{{3}}{{c}}{{{escape(group)}}}" for group in groups)
        + r" \\",
        "    " + " ".join(rf"\cmidrule(lr){{{3 * n + 2}-{3 * n + 4}}}" for n in range(len(groups))),
        "    Method & " + " & ".join(f"{quality} & CR-P & CR-F" for _ in groups) + r" \\",
        r"    \midrule",
    ]
    for row in table.rows:
        cells = [
            text
            for cell in row.cells
            for text in wording.cell_texts(cell, top5=top5, number=_number, bold=_bold)
        ]
        lines.append(f"    {' & '.join([_name(row), *cells])} \\\\")
    return _environment(wording.title(table), "l" + "rrr" * len(groups), lines)


def _results(table: PublishedTable) -> str:
    lines = [f"    Method & {' & '.join(wording.RESULTS_HEADINGS)} \\\\", r"    \midrule"]
    for name, top1, top5, cr_p, cr_f in wording.results_rows(table):
        cells = [escape(name), _number(top1), _number(top5), cr_p, cr_f]
        lines.append(f"    {' & '.join(cells)} \\\\")
    return _environment(wording.results_title(table), "lrrrr", lines)


def _environment(caption: str, columns: str, lines: Iterable[str]) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            r"  \footnotesize",
            r"  \setlength{\tabcolsep}{3pt}",
            rf"  \caption{{{escape(caption)}}}",
            _SHRUNK,
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            *lines,
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table}",
        ]
    )


def _name(row: Row) -> str:
    if row.published is not None:
        return rf"\quad \textit{{{escape(wording.label(row))}}}"
    return rf"\texttt{{{escape(row.method)}}}"


def _number(text: str) -> str:
    """Set a number in math mode, so that it has a minus sign and not a hyphen."""
    return f"${text}$" if text else ""


def _bold(text: str) -> str:
    return rf"\textbf{{{text}}}"
