"""The documents in files: artefacts, plans, tables, times and trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le, Len
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    model_validator,
)

from alds_cli.forms import (
    MOST_EPOCHS,
    SCHEMA,
    ArgumentName,
    Count,
    Digest,
    Finite,
    Form,
    Name,
    Positive,
    Seed,
    Term,
    Time,
    held,
    shortened,
)
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    Architecture,
    ArgumentValue,
    Choice,
    EpochProgress,
    EpochRecord,
    Fingerprint,
    Inference,
    Kept,
    Plan,
    Preprocessing,
    Program,
    SchemeNumber,
    Training,
)

Extents = Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 28)], ...], Len(1, 11)]

InputText = Annotated[str, Field(max_length=4096, pattern=r"^[A-Za-z0-9_\[\]{}():,< ]*$")]


class ArtefactForm(Form):
    """Everything but the tensors that a network needs in order to run again.

    `shared` gives for a tensor's further names the one it is written under. `inputs` is an
    input specification as `--input-spec` takes it; files of earlier versions
    have the shape of one sample instead. `inference` lists what makes the network faster.
    `program` is the network's graph, where that is what builds it.
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
    inference: Inference | None = None
    program: Program | None = None
    shared: Mapping[Term, Term] = Field(default_factory=dict)
    versions: Mapping[Term, Term]

    @model_validator(mode="after")
    def _one_statement_of_inputs(self) -> Self:
        stated = {"inputs", "input_shape"} & self.model_fields_set
        if len(stated) != 1:
            raise ValueError("inputs are stated twice" if stated else "inputs is missing")
        return self

    def content(self) -> dict[str, Any]:
        """Return the document as it is written today."""
        # Most networks share nothing, are not optimised and are built by their names; their
        # documents leave these out.
        absent = {name for name in ("shared", "inference", "program") if not getattr(self, name)}
        found = self.model_dump(
            mode="json", exclude={"plan", "input_shape", *absent}, warnings=False
        )
        return {**found, "plan": self.plan.content()}


_KEEP = "keep"

MOST_KEPT = 1 << 22
"""The most channels that a plan may list, over all modules: more than networks have."""


class PairForm(Form):
    """A layer becomes a pair: folding `scheme`, `k` slices, rank `j` in each."""

    scheme: SchemeNumber = 0
    k: Positive
    j: Positive


def _choice(value: Any) -> Any:
    if value is None or value == _KEEP:
        return None
    if isinstance(value, (dict, PairForm)):
        return value
    raise ValueError(f'should be "{_KEEP}" or an object like {{"scheme": 0, "k": 1, "j": 8}}')


ChoiceForm = Annotated[
    PairForm | None,
    BeforeValidator(_choice, json_schema_input_type=Literal["keep"] | PairForm | None),
    PlainSerializer(lambda pair: _KEEP if pair is None else pair.content(), return_type=Any),
]
"""`"keep"`, or the pair that replaces the layer."""

_RANGE = "[0-9]{1,9}(-[0-9]{1,9})?"

Ranges = Annotated[str, Field(max_length=1 << 20, pattern=f"^({_RANGE}(,{_RANGE})*)?$")]
"""Ascending indices as `0-3,7`."""


class KeptForm(Form):
    """The channels of a module that are left; what is whole is left out."""

    outputs: Ranges | None = None
    inputs: Ranges | None = None

    def content(self) -> dict[str, Any]:
        """Return the document without sides that are whole."""
        return self.model_dump(mode="json", exclude_none=True)


def _bounded(pruned: Mapping[str, KeptForm]) -> Mapping[str, KeptForm]:
    """Make sure that all ranges ascend, and that there is memory for the indices."""
    total = 0
    for name, kept in pruned.items():
        for side, ranges in (("outputs", kept.outputs), ("inputs", kept.inputs)):
            before = -1
            for first, last in _ends(ranges or ""):
                if not before < first <= last:
                    raise ValueError(
                        f"module {name}: {side} {shortened(ranges)} is not ascending ranges "
                        "like '0-3,7'"
                    )
                before = last
                total += last - first + 1
            if total > MOST_KEPT:
                raise ValueError(
                    f"module {name}: with its {side} {shortened(ranges)} the plan lists more than "
                    f"{MOST_KEPT:,} channels"
                )
    return pruned


class PlanForm(Form):
    """One choice per layer, and how the plan came about; only `layers` must be there.

    `pruned` tells what filter pruning leaves of modules.
    """

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    method: Term | None = None
    solver: Term | None = None
    bound: Term | None = None
    seed: Seed | None = None
    arguments: Mapping[ArgumentName, ArgumentValue] | None = None
    layers: Mapping[Name, ChoiceForm]
    pruned: Annotated[Mapping[Name, KeptForm], AfterValidator(_bounded)] | None = None

    @classmethod
    def of(cls, plan: Plan) -> PlanForm:
        """Make the document of a plan.

        Raises:
            MalformedError: a value in it exceeds its bounds.
        """
        return held(
            cls,
            method=plan.method,
            solver=plan.solver,
            bound=plan.bound,
            seed=plan.seed,
            arguments=dict(plan.arguments) or None,
            layers={name: _pair(choice) for name, choice in plan.choices.items()},
            pruned={name: _kept(kept) for name, kept in plan.pruned.items()} or None,
        )

    def plan(self) -> Plan:
        """Return the plan that the document describes."""
        return Plan(
            {
                name: None if pair is None else Choice(pair.scheme, pair.k, pair.j)
                for name, pair in self.layers.items()
            },
            method=self.method or "manual",
            solver=self.solver,
            bound=self.bound,
            seed=self.seed,
            pruned={
                name: Kept(_indices(kept.outputs), _indices(kept.inputs))
                for name, kept in (self.pruned or {}).items()
            },
            arguments=dict(self.arguments or {}),
        )

    def content(self) -> dict[str, Any]:
        """Return the document without arguments and pruned modules if there are none."""
        found = self.model_dump(mode="json", exclude={"pruned"}, warnings=False)
        if self.pruned is not None:
            found["pruned"] = {name: kept.content() for name, kept in self.pruned.items()}
        if self.arguments is None:
            del found["arguments"]
        return found


def _pair(choice: Choice | None) -> PairForm | None:
    return None if choice is None else held(PairForm, scheme=choice.scheme, k=choice.k, j=choice.j)


def _kept(kept: Kept) -> KeptForm:
    return held(KeptForm, outputs=_ranges(kept.outputs), inputs=_ranges(kept.inputs))


def _ranges(indices: tuple[int, ...] | None) -> str | None:
    """Write ascending indices as `0-3,7`."""
    if indices is None:
        return None
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1][1:] = [index]
        else:
            parts.append([index])
    return ",".join("-".join(str(end) for end in part) for part in parts)


def _indices(ranges: str | None) -> tuple[int, ...] | None:
    if ranges is None:
        return None
    return tuple(index for first, last in _ends(ranges) for index in range(first, last + 1))


def _ends(ranges: str) -> list[tuple[int, int]]:
    """Return the first and the last index of every range."""
    parts = [part.partition("-") for part in ranges.split(",")] if ranges else []
    return [(int(first), int(last or first)) for first, _, last in parts]


def _from_hex(value: Any) -> Any:
    try:
        return float.fromhex(value) if isinstance(value, str) and len(value) < 64 else value
    except OverflowError:
        return math.inf


HexFloat = Annotated[
    float,
    Ge(0),
    BeforeValidator(_from_hex, json_schema_input_type=str),
    PlainSerializer(float.hex),
]
"""A finite number, exact to the bit, in Python's hexadecimal notation."""


class SchemeForm(Form):
    """What is known of a layer's weight, folded by one scheme."""

    norm: HexFloat
    energy: HexFloat
    slack: HexFloat


class TableLayerForm(Form):
    """The layer that a table belongs to, and its schemes by their numbers."""

    shape: Annotated[tuple[Count, ...], Len(1, 16)]
    groups: Positive
    max_slices: Positive | None
    exponent: Annotated[int, Ge(-1100), Le(1100)]
    schemes: Mapping[Annotated[str, Field(pattern=r"^[0-4]$")], SchemeForm]


class TableForm(Form):
    """In the metadata of an error table; its numbers are the file's tensors."""

    version: Count
    weights_hash: Digest
    layers: Mapping[Name, TableLayerForm]
    sha256: Digest


class MomentsForm(Form):
    """In the metadata of a file of a layer's moments; its numbers are the file's tensors."""

    version: Count
    key: Digest
    layer: Name
    count: Count
    flat: bool
    sha256: Digest


Untimed = tuple[SchemeNumber, Positive, Positive]

Timed = tuple[SchemeNumber, Positive, Positive, Time, Time]


class TimesForm(Form):
    """One layer's time, and (scheme, k, j) of its pairs with median and bound where measured."""

    dense_ns: Time
    measured: Time
    pairs: Annotated[list[Untimed | Timed], Len(0, 1 << 14)]

    @classmethod
    def entry(cls, choice: Choice, time: tuple[float, float] | None) -> Untimed | Timed:
        """Return an entry of `pairs`; a time is its median and bound, None if not measured."""
        head = (choice.scheme, choice.k, choice.j)
        return head if time is None else (*head, *time)


class LatencyForm(Form):
    """Times of layers by configuration, measured under the same conditions."""

    most_bytes: ClassVar[int] = 1 << 23

    conditions: Mapping[Term, JsonValue]
    layers: Mapping[Name, TimesForm]


class TrainingForm(Form):
    """All but the tensors: how the run was started, and a record of every epoch."""

    most_bytes: ClassVar[int] = 1 << 22

    format: Literal[5]
    settings: RetrainSettings
    preprocessing: Preprocessing | None
    images: Positive
    fingerprint: Fingerprint
    history: Annotated[tuple[EpochRecord, ...], Len(0, MOST_EPOCHS)]
    scaler: Mapping[Term, Finite] | None
    validation: Fingerprint | None
    within: EpochProgress
