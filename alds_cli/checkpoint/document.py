"""The one JSON document in every artefact: what the network is and how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from alds_cli._version import __version__
from alds_cli.checkpoint.plans import plan_from_json, plan_to_json
from alds_cli.errors import CheckpointError, OptionError, PlanError
from alds_cli.inputs import InputSpec, parse_inputs
from alds_cli.records import Architecture, Plan, Preprocessing

DOCUMENT_KEY = "alds"
"""The key of the document beside `state_dict`, and in a safetensors file's metadata."""

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Document:
    """Everything but the tensors that a network needs in order to run again.

    `plan` holds only the layers that are pairs. `source_hash` is the hash of the weights
    that were compressed, `params_before` their number of parameters. `training` describes
    a retraining. `versions` are those of the programs that wrote the file.
    """

    architecture: Architecture
    plan: Plan
    inputs: InputSpec | None = None
    preprocessing: Preprocessing | None = None
    source_hash: str | None = None
    params_before: int | None = None
    training: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(
        default_factory=lambda: {"alds": __version__, "torch": torch.__version__}
    )


def dump_document(document: Document) -> str:
    """As JSON text: the same document gives the same bytes."""
    content = {
        "schema": SCHEMA,
        "architecture": {
            "name": document.architecture.name,
            "arguments": dict(document.architecture.arguments),
        },
        "plan": plan_to_json(document.plan),
        "inputs": None if document.inputs is None else str(document.inputs),
        "preprocessing": document.preprocessing and asdict(document.preprocessing),
        "source_hash": document.source_hash,
        "params_before": document.params_before,
        "training": document.training,
        "versions": dict(document.versions),
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_document(text: str, name: str) -> Document:
    """Read what `dump_document` wrote.

    Raises:
        CheckpointError: the text is damaged, or of a schema this version does not know.
    """
    try:
        content = json.loads(text)
        schema = content["schema"]
        if schema != SCHEMA:
            raise CheckpointError(
                f"{name} is an alds artefact of schema {schema}; this version reads {SCHEMA}",
                tip="install the version of alds that wrote it, or a newer one",
            )
        return _document(content)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OptionError,
        PlanError,
    ) as error:
        raise CheckpointError(f"{name}: the artefact's document is damaged ({error})") from error


def _document(content: Mapping[str, Any]) -> Document:
    architecture = content["architecture"]
    inputs = content["inputs"]
    if not isinstance(architecture["name"], str) or not isinstance(architecture["arguments"], dict):
        raise TypeError("an architecture is a name and an object of arguments")
    return Document(
        architecture=Architecture(architecture["name"], architecture["arguments"]),
        plan=plan_from_json(content["plan"]),
        inputs=None if inputs is None else parse_inputs(inputs),
        preprocessing=_preprocessing(content["preprocessing"]),
        source_hash=content["source_hash"],
        params_before=content["params_before"],
        training=content["training"],
        versions=content["versions"],
    )


def _preprocessing(content: Mapping[str, Any] | None) -> Preprocessing | None:
    if content is None:
        return None
    return Preprocessing(
        mean=tuple(content["mean"]),
        std=tuple(content["std"]),
        resize=content["resize"],
        crop=content["crop"],
    )
