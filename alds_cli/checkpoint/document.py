"""The one JSON document in every artefact: what the network is and how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from alds_cli._version import __version__
from alds_cli.errors import CheckpointError, OptionError, OutputError
from alds_cli.inputs import InputSpec, parse_inputs
from alds_cli.records import Architecture, Plan, Preprocessing, Training
from alds_cli.schemas import MalformedError, UnknownSchemaError, held, parsed
from alds_cli.schemas.artefact import ArtefactForm
from alds_cli.schemas.form import SCHEMA
from alds_cli.schemas.plan import PlanForm

DOCUMENT_KEY = "alds"
"""The key of the document beside `state_dict`, and in a safetensors file's metadata."""


@dataclass(frozen=True, slots=True)
class Document:
    """Everything but the tensors that a network needs in order to run again.

    `plan` holds only the layers that are pairs. `source_hash` is the hash of the weights
    that were compressed, `params_before` their number of parameters. `training` describes
    a retraining. `shared` gives for names of tensors that have another name as well that
    other name, under which they are written. `versions` are those of the programs that wrote
    the file.
    """

    architecture: Architecture
    plan: Plan
    inputs: InputSpec | None = None
    preprocessing: Preprocessing | None = None
    source_hash: str | None = None
    params_before: int | None = None
    training: Training | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(
        default_factory=lambda: {"alds": __version__, "torch": torch.__version__}
    )


def dump_document(document: Document) -> str:
    """As JSON text: the same document gives the same bytes.

    Raises:
        OutputError: something in it is out of all bounds, and nobody could read it again.
    """
    try:
        return held(
            ArtefactForm,
            schema_=SCHEMA,
            architecture=document.architecture,
            plan=PlanForm.of(document.plan),
            inputs=None if document.inputs is None else str(document.inputs),
            preprocessing=document.preprocessing,
            source_hash=document.source_hash,
            params_before=document.params_before,
            training=document.training,
            shared=dict(document.shared),
            versions=dict(document.versions),
        ).text(separators=(",", ":"))
    except MalformedError as error:
        raise OutputError(f"the artefact's document cannot be written: {error}") from error


def parse_document(text: str, name: str) -> Document:
    """Read what `dump_document` wrote.

    Raises:
        CheckpointError: the text is damaged, or of a schema this version does not know.
    """
    try:
        return _document(parsed(ArtefactForm, text))
    except UnknownSchemaError as error:
        raise CheckpointError(
            f"{name} is an alds artefact, but {error}",
            tip="install the version of alds that wrote it, or a newer one",
        ) from error
    except (MalformedError, OptionError) as error:
        raise CheckpointError(f"{name}: the artefact's document is damaged: {error}") from error


def _document(form: ArtefactForm) -> Document:
    inputs = None if form.inputs is None else parse_inputs(form.inputs)
    if form.input_shape is not None:
        inputs = InputSpec.of_sample(form.input_shape)
    return Document(
        architecture=form.architecture,
        plan=form.plan.plan(),
        inputs=inputs,
        preprocessing=form.preprocessing,
        source_hash=form.source_hash,
        params_before=form.params_before,
        training=form.training,
        shared=form.shared,
        versions=form.versions,
    )
