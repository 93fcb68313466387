"""The values of options that a recipe states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from alds_cli.errors import DataError
from alds_cli.options.declaring import Settled, parameters

if TYPE_CHECKING:
    from alds_cli.recipes import Purpose

_RECIPE = "recipe"

_FOR_TEXTS = "texts"


def with_recipe(
    options: type, given: dict[str, Any], rank: Callable[[str], int], purpose: Purpose
) -> dict[str, Any]:
    """Replace the values that nobody stated, or only where less counts, by those of the recipe.

    Args:
        options: the class of the command's options.
        given: the values by parameter, among them the recipe's name; without one, texts have a
            recipe of their own, and other data none.
        rank: how much counts what stated a value: 0 nothing, and the more the higher.
        purpose: what the recipe is read for.

    Raises:
        OptionError: there is no such recipe.
    """
    name = _named(given)
    if name is None:
        return given
    from alds_cli.recipes import read_recipe  # noqa: PLC0415 - it is slow to import

    least = max(1, rank(_RECIPE))  # what nobody stated counts less than any recipe

    def stated(parameter: str) -> bool:
        return rank(parameter) >= least

    recipe = read_recipe(name)
    lengths = [each.parameter for each in parameters(options) if each.name == "epochs"]
    length = next((given[each] for each in lengths if stated(each)), None)
    values = recipe.values(purpose, length)
    if purpose == "train" and not stated("arch"):
        values |= {"arch": recipe.network, "arch_args": recipe.arguments}
    found = {
        each.parameter: Settled(values[each.name])
        for each in parameters(options)
        if each.name in values and not stated(each.parameter)
    }
    return {**given, **found}


def _named(given: Mapping[str, Any]) -> str | None:
    """Return the recipe that is named, or the one for texts where there are some; or None."""
    named: str | None = given[_RECIPE]
    if named is None and given.get("data") is not None:
        from alds_cli.datasets import is_text  # noqa: PLC0415 - it imports torch

        with suppress(DataError):  # what cannot be read is told later
            return _FOR_TEXTS if is_text(given["data"]) else None
    return named
