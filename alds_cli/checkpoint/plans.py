"""Plans as JSON: in artefacts, and as files that people edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.atomic import replacing
from alds_cli.errors import PlanError
from alds_cli.records import Choice, Plan

SCHEMA = 1

_KEPT = "keep"


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """As a JSON object: each layer's choice is `"keep"` or its scheme, k and j."""
    return {
        "schema": SCHEMA,
        "method": plan.method,
        "solver": plan.solver,
        "bound": plan.bound,
        "seed": plan.seed,
        "layers": {name: _choice_to_json(choice) for name, choice in plan.choices.items()},
    }


def plan_from_json(content: object) -> Plan:
    """Read what `plan_to_json` gave, perhaps edited; only `layers` must be there.

    Raises:
        PlanError: something in it is not of the form a plan has; it names the layer.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("layers"), Mapping):
        raise PlanError("a plan is a JSON object with an object 'layers' in it")
    if content.get("schema", SCHEMA) != SCHEMA:
        raise PlanError(f"the plan has schema {content['schema']}; this version reads {SCHEMA}")
    for key, kind in (("method", str), ("solver", str), ("bound", str), ("seed", int)):
        if content.get(key) is not None and type(content[key]) is not kind:
            raise PlanError(f"the plan's {key} is {content[key]!r}, which makes no sense")
    return Plan(
        {name: _choice_from_json(name, choice) for name, choice in content["layers"].items()},
        method=content.get("method") or "manual",
        solver=content.get("solver"),
        bound=content.get("bound"),
        seed=content.get("seed"),
    )


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan for people to read and edit, one layer a line.

    Raises:
        OutputError: the file cannot be written.
    """
    content = plan_to_json(plan)
    layers = content.pop("layers")
    lines = [f"    {json.dumps(name)}: {json.dumps(choice)}" for name, choice in layers.items()]
    head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in content.items())
    with replacing(path) as temporary:
        temporary.write_text(
            "{\n" + head + '  "layers": {\n' + ",\n".join(lines) + "\n  }\n}\n", encoding="utf-8"
        )


def read_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        PlanError: there is none, or it is not a plan.
    """
    try:
        return plan_from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not JSON: {error}") from error
    except PlanError as error:
        raise PlanError(f"{path}: {error.message}", tip=error.tip) from error


def _choice_to_json(choice: Choice | None) -> str | dict[str, int]:
    if choice is None:
        return _KEPT
    return {"scheme": choice.scheme, "k": choice.k, "j": choice.j}


def _choice_from_json(name: str, value: object) -> Choice | None:
    if value is None or value == _KEPT:
        return None
    if not isinstance(value, Mapping) or not {"k", "j"} <= set(value) <= {"scheme", "k", "j"}:
        raise PlanError(
            f"layer {name}: a choice is \"keep\" or an object like {{'scheme': 0, 'k': 1, 'j': 8}}"
        )
    numbers = (value.get("scheme", 0), value["k"], value["j"])
    if any(type(number) is not int for number in numbers):
        raise PlanError(f"layer {name}: scheme, k and j are whole numbers, not {numbers}")
    return Choice(*numbers)
