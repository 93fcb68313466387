"""The forms of documents: their common base, and the kinds of numbers and texts in them.

Every value is checked against its kind, the published JSON Schemas state the same bounds, and
what is wrong with a document is said in one line. To a type checker the kinds are plain `int`,
`float` and `str`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from reprlib import Repr
from typing import Annotated, Any, ClassVar, Final, TypeVar

from annotated_types import Ge, Gt, Le, Len
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from alds_cli.errors import AldsError

F = TypeVar("F", bound="Form")

SCHEMA: Final = 1
"""The version of the documents, raised when a field changes its meaning."""


_MOST_ENTRIES = 1 << 16
"""The most entries of an object: each wrong one is a complaint, which takes time and memory."""


class Form(BaseModel):
    """What all documents have in common: no unknown fields, no conversions, finite numbers."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_by_name=True,
        serialize_by_alias=True,
        json_schema_serialization_defaults_required=True,
        defer_build=True,  # no command needs all of the documents
    )

    most_bytes: ClassVar[int] = 1 << 22
    """The largest text of a document in bytes; those of real networks have a tenth of it."""

    def content(self) -> dict[str, Any]:
        """Return the document as JSON holds it."""
        return self.model_dump(mode="json", warnings=False)

    def text(self, **options: Any) -> str:
        """Return the document as JSON text that can be read; `options` are those of `json.dumps`.

        Raises:
            MalformedError: a value exceeds its bounds.
        """
        content = self.content()
        text = json.dumps(content, sort_keys=True, allow_nan=False, **options)
        _held(lambda: type(self).model_validate_json(text))
        return text


class MalformedError(ValueError):
    """A text is not a document of the expected form."""


class UnknownSchemaError(MalformedError):
    """A document was written by another version with a schema that this one does not know."""

    def __init__(self, found: object) -> None:
        super().__init__(f"it has schema {shortened(found)}; this version reads {SCHEMA}")


def parsed(kind: type[F], text: str | bytes) -> F:
    """Read a document.

    Raises:
        UnknownSchemaError: it states another schema.
        MalformedError: it is not JSON, or not of the form; the message names the first field
            that is wrong.
    """
    constants: list[str] = []
    content = _json(text, kind.most_bytes, constants)
    declared = kind.model_fields.get("schema_")
    if declared is not None and isinstance(content, dict):
        found = content.get("schema")
        if "schema" in content and (type(found) is not int or found != SCHEMA):
            raise UnknownSchemaError(found)
    form = _held(lambda: kind.model_validate_json(text))
    if constants:  # a field that may have such a value writes its name as text
        raise MalformedError(f"it is not JSON: {constants[0]} is not a number there")
    return form


def held(kind: type[F], **values: Any) -> F:
    """Make a document from the program's own values; records among them are used as they are.

    Raises:
        MalformedError: another value exceeds its bounds.
    """
    return _held(lambda: kind(**values))


def plain_text(value: object, most: int) -> str:
    """Return plain values from a file of another kind as JSON, to read it as a document.

    Raises:
        MalformedError: they hold other objects, or more than a document may.
    """
    _require_small(value, most)
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedError(f"it does not hold only plain values ({error})") from error


def _require_small(value: object, most: int) -> None:
    """Limit the size before writing, because a few bytes of pickle can stand for huge lists."""
    size = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, (list, tuple, dict)):
            size += 4 * len(item)
            if size <= most:
                waiting.extend(item)
                waiting.extend(item.values() if isinstance(item, dict) else ())
        if size > most:
            raise MalformedError(f"it has more than {most:,} characters")


def shortened(value: object) -> str:
    """Shorten a value from a file for a message."""
    written = Repr()
    written.maxstring = written.maxother = written.maxlong = 40
    written.maxlevel = 1
    return written.repr(value)


def _json(text: str | bytes, most: int, constants: list[str]) -> Any:
    if len(text) > most:
        raise MalformedError(f"it has {len(text):,} characters, more than the {most:,} allowed")
    try:
        return json.loads(text, parse_constant=constants.append, object_pairs_hook=_distinct)
    except MalformedError:
        raise
    except RecursionError as error:
        raise MalformedError("it is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise MalformedError(f"it is not JSON: {error}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MOST_ENTRIES:
        raise MalformedError(f"it has an object of more than {_MOST_ENTRIES:,} entries")
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MalformedError(f"{_printable(twice)} occurs twice")
    return found


def _held(make: Callable[[], F]) -> F:
    try:
        return make()
    except ValidationError as error:
        raise MalformedError(_told(error)) from error
    except AldsError as error:  # a record's own rules
        raise MalformedError(error.message) from error


def _told(error: ValidationError) -> str:
    """Describe the first error with its field, and count the others."""
    details = error.errors(include_url=False, include_context=False)
    # Pydantic also reports the objects around a wrong value, as though the value were missing.
    inner = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    innermost = [detail for detail in details if detail["loc"] not in inner] or details
    more = f" (and {len(innermost) - 1} more)" if len(innermost) > 1 else ""
    return _complaint(innermost[0]) + more


def _complaint(detail: ErrorDetails) -> str:
    where = _path(detail["loc"])
    kind, message = detail["type"], detail["msg"]
    if kind == "json_invalid":
        return f"it is not JSON that can be read: {message.removeprefix('Invalid JSON: ')}"
    if kind == "missing":
        return f"{where} is missing"
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"{where} is not a known field"
    if kind == "string_pattern_mismatch":
        return f"{where} does not have the expected form: {shortened(detail['input'])}"
    if kind == "value_error":
        said = message.removeprefix("Value error, ")
        if said.startswith("should be"):
            return f"{where} {said}, not {shortened(detail['input'])}"
        return f"{where}: {said}" if detail["loc"] else said
    if message.startswith("Input should"):
        return f"{where} {message.removeprefix('Input ')}, not {shortened(detail['input'])}"
    return f"{where}: {message[:1].lower()}{message[1:]}"


def _path(parts: Iterable[int | str]) -> str:
    joined = ".".join(_printable(str(part)) for part in parts) or "it"
    return joined if len(joined) <= 200 else f"{joined[:100]}…{joined[-99:]}"


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


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
