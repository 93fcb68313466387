"""The document that a command prints with `--json` where an error ends it."""

from __future__ import annotations

from pydantic import Field

from alds_cli.schemas.results import Printed


class ErrorForm(Printed):
    """An error instead of a result.

    `error` is the name of its class in `alds_cli.errors`, `OSError` or another error of Python's
    for what the system refused, and `InternalError` for an error of the tool's own.
    """

    error: str
    message: str
    tip: str | None
    exit_code: int = Field(ge=1)
