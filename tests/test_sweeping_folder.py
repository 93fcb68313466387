"""A sweep's folder: what it keeps, what it refuses, who may work in it."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import sweep_cases
from hypothesis import given
from hypothesis import strategies as st

from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.errors import OutputError, RunFolderError
from alds_cli.records import (
    Choice,
    Evaluation,
    Kept,
    Latency,
    LayerReport,
    SweepRecord,
)
from alds_cli.schemas import parsed
from alds_cli.schemas.sweep_folder import RecordForm, SettingsForm, SweepForm

numbers = st.floats(allow_nan=False)
times = st.floats(0, 1e300)
shares = st.floats(0, 100)
positive = st.integers(1, 2**40)
names = st.text(min_size=1, max_size=20)
counts = st.integers(0, 2**40)
indices = st.none() | st.lists(counts, max_size=3).map(tuple)
layers = st.builds(
    LayerReport,
    name=names,
    shape=st.lists(counts, max_size=4).map(tuple),
    params_before=counts,
    params_after=counts,
    choice=st.none() | st.builds(Choice, st.integers(0, 4), positive, positive),
    error=st.none() | numbers,
    error_bound=st.none() | numbers,
    reason=st.none() | names,
    kept=st.none() | st.builds(Kept, indices, indices),
)
latencies = st.builds(Latency, times, times, times, positive, positive, names)
qualities = st.builds(Evaluation, shares, st.none() | shares, numbers, positive)
records = st.builds(
    SweepRecord,
    method=names,
    ratio=st.sampled_from(["0.5", "0.488", "1/3"]),
    repeat=st.integers(0, 9),
    seed=counts,
    retrain_epochs=st.integers(0, 9),
    reached=st.booleans(),
    reason=st.none() | names,
    params=st.none() | counts,
    macs=st.none() | counts,
    bytes=st.none() | counts,
    quality=st.none() | qualities,
    latency=st.none() | latencies,
    latency_before=st.none() | latencies,
    layers=st.lists(layers, max_size=3).map(tuple),
    seconds=st.dictionaries(names, times, max_size=3),
)


@pytest.fixture
def folder(tmp_path):
    """A sweep that was begun."""
    made = RunFolder(tmp_path / "run")
    made.write_baseline(sweep_cases.baseline(), {"target": "params"})
    return made


def key(method="alds", ratio="0.5", repeat=0, epochs=0):
    return RunKey(method, ratio, repeat, epochs)


def file_of(folder, own=None):
    (found,) = (folder.path / "records").glob(f"{(own or key()).slug}.json")
    return found


# ---------------------------------------------------------------- what is written is read


@given(records)
def test_a_record_becomes_json_and_back(record):
    text = RecordForm(schema=1, record=record).text()
    assert parsed(RecordForm, text).record == record


def test_what_is_no_number_survives(folder):
    base = sweep_cases.baseline(quality=Evaluation(10.0, None, float("nan"), 4))
    folder.write_baseline(base, {})
    loss = folder.baseline().quality.loss
    assert loss != loss  # noqa: PLR0124 - only NaN differs from itself
    record = sweep_cases.record(quality=Evaluation(10.0, None, float("inf"), 4))
    folder.write(record)
    assert folder.records() == [record]


def test_the_beginning_is_kept(folder):
    assert folder.exists()
    assert folder.baseline() == sweep_cases.baseline()
    assert folder.settings() == {"target": "params"}
    assert folder.records() == []


def test_records_come_in_order(folder):
    keys = [
        key("alds", "0.5", 0, 0),
        key("alds", "0.95602", 0, 0),
        key("alds", "0.2", 0, 1),
        key("svd", "1/3", 0, 0),
        key("svd", "0.5", 0, 0),
        key("svd", "0.5", 1, 0),
    ]
    for own in reversed(keys):
        folder.write(sweep_cases.record(own))
    assert [RunKey.of(record) for record in folder.records()] == keys
    assert all(folder.has(own) for own in keys)
    assert not folder.has(key("pca"))
    assert folder.record(keys[2]) == sweep_cases.record(keys[2])


@given(st.lists(st.tuples(names, st.integers(0, 2), st.integers(0, 2)), unique=True, max_size=8))
def test_every_run_has_a_file_name_of_its_own(runs):
    slugs = [RunKey(method, "1/3", repeat, epochs).slug for method, repeat, epochs in runs]
    assert len(set(slugs)) == len(runs)
    for slug in slugs:
        assert "/" not in slug
        assert not slug.startswith(".")
        assert len(slug) < 150
        assert slug.isascii()


def test_equal_runs_give_equal_bytes(folder, tmp_path):
    folder.write(sweep_cases.record())
    other = RunFolder(tmp_path / "other")
    other.write(sweep_cases.record())
    assert file_of(folder).read_bytes() == file_of(other).read_bytes()


# ---------------------------------------------------------------- what is damaged or strange


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is damaged"),
        ('{"schema": 1, "record": {', "is damaged"),
        ("[]", "it should be an object"),
        ('{"record": {}}', "schema is missing"),
        ('{"schema": 9, "record": {}}', "has schema 9; this version reads 1"),
        ('{"schema": 1}', "record is missing"),
        ('{"schema": 1, "record": {}}', "record.method is missing (and 5 more)"),
        ('{"schema": 1, "record": NaN}', "record should be an object, not nan"),
        ('{"schema": 1, "schema": 1}', "schema occurs twice"),
    ],
)
def test_a_damaged_record_is_named(folder, text, reason):
    folder.write(sweep_cases.record())
    path = file_of(folder)
    path.write_text(text)
    with pytest.raises(RunFolderError) as caught:
        folder.records()
    assert str(path) in caught.value.message
    assert reason in caught.value.message
    assert caught.value.tip


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("params", "many", "record.params should be a valid integer, not 'many'"),
        ("params", True, "record.params should be a valid integer, not True"),
        ("params", -1, "record.params should be greater than or equal to 0, not -1"),
        ("params", 2**64, "record.params should be less than"),
        ("reached", 1, "record.reached should be a valid boolean, not 1"),
        ("seconds", [], "record.seconds should be an object"),
        ("layers", {}, "record.layers should be a valid array"),
        ("quality", {"top1": "good"}, "record.quality.top1 should be a valid number"),
        ("colour", "red", "record.colour is not a known field"),
        ("ratio", "half", "record.ratio"),
        ("ratio", "1/0", "record.ratio: 1/0 is not a ratio"),
        ("ratio", "5/3", "record.ratio: 5/3 is not a ratio"),
        ("ratio", "1e999999999", "record.ratio"),
        ("ratio", "1e-999999999", "record.ratio"),
        ("ratio", "0." + "1" * 10**6, "record.ratio"),
        ("method", "svd", "it holds the run svd-0.5-e0-r0"),
    ],
)
def test_a_record_with_nonsense_is_named(folder, field, value, reason):
    folder.write(sweep_cases.record())
    path = file_of(folder)
    content = json.loads(path.read_text())
    content["record"][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(RunFolderError) as caught:
        folder.records()
    assert str(path) in caught.value.message
    assert reason in caught.value.message


def test_only_names_stand_for_what_is_no_number(folder):
    folder.write(sweep_cases.record(quality=Evaluation(10.0, None, math.nan, 4)))
    path = file_of(folder)
    path.write_text(path.read_text().replace('"nan"', "NaN"))
    with pytest.raises(RunFolderError, match="NaN is not a number there"):
        folder.records()


def test_a_damaged_beginning_is_named(folder):
    path = folder.path / "sweep.json"
    for content in ('{"schema": 1}', '{"schema": 1, "baseline": {"model": 3}}', "nothing"):
        path.write_text(content)
        for read in (folder.baseline, folder.settings):
            with pytest.raises(RunFolderError, match=r"sweep\.json is damaged"):
                read()


def test_a_folder_without_a_sweep_says_so(tmp_path):
    empty = RunFolder(tmp_path)
    assert not empty.exists()
    assert empty.records() == []
    with pytest.raises(RunFolderError, match="there is no sweep in"):
        empty.baseline()


def test_what_writers_left_behind_is_no_record(folder):
    folder.write(sweep_cases.record())
    half = folder.path / "records" / ".svd-0.5-e0-r0.json.abc.partial"
    half.write_text('{"schema"')
    (folder.path / "records" / ".hidden.json").write_text("")
    (folder.path / "records" / "notes.txt").write_text("mine")
    assert folder.records() == [sweep_cases.record()]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match=r"it holds thesis\.tex"):
        RunFolder(tmp_path).require_usable()
    (tmp_path / "thesis.tex").unlink()
    RunFolder(tmp_path).require_usable()
    (tmp_path / ".DS_Store").write_text("")
    RunFolder(tmp_path).require_usable()


def test_records_without_a_beginning_are_refused(folder):
    folder.write(sweep_cases.record())
    folder.require_usable()
    (folder.path / "sweep.json").unlink()
    with pytest.raises(RunFolderError, match=r"has records, but no sweep\.json"):
        folder.require_usable()


def test_places_where_no_folder_can_be_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match="cannot make the folder"):
            RunFolder(place).require_usable()
    with pytest.raises(OutputError, match="cannot make the folder"):
        RunFolder(tmp_path / ("x" * 300)).require_usable()
    RunFolder(tmp_path / "new" / "deep").require_usable()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_nobody_may_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="no permission"):
            RunFolder(tmp_path / "run").require_usable()
    finally:
        tmp_path.chmod(0o700)


def test_what_did_not_begin_leaves_nothing(tmp_path, folder):
    begun = RunFolder(tmp_path / "new")
    with begun.claim_start():
        assert begun.path.exists()
    begun.abandon()
    assert not begun.path.exists()
    folder.write(sweep_cases.record())
    folder.abandon()
    assert folder.records() == [sweep_cases.record()]


# ---------------------------------------------------------------- claims


def test_a_claim_excludes_others_until_it_is_given_back(folder):
    with folder.claim(key()) as mine:
        assert mine
        with folder.claim(key()) as again:
            assert not again
        with folder.claim(key(repeat=1)) as other:
            assert other
        with folder.claim(key()) as still:
            assert not still
    with folder.claim(key()) as anew:
        assert anew
    assert list((folder.path / "claims").iterdir()) == []


def test_a_claim_is_given_back_after_an_error(folder):
    with pytest.raises(ZeroDivisionError), folder.claim(key()):
        raise ZeroDivisionError
    with folder.claim(key()) as granted:
        assert granted


def test_a_file_that_a_killed_process_left_is_no_claim(folder):
    (folder.path / "claims").mkdir()
    (folder.path / "claims" / key().slug).write_text("")
    with folder.claim(key()) as granted:
        assert granted


_HOLDER = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_claim_of_a_process_ends_with_it(folder, end):
    (folder.path / "claims").mkdir()
    path = folder.path / "claims" / key().slug
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, path], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with folder.claim(key()) as granted:
            assert not granted
        holder.send_signal(end)
        holder.wait()
        with folder.claim(key()) as granted:
            assert granted


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_every_claim_is_granted_and_nothing_stays(
    folder, monkeypatch, caplog, number
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    for wait in (folder.claim(key()), folder.claim(key()), folder.claim_start()):
        with wait as granted:
            assert granted
    assert "has no locks" in caplog.text


def test_a_claim_that_cannot_be_locked_is_an_error(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OutputError, match="broken disk"), folder.claim(key()):
        pass


def test_the_baseline_is_a_dataclass_as_well():
    base = sweep_cases.baseline()
    form = SweepForm(schema=1, baseline=base, settings=SettingsForm())
    assert parsed(SweepForm, form.text()).baseline == base


def test_runs_that_were_asked_for_are_counted_until_they_are_finished(folder):
    assert folder.unfinished() == 0
    first, second = RunKey("alds", "0.2", 0, 0), RunKey("svd", "0.2", 0, 0)
    folder.ask([first])
    folder.ask([second, first])
    assert folder.unfinished() == 2
    folder.write(sweep_cases.record(first))
    assert folder.unfinished() == 1
    before = (folder.path / "asked.json").read_bytes()
    folder.ask([first])
    assert (folder.path / "asked.json").read_bytes() == before


@pytest.mark.parametrize("content", ['{"schema": 1}', '{"schema": 1, "runs": [1]}', "[]", "x"])
def test_a_damaged_note_of_what_was_asked_for_is_named(folder, content):
    (folder.path / "asked.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"asked\.json"):
        folder.unfinished()
