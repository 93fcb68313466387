"""Plans as files that people edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.files import replacing, require_regular
from alds_cli.errors import OutputError, PlanError
from alds_cli.records import Plan
from alds_cli.schemas import MalformedError, parsed
from alds_cli.schemas.file_forms import PlanForm


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan for people to read and edit, one layer a line.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        text = plan_text(plan)
    except MalformedError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plan_text(plan: Plan) -> str:
    """Return what a plan's file holds.

    Raises:
        MalformedError: a value exceeds its bounds, so that the file could not be read again.
    """
    form = PlanForm.of(plan)
    form.text()
    content = form.content()
    nested = {key: content.pop(key) for key in ("layers", "pruned") if key in content}
    head = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    parts = [f"  {json.dumps(key)}: {_by_line(entries)}" for key, entries in nested.items()]
    return "{\n" + ",\n".join([*head, *parts]) + "\n}\n"


def _by_line(entries: Mapping[str, Any]) -> str:
    """Write an object of layers, one a line."""
    if not entries:
        return "{}"
    lines = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items()]
    return "{\n" + ",\n".join(lines) + "\n  }"


def read_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        PlanError: the file cannot be read, or is not a plan.
    """
    require_regular(path, PlanError, most=PlanForm.most_bytes)
    try:
        return parsed(PlanForm, path.read_text(encoding="utf-8")).plan()
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is not a plan: it is not UTF-8 text") from error
    except MalformedError as error:
        raise PlanError(f"{path} is not a plan: {error}") from error
