"""The documents that the commands print with `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from alds_cli.forms import SCHEMA, Form, Real
from alds_cli.records import (
    Architecture,
    ArgumentValue,
    Candidate,
    DropSearch,
    EpochRecord,
    IterationStage,
    Latency,
    Refit,
    SweepBaseline,
    SweepRun,
    Tuning,
)


class Printed(Form):
    """One object on standard output; a number that is NaN or infinite is null."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")


class ChannelsForm(Form):
    """How many channels filter pruning left; null is all."""

    outputs: int | None
    inputs: int | None


class LayerForm(Form):
    """What became of a layer; one that was kept has a reason, and no scheme, k and j.

    `error` and `error_bound` are relative to the layer's operator, the weight folded by scheme 0,
    whatever scheme the pair has.
    """

    name: str
    shape: Sequence[int]
    kept: bool
    scheme: int | None
    k: int | None
    j: int | None
    params_before: int
    params_after: int
    channels: ChannelsForm | None
    error: Real | None
    error_bound: Real | None
    reason: str | None


class CompressionForm(Form):
    """One compression; `limits` are absolute, latency in nanoseconds, `seconds` by stage.

    `objective` is what was planned by, each pair measured in the fold of its own scheme. The
    largest error and bound are those of the layers' operators, folded by scheme 0.
    """

    method: str
    arguments: Mapping[str, ArgumentValue]
    solver: str | None
    bound: str | None
    seed: int | None
    target: str
    ratio_asked: Real | None
    limits: Mapping[str, int]
    ratio: Real
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None
    bytes_before: int | None
    bytes_after: int | None
    max_relative_error: Real | None
    max_error_bound: Real | None
    latency_before: Latency | None
    latency_after: Latency | None
    latency_saved: Real | None
    verified: bool | None
    verified_difference: Real | None
    objective: Real | None
    objective_bound: Real | None
    drop: DropSearch | None
    tuning: Tuning | None
    refit: Refit | None
    compared: Sequence[Candidate]
    seconds: Mapping[str, Real]
    output: str | None
    layers: Sequence[LayerForm]


class CompressForm(CompressionForm, Printed):
    """Printed by `alds compress`."""


class FamilyForm(Printed):
    """Printed by `alds compress` with several ratios."""

    family: Sequence[CompressionForm]


class CurveForm(Form):
    """How many ranks are tabled for one scheme and one number of slices."""

    scheme: int
    k: int
    ranks: int


class ProfiledLayerForm(Form):
    """A layer's tables; one that must be kept has a reason instead."""

    name: str
    shape: Sequence[int]
    reason: str | None
    curves: Sequence[CurveForm]


class ProfileForm(Printed):
    """Printed by `alds profile`; `table` is the file that holds the error table."""

    architecture: Architecture | None
    weights_hash: str
    computed: bool
    table: str | None
    seconds: Mapping[str, Real]
    layers: Sequence[ProfiledLayerForm]


class OptimizeForm(Printed):
    """Printed by `alds optimize`: what was changed, as an artefact lists it, and the times.

    `saved` is the fraction of the time that is saved.
    """

    folded: Mapping[str, str]
    merged: Mapping[str, int]
    padded: Mapping[str, int]
    multiplied: Sequence[str]
    channels_last: bool
    packed: bool
    latency_before: Latency
    latency_after: Latency
    saved: Real
    difference: Real
    device: str
    bytes: int | None
    seconds: float
    output: str | None


class PortForm(Form):
    """An input or output of an exported file; an extent in words depends on the batch."""

    name: str
    dtype: str
    shape: Sequence[int | str]


class ExportForm(Printed):
    """Printed by `alds export`; `batch` is null if no input has a batch axis."""

    architecture: Architecture | None
    format: Literal["onnx", "pt2", "ts"]
    opset: int | None
    traced: bool | None
    params: int
    bytes: int
    batch: int | Literal["any"] | None
    checked: Sequence[int]
    difference: Real
    seconds: Real
    output: str
    inputs: Sequence[PortForm]
    outputs: Sequence[PortForm]


class RetrainForm(Printed):
    """Printed by `alds retrain` and `alds train`; `kept` is the epoch that was written."""

    epochs: int
    resumed_from: int
    kept: int
    history: Sequence[EpochRecord]
    bytes: int | None
    seconds: Real
    output: str | None
    classes: Literal["named", "file", "numbered"] | None
    classes_warning: str | None


class IterateForm(Printed):
    """Printed by `alds iterate`."""

    steps: int
    resumed_from: int
    params_before: int
    params: int
    bytes: int
    seconds: Real
    output: str
    stages: Sequence[IterationStage]


class SweepResultForm(Printed):
    """Printed by `alds sweep`."""

    folder: str
    runs: int
    made: int
    found: int
    unreachable: int
    baseline: SweepBaseline
    records: Sequence[SweepRun]


class CellForm(Form):
    """A cell of the tables over δ.

    `source` is `sweep`, or the paper's table, whose amounts of retraining are given as a part of
    its training schedule. Differences are in points, CR-P and CR-F in per cent.
    """

    source: str
    method: str
    delta: Real | None
    retrain_epochs: int | None
    retrain_part: Real | None
    reached: bool
    ratio: str | None
    repeats: int | None
    top1_difference: Real | None
    top5_difference: Real | None
    cr_p: Real | None
    cr_f: Real | None
    best_cr_p: bool
    best_cr_f: bool


class PointForm(Form):
    """A method, an amount of retraining and a ratio of the sweep.

    Means over the repeats that reached the ratio; the standard deviation is that of a sample,
    and `unreached` counts the repeats that did not. `latency_of_original` is a multiple of what
    the original took when both were timed in turns.
    """

    method: str
    retrain_epochs: int
    ratio: str
    repeats: int
    unreached: int
    cr_p: Real | None
    cr_f: Real | None
    top1_difference: Real | None
    top1_std: Real | None
    top1_least: Real | None
    top1_largest: Real | None
    top5_difference: Real | None
    latency_ms: Real | None
    latency_of_original: Real | None
    reason: str | None


class ReportForm(Printed):
    """Printed by `alds report`."""

    baseline: SweepBaseline
    methods: Sequence[str]
    retrain_epochs: Sequence[int]
    cells: Sequence[CellForm]
    points: Sequence[PointForm]
    paper: str | None
    notes: Sequence[str]
    files: Sequence[str]


class SettingForm(Form):
    """The default of an option of a command.

    `source` is `environment`, `file` or `built-in`; `name` is the variable, or the key with its
    tables. A value is as the command line takes it; null is none.
    """

    command: str
    option: str
    value: str | bool | int | Real | Sequence[str] | None
    source: Literal["environment", "file", "built-in"]
    name: str | None


class ConfigForm(Printed):
    """Printed by `alds config show`; `file` is the one that states defaults, if there is one."""

    file: str | None
    settings: Sequence[SettingForm]


class DemoNetworkForm(Form):
    """A network of the demo."""

    name: str
    params: int
    macs: int | None
    bytes: int | None
    top1: Real
    latency_ms: Real | None


class DemoForm(Printed):
    """Printed by `alds demo`."""

    folder: str
    networks: Sequence[DemoNetworkForm]
