"""The page of all commands and options, made of what they say of themselves.

`python -m alds_cli.cli.reference > docs/cli.md` writes it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from alds_cli.cli.commands import app
from alds_cli.options.declaring import MISSING, Declared, Option

_HEAD = """# Commands and options

This page is made from the definitions of the options, as `alds COMMAND --help` is; `python -m
alds_cli.cli.reference > docs/cli.md` writes it. Words in capitals stand for values, and a command
takes `-h` and `--help` too.
"""


def reference() -> str:
    """Write the page, in Markdown."""
    parts = [_HEAD]
    for own in app.registered_commands:
        parts += _command(str(own.name), own.callback)
    return "\n".join(parts)


def _command(name: str, callback: Any) -> Iterator[str]:
    declared: list[Declared] = callback.declared
    arguments = [own for own in declared if _option(own).positional]
    options = [own for own in declared if not _option(own).positional]
    words = [
        str(_option(own).metavar) if _needed(own) else f"[{_option(own).metavar}]"
        for own in arguments
    ]
    required = [f"{own.flags[-1]} {_option(own).metavar}" for own in options if _needed(own)]
    more = ["[OPTIONS]"] if len(options) > len(required) else []
    yield f"## alds {name}\n"
    yield f"`{' '.join(['alds', name, *words, *required, *more])}`\n"
    yield f"{_text(inspect.getdoc(callback) or '')}\n"
    if arguments:
        yield _table("argument", arguments)
    for panel, group in groupby(options, lambda own: _option(own).panel):
        if panel is not None:
            yield f"{panel}:\n"
        yield _table("option", list(group))


def _table(kind: str, rows: list[Declared]) -> str:
    lines = [f"| {kind} | does | default |", "| --- | --- | --- |"]
    lines += [
        f"| {_names(own)} | {_escaped(_option(own).help)} | {_default(own)} |" for own in rows
    ]
    return "\n".join(lines) + "\n"


def _names(own: Declared) -> str:
    option = _option(own)
    if option.positional:
        return f"`{option.metavar}`"
    names = ", ".join(f"`{flag}`" for flag in own.flags)
    return names if own.given is bool else f"{names} `{option.metavar}`"


def _needed(own: Declared) -> bool:
    return own.command_default is MISSING


def _default(own: Declared) -> str:
    default = own.command_default
    if _needed(own):
        return "required"
    return "" if default is None or own.given is bool else f"`{default}`"


def _option(own: Declared) -> Option:
    assert isinstance(own.mark, Option)  # noqa: S101 - others are no parameters of a command
    return own.mark


def _text(doc: str) -> str:
    """A docstring whose emphasised parts are commands."""
    return re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", doc)


def _escaped(text: str) -> str:
    """Text of help as Markdown, in which some signs mean something."""
    return re.sub(r"([<*|])", r"\\\1", text.replace("\\[", "["))


if __name__ == "__main__":
    sys.stdout.write(reference())
