"""What turns the texts of a command line into values, or refuses them, without a network.

Whoever is given such a value in Python asks the same functions, and so does `alds config show`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeVar

from alds_cli.errors import OptionError
from alds_cli.options.choices import EXPORTS, METHOD_NAMES, PICTURES, require_known
from alds_cli.text import exact, parse_quantity

T = TypeVar("T")

Plain = str | int | float | bool | None
"""The value of an argument that a constructor or a method is given."""


def checked(require: Callable[[T], object]) -> Callable[[T], T]:
    """Return a reader that leaves a value as it is, after a function has not refused it.

    Args:
        require: raises OptionError for a value that the option does not have.
    """

    def read(given: T) -> T:
        require(given)
        return given

    return read


# ---------------------------------------------------------------- numbers


def amount(option: str, units: Mapping[str, int]) -> Callable[[str], str]:
    """Return a reader of positive amounts in units, such as `5MB`, which it leaves as they are."""
    return checked(partial(parse_quantity, units=units, option=option))


def parse_alpha(value: str | float | Fraction) -> Fraction:
    """Parse what each step of a sweep leaves of the last one's rest, taking its digits literally.

    Raises:
        OptionError: it is not strictly between 0 and 1.
    """
    try:
        share = exact(str(value))
    except ValueError:
        share = Fraction(0)
    if not 0 < share < 1:
        raise OptionError(
            f"alpha is what each step leaves of the last, between 0 and 1, not {value}",
            tip="--alpha 0.8",
        )
    return share


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


def are_milestones(values: Sequence[float]) -> bool:
    """Return whether values are ascending fractions of a schedule in (0, 1)."""
    return all(0 < value < 1 for value in values) and sorted(set(values)) == list(values)


def parse_milestones(text: str) -> tuple[float, ...]:
    """Read the milestones of a schedule: `0.5,0.75`.

    Raises:
        OptionError: they are not ascending fractions in (0, 1).
    """
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (math.nan,)
    if not are_milestones(found):
        raise OptionError(
            f"milestones are ascending fractions of the run, between 0 and 1, not '{text}'",
            tip="--milestones 0.5,0.75",
        )
    return found


MOST_ALPHA = 1000
"""The largest α of a Beta(α, α) that images are mixed by."""

LEAST_ALPHA = 1e-3
"""The smallest but 0, which is none."""


def is_mixing(alpha: float) -> bool:
    """Return whether a number can be α of a Beta(α, α), or 0 for none."""
    return alpha == 0 or LEAST_ALPHA <= alpha <= MOST_ALPHA


def parse_mixing(alpha: float) -> float:
    """Read α of the Beta(α, α) that images are mixed by.

    Raises:
        OptionError: no shares can be drawn from such a distribution.
    """
    if not is_mixing(alpha):
        raise OptionError(
            f"images are mixed by a number from {LEAST_ALPHA} to {MOST_ALPHA:,}, or by 0, which "
            f"mixes none, not by '{alpha:g}'",
            tip="--mixup 0.2, or --cutmix 1",
        )
    return alpha


def parse_deltas(text: str) -> tuple[Fraction, ...]:
    """Parse a list of drops in accuracy such as `0,0.5,1`, in points, and sort it.

    Raises:
        OptionError: a part is not a number from 0 to 100.
    """
    try:
        deltas = {exact(part) for part in text.split(",")}
    except ValueError:
        deltas = {Fraction(-1)}
    if min(deltas) < 0 or max(deltas) > 100:
        raise OptionError(
            f"drops in accuracy are numbers of points from 0 to 100, not '{text}'",
            tip="--delta 0,0.5,1,2,3",
        )
    return tuple(sorted(deltas))


def parse_channels(text: str, option: str, *, positive: bool = False) -> tuple[float, ...]:
    """Parse a number for every channel: `0.5,0.5,0.5`.

    Args:
        text: numbers, between which there are commas or spaces.
        option: the option with this value, such as `mean`, for the message.
        positive: whether all have to be above 0.

    Raises:
        OptionError: it is no list of such numbers.
    """
    try:
        values = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) for value in values):
        raise OptionError(
            f"{option} '{text}' is not a list of numbers such as 0.5,0.5,0.5",
            tip=f"--{option} 0.5,0.5,0.5",
        )
    if positive and min(values) <= 0:
        raise OptionError(
            f"{option} must be positive in every channel, not '{text}'",
            tip=f"--{option} 0.5,0.5,0.5",
        )
    return values


# ---------------------------------------------------------------- names


def names_object(text: str) -> bool:
    """Return whether a text can name an object of the user's own code: `package.module:object`."""
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def require_method(name: str) -> None:
    """Refuse a name that no method has and none of the user's own can have.

    Raises:
        OptionError: it is such a name.
    """
    if ":" not in name or not names_object(name):
        own = "or name one of your own: package.module:object"
        require_known("method", name, METHOD_NAMES, own)


def method_name(name: str) -> str:
    """Read a method's name; an empty one stands for the method that suits the data.

    Raises:
        OptionError: there can be no such method.
    """
    if name:
        require_method(name)
    return name


def picture_form(file: str | Path) -> str:
    """Return the form of a picture, one of `PICTURES`, that a file's name asks for.

    Raises:
        OptionError: it asks for none.
    """
    return _form(file, PICTURES, "draw")


def export_form(file: str | Path) -> str:
    """Return the form of an exported network, one of `EXPORTS`, that a file's name asks for.

    Raises:
        OptionError: it asks for none.
    """
    if str(file) == "-":
        raise OptionError("exports cannot go to standard output", tip="-o FILE")
    return _form(file, EXPORTS, "export")


def _form(file: str | Path, known: Sequence[str], purpose: str) -> str:
    path = Path(file)
    form = path.suffix.removeprefix(".").lower()
    if form not in known:
        raise OptionError(
            f"the name {path.name} does not say what to {purpose}",
            tip=f"end it with {', '.join(f'.{own}' for own in known)}",
        )
    return form


# ---------------------------------------------------------------- arguments

_WORDS: dict[str, Plain] = {"none": None, "null": None, "true": True, "false": False}


def parse_argument(argument: str, option: str) -> tuple[str, Plain]:
    """Split a `key=value` of the command line; the value's type follows from its form.

    It is None (`none`, `null`), a bool (`true`, `false`), an int, a finite float, or else text;
    these words may be in upper or lower case.

    Args:
        argument: the text.
        option: the option that it was given to, for the message.

    Raises:
        OptionError: it is not of the form key=value.
    """
    key, equals, text = argument.partition("=")
    if not equals or not key.isidentifier():
        raise OptionError(f"{option} takes key=value, not '{argument}'")
    return key, _plain(text)


def _plain(text: str) -> Plain:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def parse_arguments(arguments: Iterable[str], option: str) -> dict[str, Plain]:
    """Read the values of an option that is repeated, `key=value` each.

    Raises:
        OptionError: one is not of that form, or a key is given twice.
    """
    found: dict[str, Plain] = {}
    for argument in arguments:
        key, value = parse_argument(argument, option)
        if key in found:
            raise OptionError(f"{option}: {key} is given twice")
        found[key] = value
    return found


def arch_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Read the arguments of a network's constructor, which stay as they are written.

    Raises:
        OptionError: one is not of the form key=value, or a key is given twice.
    """
    parse_arguments(arguments, "--arch-arg")
    return tuple(arguments)


def parse_method_spec(text: str) -> tuple[str, dict[str, Plain]]:
    """Parse a method and its arguments from one word: `name` or `name:key=value:key=value`.

    Raises:
        OptionError: there can be no such method, or an argument is malformed or given twice.
    """
    parts = text.split(":")
    name = ":".join(part for part in parts if "=" not in part)
    require_method(name)
    return name, parse_arguments((part for part in parts if "=" in part), f"the method {name}")


# ---------------------------------------------------------------- lists


def stripped(text: str) -> list[str]:
    """Split at commas, empty parts included."""
    return [part.strip() for part in text.split(",")]


def each(require: Callable[[str], object]) -> Callable[[str], list[str]]:
    """Return a reader of comma-separated lists, empty parts included, that refuses some parts.

    Args:
        require: raises OptionError for a part that the option does not have.
    """
    read = checked(require)
    return lambda text: [read(part) for part in stripped(text)]


def listed(kind: Callable[[str], T], example: str) -> Callable[[str], list[T]]:
    """Return a reader of comma-separated lists that skips empty parts.

    Args:
        kind: reads one part; raises ValueError or OptionError.
        example: the option with a value, for the tip of its OptionError.
    """

    def read(text: str) -> list[T]:
        try:
            return [kind(part.strip()) for part in text.split(",") if part.strip()]
        except ValueError as error:
            name = example.split(maxsplit=1)[0]
            raise OptionError(f"{name}: it is {error}", tip=example) from None

    return read
