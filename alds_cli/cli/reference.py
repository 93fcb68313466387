"""The page of all commands and options, made from their definitions.

`python -m alds_cli.cli.reference > docs/cli.md` writes it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

from alds_cli.cli.command_pages import CommandPage, Entry, command_pages

_HEAD = """# Commands and options

This page is made from the definitions of the options, as `alds COMMAND --help` and the manual page
`man alds` are; `python -m alds_cli.cli.reference > docs/cli.md` writes it. Words in capitals stand
for values, and a command takes `-h` and `--help` too. `alds --install-completion` lets your shell
complete options, and the names of architectures, methods, recipes and other values.
"""


def reference() -> str:
    """Return the page, in Markdown."""
    return "\n".join([_HEAD, *(part for page in command_pages() for part in _command(page))])


def _command(page: CommandPage) -> Iterator[str]:
    yield f"## alds {page.name}\n"
    yield f"`{page.usage}`\n"
    yield f"{_text(page.text)}\n"
    if page.arguments:
        yield _table("argument", page.arguments)
    for panel, entries in page.panels:
        if panel is not None:
            yield f"{panel}:\n"
        yield _table("option", entries)


def _table(kind: str, entries: Sequence[Entry]) -> str:
    lines = [f"| {kind} | does | default |", "| --- | --- | --- |"]
    lines += [
        f"| {_names(entry)} | {_escaped(entry.help)} | {_default(entry)} |" for entry in entries
    ]
    return "\n".join(lines) + "\n"


def _names(entry: Entry) -> str:
    names = ", ".join(f"`{flag}`" for flag in entry.names)
    return " ".join(filter(None, [names, entry.metavar and f"`{entry.metavar}`"]))


def _default(entry: Entry) -> str:
    if entry.required:
        return "required"
    return "" if entry.default is None else f"`{entry.default}`"


def _text(doc: str) -> str:
    """Turn the bold parts of a docstring, which are commands, into Markdown's code."""
    return re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", doc)


def _escaped(text: str) -> str:
    """Escape the characters of a help text that have a meaning in Markdown's tables."""
    return re.sub(r"([<*|])", r"\\\1", text)


if __name__ == "__main__":
    sys.stdout.write(reference())
