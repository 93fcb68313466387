"""Parsers of command-line values that hold several values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from alds_cli.errors import OptionError

T = TypeVar("T")


def shape(text: str) -> tuple[int, ...]:
    """Read the shape of one input: `3,224,224`.

    Raises:
        OptionError: the text is not a list of positive whole numbers.
    """
    try:
        found = tuple(int(extent) for extent in text.split(","))
    except ValueError:
        found = ()
    if not found or any(extent < 1 for extent in found):
        raise OptionError(
            f"an input shape is a list of whole numbers, not '{text}'",
            tip="--input-shape 3,224,224",
        )
    return found


def fractions(text: str) -> tuple[float, ...]:
    """Read the milestones of a schedule: `0.5,0.75`.

    Raises:
        OptionError: a milestone is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise OptionError(
            f"milestones are fractions of the run, not '{text}'", tip="--milestones 0.5,0.75"
        ) from None


def stripped(text: str) -> list[str]:
    """Split at commas, empty parts included."""
    return [part.strip() for part in text.split(",")]


def listed(kind: Callable[[str], T], example: str) -> Callable[[str], list[T]]:
    """Return a reader of comma-separated lists that skips empty parts.

    Args:
        kind: reads one part; raises ValueError.
        example: the option with a value, for the tip of its OptionError.
    """

    def read(text: str) -> list[T]:
        try:
            return [kind(part.strip()) for part in text.split(",") if part.strip()]
        except ValueError as error:
            name = example.split(maxsplit=1)[0]
            raise OptionError(f"{name}: it is {error}", tip=example) from None

    return read
