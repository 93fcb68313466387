"""Plans as files that people edit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.checkpoint import read_plan, write_plan
from alds_cli.errors import PlanError
from alds_cli.records import Choice, Plan

CHOICES = st.none() | st.builds(
    Choice, st.integers(0, 3), st.integers(1, 512), st.integers(1, 10_000)
)
PLANS = st.builds(
    Plan,
    st.dictionaries(st.text(max_size=20), CHOICES, max_size=5),
    method=st.text(min_size=1, max_size=8),
    solver=st.none() | st.text(max_size=8),
    bound=st.none() | st.text(max_size=8),
    seed=st.none() | st.integers(-(2**63), 2**64 - 1),
)


@settings(max_examples=60, deadline=None)
@given(PLANS)
def test_plans_survive_files(tmp_path_factory, plan):
    path = tmp_path_factory.getbasetemp() / "plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan
    assert list(read_plan(path).choices) == list(plan.choices)


def test_files_have_one_layer_a_line(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(Plan({"a.b": Choice(0, 2, 3), "c": None}), path)
    lines = path.read_text().splitlines()
    assert '    "a.b": {"scheme": 0, "k": 2, "j": 3},' in lines
    assert '    "c": "keep"' in lines


def test_what_may_be_left_out(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"layers": {"a": {"k": 1, "j": 2}, "b": null, "c": "keep"}}')
    assert read_plan(path) == Plan({"a": Choice(0, 1, 2), "b": None, "c": None})


@pytest.mark.parametrize(
    ("choice"),
    [
        3,
        "kept",
        "",
        True,
        [],
        [0, 1, 2],
        {},
        {"k": 1},
        {"j": 1},
        {"k": 1, "j": 1, "rank": 2},
        {"k": "1", "j": 1},
        {"k": 1, "j": 1.0},
        {"k": 1, "j": None},
        {"k": True, "j": 1},
        {"scheme": "encode", "k": 1, "j": 1},
        {"scheme": None, "k": 1, "j": 1},
    ],
)
def test_mistakes_in_a_choice_name_the_layer(choice, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"layers": {"fine": "keep", "features.3": choice}}))
    with pytest.raises(PlanError, match=r"plan\.json is not a plan: layers\.features\.3"):
        read_plan(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("layers: {}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "should be an object"),
        ("null", "should be an object"),
        ("{}", "layers is missing"),
        ('{"layers": []}', "layers should be"),
        ('{"schema": 2, "layers": {}}', "schema 2"),
        ('{"schema": "1", "layers": {}}', "schema '1'"),
        ('{"method": [1], "layers": {}}', "method"),
        ('{"seed": "x", "layers": {}}', "seed"),
        ('{"seed": true, "layers": {}}', "seed"),
        ('{"bound": {}, "layers": {}}', "bound"),
    ],
)
def test_files_that_are_no_plans(text, complaint, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=complaint) as caught:
        read_plan(path)
    assert str(path) in caught.value.message


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none.json", tmp_path / ("a" * 300)):
        with pytest.raises(PlanError):
            read_plan(path)
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="not UTF-8"):
        read_plan(path)
