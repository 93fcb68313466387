"""The files in the folder of an iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Len
from pydantic import Field

from alds_cli.forms import Count, Digest, Finite, Form, Name, Positive, Term
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import ArgumentValue, Fingerprint, IterationStage, Preprocessing


class IterationForm(Form):
    """`iterate.json`: what an iteration was begun with.

    `ratios` are what the steps remove of the `target` of the original, whose tensors have the hash
    `weights`. `teacher` is the hash of the network that the retraining learns from, `validation`
    the fingerprint of the images that judge.
    """

    schema_: Literal[1] = Field(alias="schema")
    weights: Digest
    images: Positive
    fingerprint: Fingerprint
    preprocessing: Preprocessing
    ratios: Annotated[tuple[Finite, ...], Len(1, 1000)]
    target: Literal["params", "macs", "bytes"]
    method: Name
    arguments: Mapping[Term, ArgumentValue]
    solver: Term | None
    bound: Term | None
    samples: Positive
    refit: bool
    tune_steps: Count
    rank_multiple: Positive
    include: Annotated[tuple[Name, ...], Len(0, 1 << 16)]
    exclude: Annotated[tuple[Name, ...], Len(0, 1 << 16)]
    training: RetrainSettings
    teacher: Digest | None
    validation: Fingerprint | None


class StageForm(Form):
    """`N/stage.json`: what a step did; without a history, its retraining is not finished."""

    schema_: Literal[1] = Field(alias="schema")
    stage: IterationStage
