"""What `alds inspect` and `alds compare` print with `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alds_cli.forms import Form, Real
from alds_cli.records import (
    Architecture,
    ArgumentValue,
    Comparison,
    Latency,
    Preprocessing,
    Training,
)
from alds_cli.schemas.evaluation_forms import QualityForm
from alds_cli.schemas.results import LayerForm, Printed


class InspectedLayerForm(LayerForm):
    """What became of a layer, and what it costs; times in milliseconds, with `--time`."""

    macs_before: int | None
    macs_after: int | None
    ms_before: Real | None
    ms_after: Real | None


class InspectForm(Printed):
    """Printed by `alds inspect`; what was before is the dense network that pairs stand for."""

    architecture: Architecture | None
    compressed: bool
    method: str | None
    arguments: Mapping[str, ArgumentValue]
    solver: str | None
    bound: str | None
    seed: int | None
    params: int
    params_before: int
    ratio: Real
    macs: int | None
    macs_before: int | None
    latency: Latency | None
    latency_before: Latency | None
    device: str | None
    bytes: int | None
    input_shape: Sequence[int] | None
    inputs: str | None
    preprocessing: Preprocessing | None
    source_hash: str | None
    training: Training | None
    layers: Sequence[InspectedLayerForm]


class StoredForm(Form):
    """An entry of a file; `dtype` is what PyTorch calls its type."""

    name: str
    shape: Sequence[int]
    dtype: str


class ContentsForm(Printed):
    """Printed by `alds inspect` of a file whose network is not recognised."""

    architecture: None = None
    reason: str
    bytes: int
    scalars: int
    tensors: Sequence[StoredForm]


class TimeRatioForm(Form):
    """A time as a multiple of another, with the ends of its interval of 95 % confidence."""

    median: Real
    low: Real
    high: Real


class _SizedForm(Form):
    name: str
    architecture: str | None
    method: str | None
    params: int
    macs: int | None
    bytes: int | None
    max_relative_error: Real | None


class ComparedForm(QualityForm, _SizedForm):  # in a document, the last base's fields come first
    """One of the models; `comparison` and `slowdown` are towards the first, which has none."""

    comparison: Comparison | None
    latency: Latency | None
    slowdown: TimeRatioForm | None


class CompareForm(Printed):
    """Printed by `alds compare`; without data there are no `images`, and no quality or times."""

    images: int | None
    device: str | None
    models: Sequence[ComparedForm]
