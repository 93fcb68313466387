"""The document in every artefact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from annotated_types import Len
from pydantic import Field, model_validator

from alds_cli.records import Architecture, Preprocessing, Training
from alds_cli.scalars import Digest, Positive, Term
from alds_cli.schemas.form import Form
from alds_cli.schemas.plan import PlanForm

Extents = Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 28)], ...], Len(1, 11)]

InputText = Annotated[str, Field(max_length=4096, pattern=r"^[A-Za-z0-9_\[\]{}():,< ]*$")]


class ArtefactForm(Form):
    """Everything but the tensors that a network needs in order to run again.

    `shared` gives for a tensor's further names the one it is written under. `inputs` is an
    input specification as `--input-spec` takes it; files of earlier versions
    have the shape of one sample instead.
    """

    schema_: Literal[1] = Field(alias="schema")
    architecture: Architecture
    plan: PlanForm
    inputs: (
        Annotated[str, Field(max_length=4096, pattern=r"^[A-Za-z0-9_\[\]{}():,< ]*$")] | None
    ) = None
    input_shape: Extents | None = None
    preprocessing: Preprocessing | None
    source_hash: Digest | None
    params_before: Positive | None
    training: Training | None
    shared: Mapping[Term, Term] = Field(default_factory=dict)
    versions: Mapping[Term, Term]

    @model_validator(mode="after")
    def _one_statement_of_inputs(self) -> Self:
        stated = {"inputs", "input_shape"} & self.model_fields_set
        if len(stated) != 1:
            raise ValueError("inputs are stated twice" if stated else "inputs is missing")
        return self

    def content(self) -> dict[str, Any]:
        """As it is written today."""
        # Most networks share nothing, and their documents do not speak of it.
        absent = set() if self.shared else {"shared"}
        found = self.model_dump(
            mode="json", exclude={"plan", "input_shape", *absent}, warnings=False
        )
        return {**found, "plan": self.plan.content()}
