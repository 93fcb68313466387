"""The manual page of all commands and options, made from their definitions.

`python -m alds_cli.cli.manual > docs/alds.1` writes it, in the macros of man(7).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

from alds_cli.cli.command_pages import CommandPage, Entry, command_pages
from alds_cli.cli.verbs import root

_EXIT_CODES = (
    (0, "Done."),
    (1, "What was asked for cannot be had: a ratio out of reach, a gate that failed."),
    (2, "Bad usage or bad input, or a result that cannot be written."),
    (70, "An error of the tool's own."),
    (130, "Interrupted with Ctrl-C."),
    (141, "The reader of standard output closed it."),
)

_VARIABLES = (
    ("ALDS_<COMMAND>_<OPTION>", "The default of an option of a command."),
    ("ALDS_<OPTION>", "The default of an option of all commands that have it."),
    ("ALDS_CACHE_DIR", "The folder of what may be computed again, such as error tables."),
    ("ALDS_TRACEBACK", "1 shows where an error of the tool's own happened."),
    ("COLUMNS", "The width of tables where no terminal says it."),
    ("NO_COLOR", "Anything but an empty text leaves colours out."),
)


def manual() -> str:
    """Return the page, in roff."""
    return "\n".join(_lines()) + "\n"


def _summary() -> str:
    """Return the first line of the help, as a phrase."""
    text = inspect.getdoc(root) or ""
    return text.partition("\n")[0].removesuffix(".")


def _lines() -> Iterator[str]:
    pages = command_pages()
    yield r".\" Made by python -m alds_cli.cli.manual from the definitions of the options."
    yield '.TH ALDS 1 "" "alds" "User Commands"'
    yield from (".nh", ".ad l")  # what is copied from it has no hyphens of its own
    yield from (".SH NAME", rf"alds \- {_escaped(_summary())}")
    yield from (".SH SYNOPSIS", ".B alds", r".RI [ \-\-version ]", r".RI [ \-\-help ]")
    yield from (".I COMMAND", ".RI [ OPTIONS ]", ".SH DESCRIPTION")
    yield _escaped("Words in capitals stand for values. A command takes -h and --help too.")
    yield _escaped("alds --install-completion lets the shell complete options and names of values.")
    for page in pages:
        yield from _command(page)
    yield ".SH EXIT STATUS"
    for code, meaning in _EXIT_CODES:
        yield from (".TP", rf"\fB{code}\fR", _escaped(meaning))
    yield ".SH ENVIRONMENT"
    for name, meaning in _VARIABLES:
        yield from (".TP", rf"\fB{_escaped(name)}\fR", _escaped(meaning))
    yield from (".SH FILES", ".TP", r"\fBpyproject.toml\fR")
    yield _escaped("Defaults of options in the tables [tool.alds] and [tool.alds.<command>].")


def _command(page: CommandPage) -> Iterator[str]:
    yield f'.SH "ALDS {page.name.upper()}"'
    yield rf"\fB{_escaped(page.usage)}\fR"
    for paragraph in page.text.split("\n\n"):
        yield ".PP"
        yield from (_marked(line.strip()) for line in paragraph.splitlines())
    for entry in page.arguments:
        yield from _entry(entry)
    for panel, entries in page.panels:
        if panel is not None:
            yield f'.SS "{_escaped(panel)}"'
        for entry in entries:
            yield from _entry(entry)


def _entry(entry: Entry) -> Iterator[str]:
    names = ", ".join(rf"\fB{_escaped(name)}\fR" for name in entry.names)
    value = entry.metavar and rf"\fI{_escaped(entry.metavar)}\fR"
    yield ".TP"
    yield " ".join(filter(None, [names, value]))
    yield _escaped(entry.help)
    if entry.required:
        yield "Required."
    elif entry.default is not None:
        yield _escaped(f"Default: {entry.default}.")


def _marked(text: str) -> str:
    """Set the bold parts of a docstring in bold."""
    parts = re.split(r"\[bold\](.*?)\[/\]", text)
    bold = [
        rf"\fB{_escaped(part)}\fR" if number % 2 else _escaped(part)
        for number, part in enumerate(parts)
    ]
    return "".join(bold)


def _escaped(text: str) -> str:
    """Escape what roff takes for its own: backslashes, hyphens, and signs that begin a line."""
    plain = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    letters = "".join(sign if sign.isascii() else rf"\[u{ord(sign):04X}]" for sign in plain)
    return rf"\&{letters}" if letters[:1] in {".", "'"} else letters


if __name__ == "__main__":
    sys.stdout.write(manual())
