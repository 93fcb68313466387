"""Markdown pages as tests read them: blocks, links, and comparison of shown and printed output.

A block may have marks, HTML comments on the lines right before it:

- `<!-- not run: WHY -->`: it is only read, for the reason given;
- `<!-- file: NAME -->`: it is the text of a file that later blocks of the page use;
- `<!-- printed -->`: it is what the Python block before it printed;
- `<!-- schema: NAME -->`: it is a document that `alds schema NAME` describes;
- `<!-- exit: N -->`: its last command ends with that exit code, not with 0; `0 or 1` where it
  depends on what the machine measures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[1]

PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
    if page.exists()
]

RUN = {"console", "sh", "python"}
"""The languages of blocks that run."""

READ = {"json", "text", "toml", "markdown"}
"""The languages of blocks that are only read: documents, grammars, formulas, printed output."""

MARKS = {"not run", "file", "printed", "schema", "exit", "reader", "tests", "demo"}

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>.*?)\s*$")
_MARK = re.compile(r"^\s*<!--\s*(?P<name>[a-z ]+?)\s*(?::\s*(?P<value>.*?))?\s*-->\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page, and the line in which its text begins."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self):
        """The block's page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page):
    """Return all fenced blocks of a page, in order."""
    found, marks, number = [], {}, 0
    lines = page.read_text(encoding="utf-8").splitlines()
    while number < len(lines):
        line = lines[number]
        number += 1
        if mark := _MARK.match(line):
            marks[mark["name"]] = mark["value"] or ""
            continue
        if opening := _FENCE.match(line):
            end = _end_of_block(lines, number, opening["fence"])
            text = dedent("".join(f"{each}\n" for each in lines[number:end]))
            found.append(Block(page, number + 1, opening["language"], text, marks))
            number = end + 1
        marks = {}
    return found


def _end_of_block(lines, start, fence):
    for number in range(start, len(lines)):
        if lines[number].strip() == fence:
            return number
    raise ValueError(f"the block from line {start} on does not end")


def prose_of(page):
    """Blank out a page's blocks and comments, so that lines keep their numbers."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        end = number
        if opening := _FENCE.match(lines[number]):
            end = _end_of_block(lines, number + 1, opening["fence"])
        if opening or lines[number].lstrip().startswith("<!--"):
            lines[number : end + 1] = [""] * (end + 1 - number)
        number = end + 1
    return "\n".join(lines)


def commands_of(block):
    """Return a block's commands with their output as shown; None if no output is shown.

    In a console block a command follows `$ `, and continues on the next line if its line
    ends with a backslash; all other lines are output. In a shell block every line is a command.
    """
    if block.language == "sh":
        return [(line, None) for line in _joined(block.text.splitlines()) if line.strip()]
    found = []
    for line in _joined(block.text.splitlines()):
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(output)) for command, output in found]


def _joined(lines):
    """Join lines that end with a backslash with those that continue them."""
    return "\n".join(lines).replace("\\\n", " ").splitlines()


_NUMBER = re.compile(r"\d[\d,.]*(?:e[-+]?\d+)?")
_MACHINE = re.compile(r"\d\s?(?:ns|µs|ms|s|min|[kMG]?i?B)\b|^ *bytes\b")
"""Text that depends on the machine, like times, or on PyTorch's version, like file sizes."""

_ROUNDING = re.compile(r"\d(?:\.\d+)?e-\d+")


def agrees(shown, printed):
    """Return whether a page shows what was printed.

    Blank lines and the widths of gaps and rules are ignored. In a line that states a time or
    the size of a file every number may differ, and so may numbers of the form 1.2e-07,
    which are rounding. `…` stands for any text in a line, and alone for any lines.
    """
    pattern = "".join(
        "(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + "\n"
        for line in _comparable(shown)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _comparable(printed))) is not None


def _comparable(text):
    for line in filter(str.strip, text.splitlines()):
        settled = _NUMBER.sub("#", line) if _MACHINE.search(line) else _ROUNDING.sub("#", line)
        yield re.sub("─+", "─", " ".join(settled.split()))


_LINK = re.compile(
    r"""!?\[[^\]]*\]\((?P<inline>[^)\s]+)\)|^\[[^\]]+\]:\s*(?P<reference>\S+)"""
    r"""|(?:src|href)="(?P<html>[^"]+)\"""",
    re.MULTILINE,
)
_QUOTED = re.compile(r"`([^`]+)`")
_PATH = re.compile(
    r"(?:\.ci|alds_cli|benchmarks|docs|tests)/[\w./+*-]*|[A-Z]+\.md|pyproject\.toml|\.pre-commit\S*"
)


def links_of(page):
    """Return the targets of a page's links, each with its line."""
    return [(number, found[found.lastgroup]) for number, found in _found(_LINK, page)]


def paths_named(page):
    """Return the repository's paths that a page names in code type, each with its line."""
    return [
        (number, found[1]) for number, found in _found(_QUOTED, page) if _PATH.fullmatch(found[1])
    ]


def _found(pattern, page):
    """Return the matches of a pattern in a page's prose, each with its line."""
    prose = prose_of(page)
    for found in pattern.finditer(prose):
        yield prose.count("\n", 0, found.start()) + 1, found


def anchors_of(page):
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#{1,6} +(.*)$", prose_of(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }
