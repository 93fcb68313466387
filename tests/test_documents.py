"""Damaged and hostile documents end in one clear line, whatever is damaged."""

from __future__ import annotations

import json
import math
import tracemalloc
from pprint import pformat

import document_cases
import pytest
import torch
from document_cases import (
    CONTENTS,
    DOCUMENT,
    FINGERPRINT,
    HISTORY,
    PLAN,
    PREPROCESSING,
    damaged_texts,
    nested,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alds_cli.checkpoint import read_plan, write_plan
from alds_cli.checkpoint.iteration_folder import IterationFolder
from alds_cli.checkpoint.latencies import latency_path, load_latencies
from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.checkpoint.writing import dump_document, parse_document
from alds_cli.errors import AldsError, OutputError
from alds_cli.records import (
    Choice,
    Kept,
    Plan,
    Preprocessing,
    RetrainSettings,
)
from alds_cli.retraining import TrainingState
from alds_cli.schemas import parsed
from alds_cli.schemas.file_forms import MOST_KEPT
from alds_cli.schemas.iteration_forms import IterationForm

fuzz = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def outcome(read):
    """What is read, or None where it is refused in one line that a terminal can take."""
    try:
        return read()
    except AldsError as refusal:
        error = refusal
    assert error.exit_code == 2
    assert error.message.isprintable(), error.message
    assert len(error.message) < 1500, error.message
    return None


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for files that are written again and again."""
    return tmp_path_factory.mktemp("documents")


@fuzz
@given(damaged_texts("artefact"))
def test_damaged_artefact_documents(text):
    found = outcome(lambda: parse_document(text, "model.pt"))
    if found is not None:
        assert parse_document(dump_document(found), "model.pt") == found


@fuzz
@given(damaged_texts("plan"))
def test_damaged_plans(place, text):
    path = place / "plan.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    found = outcome(lambda: read_plan(path))
    if found is not None:
        write_plan(found, path)
        assert read_plan(path) == found


@fuzz
@given(damaged_texts("record"))
def test_damaged_records(place, text):
    folder = RunFolder(place / "sweep")
    path = folder.path / "records" / "alds-0.5-e0-r0.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    found = outcome(folder.records)
    if found is not None:
        folder.write(found[0])
        assert pformat(folder.records()) == pformat(found)  # NaN differs from itself


@fuzz
@given(damaged_texts("baseline"))
def test_damaged_beginnings_of_sweeps(place, text):
    folder = RunFolder(place / "sweep")
    folder.path.mkdir(exist_ok=True)
    (folder.path / "sweep.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    found = outcome(lambda: (folder.baseline(), folder.settings()))
    if found is not None:
        folder.write_baseline(*found)
        assert pformat((folder.baseline(), folder.settings())) == pformat(found)


@fuzz
@given(damaged_texts("asked"))
def test_damaged_notes_of_what_was_asked_for(place, text):
    folder = RunFolder(place / "asked")
    folder.path.mkdir(exist_ok=True)
    (folder.path / "asked.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    found = outcome(folder.unfinished)
    if found is not None:
        folder.ask([RunKey("alds", "0.25", 0, 0)])
        assert folder.unfinished() >= found


@pytest.mark.slow
@fuzz
@given(damaged_texts("stage"))
def test_damaged_records_of_steps(place, text):
    folder = IterationFolder.beside(place / "small.pt")
    folder.make(1)
    path = folder.path / "1" / "stage.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    found = outcome(lambda: folder.stage(1))
    if found is not None:
        folder.write(found)
        assert folder.stage(1) == found


@pytest.mark.slow
@fuzz
@given(damaged_texts("iteration"))
def test_damaged_beginnings_of_iterations(place, text):
    """Whatever differs from what was asked is noticed, and nothing else goes wrong."""
    folder = IterationFolder.beside(place / "begun.pt")
    folder.path.mkdir(exist_ok=True)
    path = folder.path / "iterate.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    outcome(lambda: folder.require_same(ITERATION))
    folder.begin(ITERATION)
    folder.require_same(ITERATION)


ITERATION = parsed(IterationForm, json.dumps(CONTENTS["iteration"]))


@fuzz
@given(damaged_texts("latencies"))
def test_damaged_times_are_left_out(text):
    conditions = CONTENTS["latencies"]["conditions"]
    path = latency_path(conditions)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    for own in load_latencies(conditions, now=1.0).values():
        assert 0 < own.dense_ns < math.inf
        for choice, pair in own.pairs.items():
            assert choice.k >= 1
            assert pair is None or 0 < pair.median < math.inf


STATE = TrainingState(
    RetrainSettings(3), PREPROCESSING, 7, FINGERPRINT, HISTORY, {"w": torch.ones(2)}, {"state": {}}
)


@fuzz
@given(document_cases.damaged("training"))
def test_damaged_training_states(content):
    tensors = {"model": {}, "optimiser": {}, "random": [torch.zeros(3, dtype=torch.uint8)]}
    values = {**content, **tensors} if isinstance(content, dict) else content
    found = outcome(lambda: TrainingState.from_dict(values))
    if found is not None:
        assert TrainingState.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("name", ["\x1f", "\x1b[31mred", "two\nlines", "\u202ereversed"])
def test_the_name_of_an_augmentation_is_quoted_without_signs_that_do_things(name):
    content = STATE.to_dict()
    content["settings"] = {**content["settings"], "augmentation": name}
    with pytest.raises(AldsError, match="is none of auto") as caught:
        TrainingState.from_dict(content)
    assert caught.value.message.isprintable()


def test_sound_documents_are_read(place):
    assert parse_document(dump_document(DOCUMENT), "model.pt") == DOCUMENT
    write_plan(PLAN, place / "plan.json")
    assert read_plan(place / "plan.json") == PLAN
    assert TrainingState.from_dict(STATE.to_dict()) == STATE


def test_documents_of_earlier_versions_state_the_shape_of_a_sample():
    content = {**CONTENTS["artefact"], "input_shape": [1, 8, 8]}
    with pytest.raises(AldsError, match="inputs are stated twice"):
        parse_document(json.dumps(content), "model.pt")
    del content["inputs"]
    assert parse_document(json.dumps(content), "model.pt") == DOCUMENT
    for shape in (
        [],
        [0],
        [-1, 8],
        [1.5],
        ["8"],
        [True],
        [10**400],
        [1] * 12,
        "8",
        {},
        [2**20] * 2,
    ):
        with pytest.raises(AldsError, match="input"):
            parse_document(json.dumps({**content, "input_shape": shape}), "model.pt")
    del content["input_shape"]
    with pytest.raises(AldsError, match="inputs is missing"):
        parse_document(json.dumps(content), "model.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"layers": {}, "arguments": {"a": NaN}}', "arguments.a should be text, a finite number"),
        ('{"layers": {"a": {"k": 1, "j": Infinity}}}', "layers.a.j should be"),
        ('{"layers": {"a": {"k": 1, "j": 1, "k": 2}}}', "k occurs twice"),
        ('{"layers": {}, "layers": {}}', "layers occurs twice"),
        ('{"layers": {"a": {"k": 0, "j": 1}}}', "layers.a.k should be greater than or equal to 1"),
        ('{"layers": {"a": {"k": true, "j": 1}}}', "layers.a.k should be a valid integer"),
        ('{"layers": {"a": {"k": 1%s, "j": 1}}}' % ("0" * 400), "layers.a.k should be less"),
        ('{"layers": {"a": {"k": 1%s, "j": 1}}}' % ("0" * 9000), "not JSON"),
        ('{"layers": {"a": 3, "b": 4, "c": 5}}', "layers.a should be .* (and 2 more)"),
        ('{"layers": {"\\u001b[31m": 3}}', r"layers.\x1b[31m should be"),
        ('{"layers": {}, "colour": 1}', "colour is not a known field"),
        (json.dumps({"layers": nested(100)}), "layers should be an object"),
        (json.dumps({"layers": nested(500)}), "it is not JSON that can be read"),
        ("[" * 10**6, "not JSON"),
        ('{"layers": {}, "pruned": {"a": {"outputs": "3-1"}}}', "module a: outputs '3-1' is not"),
        ('{"layers": {}, "pruned": {"a": {"outputs": "1,1"}}}', "module a: outputs '1,1' is not"),
        (
            '{"layers": {}, "pruned": {"a": {"inputs": "x"}}}',
            "pruned.a.inputs does not have the expected form",
        ),
    ],
)
def test_what_is_wrong_is_named(text, message, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(AldsError) as caught:
        read_plan(path)
    first, _, last = message.partition(" .* ")
    assert f"{path} is not a plan: " in caught.value.message
    assert first in caught.value.message
    assert last in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "ranges",
    [
        ["0-16777214"] * 8,
        ["0-999999999"],
        [f"0-{MOST_KEPT}"],
        [f"0-{MOST_KEPT // 2}"] * 2,
        [",".join(f"{2 * n}-{2 * n}" for n in range(40_000)) + ",100000-99999999"],
    ],
)
def test_ranges_are_judged_before_they_are_written_out(ranges, tmp_path):
    path = tmp_path / "plan.json"
    pruned = {f"m{number}": {"outputs": own} for number, own in enumerate(ranges)}
    path.write_text(json.dumps({"layers": {}, "pruned": pruned}))
    tracemalloc.start()
    try:
        with pytest.raises(AldsError, match=r"module m.*more than 4,194,304 channels"):
            read_plan(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1 << 22, 1 << 26])
def test_files_too_large_for_a_document_are_not_read(size, tmp_path):
    for path in (tmp_path / "plan.json", tmp_path / "sweep.json"):
        with path.open("wb") as file:
            file.truncate(size + 1)
    tracemalloc.start()
    try:
        for read in (lambda: read_plan(tmp_path / "plan.json"), RunFolder(tmp_path).baseline):
            with pytest.raises(AldsError, match=f"{size + 1:,} bytes, more than the"):
                read()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "plan",
    [
        Plan({"a": Choice(0, 0, 1)}),
        Plan({"a": Choice(9, 1, 1)}),
        Plan({"a": Choice(0, 1, 2**60)}),
        Plan({}, seed=10**30),
        Plan({}, arguments={"a": math.nan}),
        Plan({}, arguments={"a": 10**30}),
        Plan({}, pruned={"a": Kept((3, 1))}),
        Plan({}, pruned={"a": Kept((-1, 1))}),
    ],
)
def test_what_could_not_be_read_is_not_written(plan, tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(OutputError, match="cannot write"):
        write_plan(plan, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (math.nan,), "std": (1.0,)},
        {"mean": (math.inf,), "std": (1.0,)},
        {"mean": (0.0,), "std": (math.nan,)},
        {"mean": (0.0,), "std": (math.inf,)},
        {"mean": (0.0,), "std": (0.0,)},
        {"mean": (0.0,), "std": (1.0, 1.0)},
        {"mean": (), "std": ()},
        {"mean": (0.0,), "std": (1.0,), "resize": 0},
        {"mean": (0.0,), "std": (1.0,), "crop": 10**20},
    ],
)
def test_preprocessing_that_no_image_could_pass_through(values):
    with pytest.raises(ValueError, match=r"mean|std|resize"):
        Preprocessing(**values)


@given(
    st.lists(st.integers(0, 500), unique=True).map(sorted).map(tuple),
    st.none() | st.lists(st.integers(0, 50), unique=True).map(sorted).map(tuple),
)
def test_kept_channels_survive_as_ranges(outputs, inputs):
    plan = Plan({}, pruned={"a": Kept(outputs, inputs), "b": Kept(None, outputs)})
    assert parse_document(dump_document(document_with(plan)), "x").plan == plan


def document_with(plan):
    return type(DOCUMENT)(DOCUMENT.architecture, plan)
