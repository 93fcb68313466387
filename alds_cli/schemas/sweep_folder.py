"""The files in the folder of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from annotated_types import Len
from pydantic import Field, create_model

from alds_cli.forms import Digest, Form, Positive
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    Preprocessing,
    SweepBaseline,
    SweepRecord,
)

BY_RUN = ("epochs", "seed")
"""The settings that differ between the retrainings of a sweep."""


def _hyperparameters() -> dict[str, Any]:
    kinds = get_type_hints(RetrainSettings, include_extras=True)
    names = [setting.name for setting in fields(RetrainSettings)]
    return {name: kinds[name] for name in names if name not in BY_RUN}


HyperparametersForm = create_model(
    "HyperparametersForm",
    __base__=Form,
    __doc__="A retraining's settings, but for its epochs and its seed.",
    **_hyperparameters(),
)


class ImagesForm(Form):
    """What tells a set of images from others."""

    images: Positive
    sha256: Digest


class SettingsForm(Form):
    """What all runs of a sweep have in common; what none has needed so far is null."""

    weights: Digest | None = None
    data: ImagesForm | None = None
    train_data: ImagesForm | None = None
    preprocessing: Preprocessing | None = None
    target: Literal["params", "macs", "bytes", "latency"] = "params"
    samples: Positive | None = None
    retraining: HyperparametersForm | None = None  # type: ignore[valid-type]
    latency: bool = False
    teacher: Literal["labels", "original"] | None = None


class SweepForm(Form):
    """`sweep.json`: the network before, and what all runs have in common."""

    schema_: Literal[1] = Field(alias="schema")
    baseline: SweepBaseline
    settings: SettingsForm

    def known(self) -> Mapping[str, Any]:
        """Return the settings in the file, as JSON holds them."""
        return self.settings.model_dump(mode="json", exclude_unset=True)

    def content(self) -> dict[str, Any]:
        """Return the document with only the settings that were stated."""
        return {**super().content(), "settings": self.known()}


Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9+_=~-][A-Za-z0-9.+_=~-]{0,254}$")]
"""The name of a run's files."""


class AskedForm(Form):
    """`asked.json`: the runs that were asked for so far, finished or not."""

    schema_: Literal[1] = Field(alias="schema")
    runs: Annotated[list[Slug], Len(0, 1 << 17)]


class RecordForm(Form):
    """`records/RUN.json`: one finished run."""

    most_bytes: ClassVar[int] = 1 << 23  # lists of channels take a line for each

    schema_: Literal[1] = Field(alias="schema")
    record: SweepRecord
