"""The hyperparameters of published trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from alds_cli.options.training_options import RetrainSettings
    from alds_cli.recipes import Purpose


def recipe(name: str | Path, *, purpose: Purpose = "retrain", **changes: Any) -> RetrainSettings:
    """Return the hyperparameters that a recipe states.

    Args:
        name: the name of a recipe, such as `cifar10-resnet20`, or a file that ends with `.toml`.
        purpose: `retrain` for the last epochs of the training, `train` for all of it.
        changes: settings that differ from the recipe's, such as `epochs=9`.

    Raises:
        OptionError: there is no such recipe, it cannot be read, or the settings make no sense.
    """
    from alds_cli.recipes import read_recipe  # noqa: PLC0415 - most scripts take none

    return read_recipe(name).settings(purpose, **changes)
