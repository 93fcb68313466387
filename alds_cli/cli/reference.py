"""The page of all commands and options, made from their definitions.

`python -m alds_cli.cli.reference > docs/cli.md` writes it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from alds_cli.cli.verbs import program
from alds_cli.options.declaring import MISSING, Declared, Option

_HEAD = """# Commands and options

This page is made from the definitions of the options, as `alds COMMAND --help` is; `python -m
alds_cli.cli.reference > docs/cli.md` writes it. Words in capitals stand for values, and a command
takes `-h` and `--help` too.
"""


def reference() -> str:
    """Return the page, in Markdown."""
    parts = [_HEAD]
    for verb in program().registered_commands:
        parts += _command(str(verb.name), verb.callback)
    return "\n".join(parts)


def _command(name: str, callback: Any) -> Iterator[str]:
    declared: list[Declared] = callback.declared
    arguments = [each for each in declared if _option(each).positional]
    options = [each for each in declared if not _option(each).positional]
    words = [
        str(_option(each).metavar) if _needed(each) else f"[{_option(each).metavar}]"
        for each in arguments
    ]
    required = [f"{each.flags[-1]} {_option(each).metavar}" for each in options if _needed(each)]
    more = ["[OPTIONS]"] if len(options) > len(required) else []
    yield f"## alds {name}\n"
    yield f"`{' '.join(['alds', name, *words, *required, *more])}`\n"
    yield f"{_text(inspect.getdoc(callback) or '')}\n"
    if arguments:
        yield _table("argument", arguments)
    for panel, group in groupby(options, lambda each: _option(each).panel):
        if panel is not None:
            yield f"{panel}:\n"
        yield _table("option", list(group))


def _table(kind: str, rows: list[Declared]) -> str:
    lines = [f"| {kind} | does | default |", "| --- | --- | --- |"]
    lines += [
        f"| {_names(each)} | {_escaped(_option(each).help)} | {_default(each)} |" for each in rows
    ]
    return "\n".join(lines) + "\n"


def _names(declared: Declared) -> str:
    option = _option(declared)
    if option.positional:
        return f"`{option.metavar}`"
    names = ", ".join(f"`{flag}`" for flag in declared.flags)
    return names if declared.given is bool else f"{names} `{option.metavar}`"


def _needed(declared: Declared) -> bool:
    return declared.command_default is MISSING


def _default(declared: Declared) -> str:
    default = declared.command_default
    if _needed(declared):
        return "required"
    return "" if default is None or declared.given is bool else f"`{default}`"


def _option(declared: Declared) -> Option:
    assert isinstance(declared.mark, Option)  # noqa: S101 - commands have no others
    return declared.mark


def _text(doc: str) -> str:
    """Turn the bold parts of a docstring, which are commands, into Markdown's code."""
    return re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", doc)


def _escaped(text: str) -> str:
    """Escape the characters of a help text that have a meaning in Markdown's tables."""
    return re.sub(r"([<*|])", r"\\\1", text.replace("\\[", "["))


if __name__ == "__main__":
    sys.stdout.write(reference())
