"""The kinds of numbers and texts in documents, each within plausible bounds.

To a type checker they are plain `int`, `float` and `str`. The reader of a document checks every
value against its kind, and the published JSON Schemas state the same bounds.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Len
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from alds_cli.schemes import SCHEMES

MOST = 2**53
"""The largest whole number that every reader of JSON holds exactly."""

MOST_PIXELS = 8192
"""The longest side that images are resized or cropped to."""

MOST_EPOCHS = 1 << 14
"""The most epochs of a training, whose state keeps a record of each."""

LARGEST_RATE = 3e38
"""The largest learning rate and weight decay: 32-bit weights can be multiplied by it."""

MOST_CHANNELS = 1024
"""The most channels of an image."""

Count = Annotated[int, Ge(0), Le(MOST)]
Positive = Annotated[int, Ge(1), Le(MOST)]
Seed = Annotated[int, Ge(-(2**63)), Le(2**64 - 1)]
"""A seed that random generators take."""

Pixels = Annotated[int, Ge(1), Le(MOST_PIXELS)]
SchemeNumber = Annotated[int, Ge(0), Le(max(SCHEMES))]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Ge(0), Field(allow_inf_nan=False)]
Time = Annotated[float, Gt(0), Field(allow_inf_nan=False)]
Percent = Annotated[float, Ge(0), Le(100)]

Name = Annotated[str, Len(0, 4096)]
"""A name of a layer or another part of a network, and foreign text in general."""

Term = Annotated[str, Len(0, 256)]
"""A name of a method, a solver or a program, which are this package's own words."""

Digest = Annotated[str, Len(1, 256)]


class _NotFinite:
    """The form of NaN and infinities: names in files, null in what commands print."""

    @staticmethod
    def __get_pydantic_json_schema__(
        schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        del schema
        other = (
            {"type": "null"}
            if handler.mode == "serialization"
            else {"enum": ["nan", "inf", "-inf"]}
        )
        return {"anyOf": [{"type": "number"}, other]}


def _from_name(value: Any) -> Any:
    named = isinstance(value, str) and value in {"nan", "inf", "-inf"}
    return float(value) if named else value


def _to_name(value: float) -> float | str:
    return value if math.isfinite(value) else repr(float(value))


Real = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(_from_name),
    PlainSerializer(_to_name, when_used="json"),
    _NotFinite,
]
"""A measured value, which may be NaN or infinite."""


def _within_one(text: str) -> str:
    if text.rpartition("/")[2].strip("0") == "" or not 0 <= Fraction(text) < 1:
        raise ValueError(f"{text[:40]} is not a ratio from 0 to 1")
    return text


RatioText = Annotated[
    str,
    # The length is limited and there is no exponent, so that arithmetic cannot take long.
    Field(pattern=r"^([0-9]{1,9}\.[0-9]{1,200}|[0-9]{1,100}/[0-9]{1,100}|[0-9])$"),
    AfterValidator(_within_one),
]
"""An exact fraction of the whole: `0.25` or `1/3`."""

_MOST_ARGUMENT = 4096

ArgumentName = Annotated[str, Len(1, 256)]


def _plain_argument(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        found = read(value)
    except ValidationError as error:
        raise ValueError("should be text, a finite number, true, false or null") from error
    if isinstance(found, int) and abs(found) > MOST:
        raise ValueError(f"should be a whole number of at most {MOST}")
    if isinstance(found, str) and len(found) > _MOST_ARGUMENT:
        raise ValueError(f"should be text of at most {_MOST_ARGUMENT} characters")
    return found


PLAIN = WrapValidator(_plain_argument)
"""Makes a union of plain types a single kind with a single complaint."""
