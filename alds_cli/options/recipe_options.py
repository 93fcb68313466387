"""A training's recipe and hyperparameters."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

from alds_cli.options.declaring import TRAINING, Option
from alds_cli.options.training_options import RetrainSettings


@dataclass(frozen=True, slots=True)
class RecipeSettings(RetrainSettings):
    """Hyperparameters, and the recipe that states those which are not given.

    Attributes:
        recipe: the name of a recipe, or its file.
    """

    recipe: Annotated[
        str | None,
        Option(
            help="The hyperparameters of a published training, such as cifar10-resnet20, or a file "
            "that ends with .toml; other options change single ones. A retraining has the last "
            "learning rates of the training.",
            values="recipes",
            metavar="NAME",
            panel=TRAINING,
        ),
    ] = None


def settled(values: dict[str, Any], others: dict[str, Any]) -> RetrainSettings:
    """Make the hyperparameters of the values on a command line, into which the recipe's went."""
    del others
    return RetrainSettings(**{own.name: values[own.name] for own in fields(RetrainSettings)})
