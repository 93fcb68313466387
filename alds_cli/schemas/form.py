"""Reading and making documents by their forms; errors are described in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from reprlib import Repr
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

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
