"""The kinds of numbers and texts in documents, each within bounds that can be meant.

To a type checker they are plain `int`, `float` and `str`. What reads a document holds every
value to its kind, and the published JSON Schemas say the same.
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
"""Of a training; its state keeps a record of each."""

LARGEST_RATE = 3e38
"""Of learning and of weight decay: what weights of 32 bits can be multiplied by."""

MOST_CHANNELS = 1024
"""Channels of an image."""

Count = Annotated[int, Ge(0), Le(MOST)]
Positive = Annotated[int, Ge(1), Le(MOST)]
Seed = Annotated[int, Ge(-(2**63)), Le(2**64 - 1)]
"""What random generators take."""

Pixels = Annotated[int, Ge(1), Le(MOST_PIXELS)]
SchemeNumber = Annotated[int, Ge(0), Le(max(SCHEMES))]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Ge(0), Field(allow_inf_nan=False)]
Time = Annotated[float, Gt(0), Field(allow_inf_nan=False)]
Percent = Annotated[float, Ge(0), Le(100)]

Name = Annotated[str, Len(0, 4096)]
"""Of a layer or another part of a network, and other people's text in general."""

Term = Annotated[str, Len(0, 256)]
"""Of a method, a solver, a program: words of our own."""

Digest = Annotated[str, Len(1, 256)]


class _NotFinite:
    """NaN and infinities are written by name in files, and as null in what commands print."""

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
    # Of limited length and without an exponent, so that no arithmetic with it can be long.
    Field(pattern=r"^([0-9]{1,9}\.[0-9]{1,200}|[0-9]{1,100}/[0-9]{1,100}|[0-9])$"),
    AfterValidator(_within_one),
]
"""A fraction of the whole, exactly: `0.25` or `1/3`."""

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
"""Makes a union of plain types one kind, whose complaint is one."""
