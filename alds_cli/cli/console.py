"""The way to the terminal: whatever is shown comes through here, and is shown as it is."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from alds_cli.visible import visible

_LONGEST = 800
"""Characters of an error's message: some quote what they refuse."""


class PlainConsole(Console):
    """A console that shows strings as they are.

    Nothing in them is taken for markup or for an emoji's code, and no character of theirs
    reaches a terminal that would steer it. What the pieces of a table and the lines of a text
    are made of should have passed through `visible` before, so that they are measured right.

    Args:
        file: where to.
        width: in columns; None is the terminal's.
    """

    def __init__(self, file: IO[str], width: int | None = None) -> None:
        super().__init__(file=file, width=width, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as Rich does, every character visible."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text, keep="\n"), style, control)


class _Line(Text):
    """Text that is broken between words, or by the terminal alone.

    So a file's name that is longer than the terminal is wide can still be copied from it. It
    has to be printed with `crop=False`.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        """Render as Rich does, where no word is too long for that."""
        whole = options.max_width >= console.width  # and no cell of a table
        if whole and self.__rich_measure__(console, options).minimum > console.width:
            options = options.update(no_wrap=True, overflow="ignore")
        yield from super().__rich_console__(console, options)


def line(*parts: str | tuple[str, str], style: str = "") -> Text:
    """Text of one line, whatever it is made of; a part may be a pair with its style."""
    made = _Line(style=style)
    for part in parts:
        text, own = (part, "") if isinstance(part, str) else part
        made.append(visible(text), own or None)
    return made


def explain(message: str, tip: str | None) -> None:
    """An error as a line, and what to do about it as another."""
    console = PlainConsole(sys.stderr)
    said = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    console.print(line(("error: ", "bold red"), said), soft_wrap=True)
    if tip:
        console.print(line(("  tip: ", "bold"), tip), soft_wrap=True)


def show_traceback(error: BaseException) -> None:
    """Where an error happened, for its report."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    console = PlainConsole(sys.stderr)
    for own in lines:
        console.print(line(own), soft_wrap=True)
