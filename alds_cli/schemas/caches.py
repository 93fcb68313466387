"""What is kept between runs: the heads of error tables, and measured times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, Len
from pydantic import BeforeValidator, Field, JsonValue, PlainSerializer

from alds_cli.records import (
    Choice,
    EpochRecord,
    Fingerprint,
    Preprocessing,
    RetrainSettings,
)
from alds_cli.scalars import (
    MOST_EPOCHS,
    Count,
    Digest,
    Name,
    Positive,
    SchemeNumber,
    Term,
    Time,
)
from alds_cli.schemas.form import Form


def _from_hex(value: Any) -> Any:
    try:
        return float.fromhex(value) if isinstance(value, str) and len(value) < 64 else value
    except OverflowError:
        return math.inf


HexFloat = Annotated[
    float,
    Ge(0),
    BeforeValidator(_from_hex, json_schema_input_type=str),
    PlainSerializer(float.hex),
]
"""A finite number to the bit, in hexadecimal as Python writes it."""


class SchemeForm(Form):
    """What is known of a layer's weight, folded by one scheme."""

    norm: HexFloat
    energy: HexFloat
    slack: HexFloat


class TableLayerForm(Form):
    """The layer that a table belongs to, and its schemes by their numbers."""

    shape: Annotated[tuple[Count, ...], Len(1, 16)]
    groups: Positive
    max_slices: Positive | None
    exponent: Annotated[int, Ge(-1100), Le(1100)]
    schemes: Mapping[Annotated[str, Field(pattern=r"^[0-4]$")], SchemeForm]


class TableForm(Form):
    """In the metadata of an error table; its numbers are the file's tensors."""

    version: Count
    weights_hash: Digest
    layers: Mapping[Name, TableLayerForm]
    sha256: Digest


Untimed = tuple[SchemeNumber, Positive, Positive]
Timed = tuple[SchemeNumber, Positive, Positive, Time, Time]


class TimesForm(Form):
    """One layer's time, and (scheme, k, j) of its pairs with median and bound where measured."""

    dense_ns: Time
    measured: Time
    pairs: Annotated[list[Untimed | Timed], Len(0, 1 << 14)]

    @classmethod
    def entry(cls, choice: Choice, own: tuple[float, float] | None) -> Untimed | Timed:
        """One of `pairs`."""
        head = (choice.scheme, choice.k, choice.j)
        return head if own is None else (*head, *own)


class LatencyForm(Form):
    """Times of layers by configuration, measured under the same conditions."""

    most_bytes: ClassVar[int] = 1 << 23

    conditions: Mapping[Term, JsonValue]
    layers: Mapping[Name, TimesForm]


class TrainingForm(Form):
    """All but the tensors: how the run was started, and a record of every epoch."""

    most_bytes: ClassVar[int] = 1 << 22

    format: Literal[2]
    settings: RetrainSettings
    preprocessing: Preprocessing
    images: Positive
    fingerprint: Fingerprint
    history: Annotated[tuple[EpochRecord, ...], Len(1, MOST_EPOCHS)]
