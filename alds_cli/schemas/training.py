"""The plain part of an interrupted training's state."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Len

from alds_cli.records import EpochRecord, Fingerprint, Preprocessing, RetrainSettings
from alds_cli.scalars import MOST_EPOCHS, Positive
from alds_cli.schemas.form import Form


class TrainingForm(Form):
    """All but the tensors: how the run was started, and a record of every epoch."""

    most_bytes: ClassVar[int] = 1 << 22

    format: Literal[2]
    settings: RetrainSettings
    preprocessing: Preprocessing
    images: Positive
    fingerprint: Fingerprint
    history: Annotated[tuple[EpochRecord, ...], Len(1, MOST_EPOCHS)]
