"""Recipes as TOML files: how a network is trained from scratch, and retrained after compression."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Len
from pydantic import Field, create_model

from alds_cli.errors import OptionError
from alds_cli.forms import Form, MalformedError, Positive, Term, parsed, plain_text
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import ArgumentValue

Purpose = Literal["train", "retrain"]

_FOLDER = Path(__file__).parent
_SUFFIX = ".toml"

_STRETCHED = ("warmup_epochs", "decay_every")
"""Lengths in epochs that shrink with a whole training."""

_MILESTONES = Annotated[tuple[Positive, ...], Len(0, 1000)]


def _entries() -> dict[str, Any]:
    """Return the settings as optional entries of a table, with milestones in epochs."""
    kinds = get_type_hints(RetrainSettings, include_extras=True)
    found = {entry.name: kinds[entry.name] for entry in fields(RetrainSettings)}
    del found["schedule_epochs"]
    found["milestones"] = _MILESTONES
    return {name: (kind | None, None) for name, kind in found.items()}


_ENTRIES = _entries()

TrainingTable = create_model(
    "TrainingTable",
    __base__=Form,
    __doc__="Settings of the whole training; milestones are epochs.",
    **{**_ENTRIES, "epochs": (Positive, ...)},
)

RetrainingTable = create_model(
    "RetrainingTable",
    __base__=Form,
    __doc__="What is different for a retraining; one that does not rewind begins at the start.",
    rewind=(bool, True),
    **{name: entry for name, entry in _ENTRIES.items() if name != "epochs"},
)


class RecipeForm(Form):
    """A recipe, with the network that it is for and where it is from."""

    most_bytes = 1 << 20

    source: Term | None = None
    network: Term | None = None
    network_arguments: Mapping[Term, ArgumentValue] = Field(default_factory=dict)
    training: TrainingTable  # type: ignore[valid-type]
    retraining: RetrainingTable = Field(default_factory=RetrainingTable)  # type: ignore[valid-type]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained and retrained.

    Attributes:
        name: its name or file, for messages.
        network: the name of an architecture; None if it is for any.
        arguments: those of the architecture.
        training: settings of the whole training, by name.
        retraining: those that are different for a retraining.
        rewind: whether a retraining has the last learning rates of the training.
    """

    name: str
    network: str | None
    arguments: Mapping[str, ArgumentValue]
    training: Mapping[str, Any]
    retraining: Mapping[str, Any]
    rewind: bool

    def values(self, purpose: Purpose, epochs: int | None = None) -> dict[str, Any]:
        """Return the settings that the recipe states, by name.

        Args:
            purpose: a retraining of r epochs has the rates of the training's last r, unless the
                recipe says otherwise; a training of fewer epochs is the whole one shortened.
            epochs: the length of the run; None is that of the whole training.
        """
        found = {**self.training, **(self.retraining if purpose == "retrain" else {})}
        whole = found["epochs"]
        length = whole if epochs is None else epochs
        if purpose == "train":
            stretched = {name: found[name] * length / whole for name in _STRETCHED if name in found}
            return {**found, **stretched, "epochs": length}
        return {**found, "epochs": length, **({"schedule_epochs": whole} if self.rewind else {})}

    def settings(self, purpose: Purpose, **changes: Any) -> RetrainSettings:
        """Return the settings of a run, with some changed.

        Raises:
            OptionError: together they make no sense, or there is no such setting.
        """
        known = {entry.name for entry in fields(RetrainSettings)}
        for name in changes:
            if name not in known:
                raise OptionError(
                    f"there is no setting '{name}'", tip=_meant(name, sorted(known), "settings")
                )
        values = {**self.values(purpose, changes.get("epochs")), **changes}
        try:
            return RetrainSettings(**values)
        except OptionError as error:
            raise OptionError(f"recipe {self.name}: {error.message}", tip=error.tip) from error


def known_recipes() -> list[str]:
    """Return the names of the recipes in the package, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}"))


def read_recipe(name: str | Path) -> Recipe:
    """Read a recipe of the package by its name, or one in a file, which ends with `.toml`.

    Raises:
        OptionError: there is none of that name, or the file cannot be read or is no recipe.
    """
    given = str(name)
    require_recipe(given)
    if given.endswith(_SUFFIX):
        return _read(Path(given).expanduser(), given)
    return _read(_FOLDER / f"{given}{_SUFFIX}", given)


def require_recipe(name: str) -> None:
    """Refuse a name that is none of a recipe in the package, nor that of a file.

    Raises:
        OptionError: it is such a name.
    """
    if not name.endswith(_SUFFIX) and name not in known_recipes():
        raise OptionError(
            f"there is no recipe '{name[:100]}'", tip=_meant(name, known_recipes(), "recipes")
        )


def _meant(name: str, known: list[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    more = ", or name a file that ends with .toml" if what == "recipes" else ""
    return f"{hint}the {what} are {', '.join(known)}{more}"


def _read(path: Path, name: str) -> Recipe:
    try:
        form = parsed(RecipeForm, plain_text(_tables(path), RecipeForm.most_bytes))
        recipe = _recipe(name, form)
        for purpose in ("train", "retrain"):
            recipe.settings(purpose)
    except MalformedError as error:
        raise OptionError(
            f"{name} is not a recipe: {error}", tip="docs/training.md shows what a recipe holds"
        ) from error
    return recipe


def _tables(path: Path) -> dict[str, Any]:
    """Read TOML, which other programs may have written.

    Raises:
        OptionError: there is no such file, or it cannot be read.
        MalformedError: it is not TOML.
    """
    if not path.is_file():
        raise OptionError(f"there is no file {path}", tip="check the path")
    try:
        with path.open("rb") as file:
            text = file.read(RecipeForm.most_bytes + 1)
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error}", tip="check its permissions") from error
    if len(text) > RecipeForm.most_bytes:
        raise MalformedError(f"it has more than {RecipeForm.most_bytes:,} bytes")
    try:
        return tomllib.loads(text.decode())
    except RecursionError as error:
        raise MalformedError("it is not TOML that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise MalformedError(f"it is not TOML: {error}") from error


def _recipe(name: str, form: RecipeForm) -> Recipe:
    training: dict[str, Any] = _stated(form.training)
    retraining = _stated(form.retraining)
    rewind = retraining.pop("rewind", True)
    for table in (training, retraining):
        if "milestones" in table:
            table["milestones"] = _fractions(table["milestones"], training["epochs"])
    return Recipe(name, form.network, form.network_arguments, training, retraining, rewind)


def _stated(table: Form) -> dict[str, Any]:
    stated = table.model_fields_set
    return {key: getattr(table, key) for key in type(table).model_fields if key in stated}


def _fractions(milestones: tuple[int, ...], epochs: int) -> tuple[float, ...]:
    ascending = sorted({0, *milestones, epochs}) == [0, *milestones, epochs]
    if not ascending:
        raise MalformedError(
            f"milestones {list(milestones)} are not ascending epochs between 0 and {epochs}"
        )
    return tuple(milestone / epochs for milestone in milestones)
