"""What pages of reference say of every command, in no format yet."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from alds_cli.cli.verbs import program
from alds_cli.options.declaring import MISSING, Declared, Option


@dataclass(frozen=True, slots=True)
class Entry:
    """An argument or an option of a command.

    Attributes:
        names: the option's flags; none of an argument.
        metavar: the placeholder of the value; None of a flag without one.
        help: what it does.
        default: its default as the command line takes it; None where there is none.
        required: whether a value must be given.
    """

    names: tuple[str, ...]
    metavar: str | None
    help: str
    default: str | None
    required: bool


@dataclass(frozen=True, slots=True)
class CommandPage:
    """A command.

    Attributes:
        name: its name.
        usage: the words of a call, with placeholders.
        text: what it does, in which commands stand between `[bold]` and `[/]`.
        arguments: its arguments.
        panels: its options by the title of their panel; None is that of the first ones.
    """

    name: str
    usage: str
    text: str
    arguments: Sequence[Entry]
    panels: Sequence[tuple[str | None, Sequence[Entry]]]


def command_pages() -> list[CommandPage]:
    """Return the pages of all commands, in the order of the help."""
    return [_page(str(verb.name), verb.callback) for verb in program().registered_commands]


def _page(name: str, callback: Any) -> CommandPage:
    declared: list[Declared] = callback.declared
    arguments = [_entry(each) for each in declared if _mark(each).positional]
    options = [each for each in declared if not _mark(each).positional]
    panels = [
        (panel, [_entry(each) for each in group])
        for panel, group in groupby(options, lambda each: _mark(each).panel)
    ]
    found = [entry for _, entries in panels for entry in entries]
    words = ["alds", name, *_usage(arguments, found)]
    return CommandPage(name, " ".join(words), inspect.getdoc(callback) or "", arguments, panels)


def _usage(arguments: Sequence[Entry], options: Sequence[Entry]) -> Iterator[str]:
    for entry in arguments:
        yield str(entry.metavar) if entry.required else f"[{entry.metavar}]"
    required = [entry for entry in options if entry.required]
    for entry in required:
        yield f"{entry.names[-1]} {entry.metavar}"
    if len(options) > len(required):
        yield "[OPTIONS]"


def _entry(declared: Declared) -> Entry:
    mark, default = _mark(declared), declared.command_default
    flag = declared.given is bool
    none = flag or default is None or default is MISSING
    return Entry(
        names=() if mark.positional else declared.flags,
        metavar=None if flag else mark.metavar,
        help=mark.help.replace("\\[", "["),
        default=None if none else str(default),
        required=default is MISSING,
    )


def _mark(declared: Declared) -> Option:
    assert isinstance(declared.mark, Option)  # noqa: S101 - commands have no others
    return declared.mark
