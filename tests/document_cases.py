"""Documents to damage, and ways of damaging them, for the tests of several modules."""

from __future__ import annotations

import copy
import json
import math

import sweep_cases
from hypothesis import strategies as st

from alds_cli.checkpoint import Document
from alds_cli.checkpoint.writing import dump_document
from alds_cli.inputs import InputSpec
from alds_cli.records import (
    Architecture,
    Choice,
    EpochProgress,
    EpochRecord,
    Fingerprint,
    IterationStage,
    Kept,
    Plan,
    Preprocessing,
    RetrainSettings,
    Training,
)
from alds_cli.schemas.file_forms import PlanForm, TrainingForm
from alds_cli.schemas.iteration_forms import IterationForm, StageForm
from alds_cli.schemas.sweep_folder import RecordForm, SettingsForm, SweepForm

PLAN = Plan(
    {"features.0": None, "features.3": Choice(0, 2, 3), "head": Choice(4, 1, 2)},
    method="alds",
    solver="exact",
    bound="sum",
    seed=4,
    arguments={"k": 3, "cost": "macs", "share": 0.5, "all": True, "none": None},
    pruned={"features.0": Kept((0, 1, 2, 7), None), "features.3": Kept((), (1, 3))},
)

PREPROCESSING = Preprocessing((0.5, 0.25, 0.125), (0.25, 0.5, 1.0), resize=9, crop=8)

DOCUMENT = Document(
    Architecture("digits_cnn", {"num_classes": 3}),
    PLAN,
    inputs=InputSpec.of_sample((1, 8, 8)),
    preprocessing=PREPROCESSING,
    source_hash="0" * 64,
    params_before=5,
    training=Training(RetrainSettings(3), images=7, loss=0.5, accuracy=75.0),
)

FINGERPRINT = Fingerprint("0" * 64, "1" * 64)

HISTORY = (EpochRecord(1, 0.1, 2.5, 12.5, 0.25), EpochRecord(2, 0.01, 1.5, 50.0, 0.25))

CONTENTS = {
    "artefact": json.loads(dump_document(DOCUMENT)),
    "plan": PlanForm.of(PLAN).content(),
    "record": RecordForm(schema=1, record=sweep_cases.record()).content(),
    "baseline": SweepForm(
        schema=1, baseline=sweep_cases.baseline(), settings=SettingsForm(samples=3)
    ).content(),
    "asked": {"schema": 1, "runs": ["alds-0.5-e0-r0", "svd-1~3-e1-r0"]},
    "iteration": IterationForm(
        schema=1,
        weights="0" * 64,
        images=7,
        fingerprint=FINGERPRINT,
        preprocessing=PREPROCESSING,
        ratios=(0.5, 0.75),
        target="params",
        method="alds",
        arguments={"k": 3},
        solver=None,
        bound="density",
        samples=512,
        refit=False,
        tune_steps=0,
        rank_multiple=1,
        include=(),
        exclude=("head",),
        training=RetrainSettings(3),
        teacher=None,
        validation=FINGERPRINT,
    ).content(),
    "stage": StageForm(
        schema=1,
        stage=IterationStage(1, 0.5, "alds", "exact", "density", 9, 4, 90, None, 0.5, HISTORY, 2),
    ).content(),
    "training": TrainingForm(
        format=5,
        settings=RetrainSettings(3),
        preprocessing=PREPROCESSING,
        images=7,
        fingerprint=FINGERPRINT,
        history=HISTORY,
        scaler=None,
        validation=None,
        within=EpochProgress(2, 3.5, 1, 0.25),
    ).content(),
    "latencies": {
        "conditions": {"threads": 3, "environment": {"OMP_WAIT_POLICY": "PASSIVE"}},
        "layers": {
            "x": {"dense_ns": 12.5, "measured": 1.0, "pairs": [[0, 1, 8, 0.5, 0.75], [3, 4, 2]]}
        },
    },
}
"""The content of a sound document of each kind."""


def nested(depth, kind=list):
    """Nest lists or objects within each other."""
    found = kind()
    for _ in range(depth):
        found = [found] if kind is list else {"": found}
    return found


EXTREMES = (
    *(None, True, False, 0, -1, 1, 1.0, -0.0, 0.5, 1e308, -1e308, 5e-324, 2**31, 2**53 + 1, 2**64),
    *(-(2**70), 10**400, math.nan, math.inf, -math.inf, "", "x", "keep", "nan", "inf", "-inf"),
    *("1e999999999", "1/0", "0/0", "9" * 200 + "/1", "0-16777214", "0-999999999", "7-3", "1,1"),
    *("x" * 5000, "\x00", "\x1b]0;x\x07", "\u202e", "[/x]", "a\nb", "../../x", "/dev/zero"),
    *("os:system", "float[1,3", "float[999999999,999999999]", "{" * 200, "NaN", "٣"),
    *([], {}, [[]], [None] * 3, {"": {}}, {"k": 1}, {"schema": 1}, [1e999], nested(50)),
)
"""Values that are valid nowhere, or in few places."""

# Copies, because later changes may alter values that earlier ones inserted.
replacements = st.sampled_from(EXTREMES).map(copy.deepcopy) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def places(value, trail=()):
    """Yield the path of every value within a document, including that of the document itself."""
    yield trail
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*trail, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*trail, index))


@st.composite
def damaged(draw, kind):
    """Draw the content of a document after one to three changes."""
    content = copy.deepcopy(CONTENTS[kind])
    for _ in range(draw(st.integers(1, 3))):
        trail = draw(st.sampled_from(list(places(content))))
        if not trail:
            change = draw(st.sampled_from(["keep", "replace"]))
            content = content if change == "keep" else draw(replacements)
            continue
        holder = content
        for step in trail[:-1]:
            holder = holder[step]
        change = draw(st.sampled_from(["replace", "replace", "delete", "rename", "add"]))
        value = holder[trail[-1]]
        if change == "replace":
            holder[trail[-1]] = draw(replacements)
        elif change == "delete":
            del holder[trail[-1]]
        elif change == "rename" and isinstance(holder, dict):
            del holder[trail[-1]]
            holder[draw(st.text(max_size=8))] = value
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=8))] = draw(replacements)
        else:
            holder.insert(trail[-1], draw(replacements))
    return content


@st.composite
def damaged_texts(draw, kind):
    """Draw the text of a document with damaged content, or a damaged text."""
    text = json.dumps(draw(damaged(kind)))
    if draw(st.booleans()):
        return text
    text = json.dumps(CONTENTS[kind])
    start = draw(st.integers(0, len(text)))
    stop = draw(st.integers(start, min(len(text), start + 12)))
    filling = st.sampled_from(
        ["", "{", "}", "[" * 10_000, '"a":' * 50, "1" * 5000, "\\ud800", "NaN"]
    )
    return text[:start] + draw(filling | st.text(max_size=6)) + text[stop:]
