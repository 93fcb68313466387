"""Errors as programs read them on standard output: one JSON object, or GitHub's annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from alds_cli.cli import app
from alds_cli.cli.json_text import json_text
from alds_cli.errors import GateError

Asked = Literal["json", "github"] | None
"""The form in which a command tells programs of an error; None where it does not."""


def asked_form(given: Mapping[str, Any]) -> Asked:
    """Return the form that options ask for, by their parameters' names."""
    if str(given.get("output")) == "-":  # who reads that expects an artefact
        return None
    if given.get("json"):
        return "json"
    return "github" if given.get("format") == "github" else None


def form_in(words: Sequence[str]) -> Asked:
    """Return the form that a command line asks for, whose options may make no sense otherwise."""
    github = ("--format", "github") in pairwise(words) or "--format=github" in words
    return asked_form({"json": "--json" in words, "format": "github" if github else None})


def error_text(error: Exception, form: Asked, *, alone: bool) -> str:
    """Return what standard output says of an error; nothing if it says so already.

    Args:
        error: what ended the command.
        form: the form that was asked for.
        alone: whether nothing has been written there yet.
    """
    if form == "github":
        return "" if isinstance(error, GateError) else _annotation(error)
    return _document(error) if form == "json" and alone else ""


def _annotation(error: Exception) -> str:
    from alds_cli.cli.gate_formats import github_annotation  # noqa: PLC0415 - it imports Rich

    message, tip, _ = app.explained(error)
    return github_annotation("error", "alds", message if tip is None else f"{message} (tip: {tip})")


def _document(error: Exception) -> str:
    from alds_cli.schemas.error_document import ErrorForm  # noqa: PLC0415 - it imports pydantic

    message, tip, code = app.explained(error)
    kind = "InternalError" if code == app.INTERNAL else type(error).__name__
    form = ErrorForm(error=kind, message=message, tip=tip, exit_code=code)
    return json_text(form)
