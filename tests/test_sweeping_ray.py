"""Sweeps whose runs are made by the workers of a local Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sweep_cases
import sweep_processes
from sweep_cases import record, without_times

from alds_cli import api
from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.errors import EngineError, MissingExtraError, RunFolderError
from alds_cli.sweeping import Watcher, ray_engine

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'alds-cli[ray]'")

pytestmark = pytest.mark.slow

ALDS = Path(sys.executable).with_name("alds")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray of two workers on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_engine._QUIET.items():
            patch.setenv(name, value)
        patch.setenv("ALDS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def folder(tmp_path):
    """A sweep that was begun."""
    made = RunFolder(tmp_path / "run")
    made.write_baseline(sweep_cases.baseline(), {})
    return made


@pytest.fixture
def engine(cluster):  # noqa: ARG001 - it is connected to
    with ray_engine.connected("local", cpus=1, gpus=0) as found:
        yield found
    assert ray.is_initialized()  # who began it ends it


KEYS = [RunKey("alds", f"0.{n}", 0, 0) for n in range(1, 6)]


class Told(Watcher):
    def __init__(self):
        self.calls = []

    def started(self, key):
        self.calls.append(("started", key))

    def finished(self, record):
        self.calls.append(("finished", RunKey.of(record)))

    def found(self, record):
        self.calls.append(("found", RunKey.of(record)))


# ---------------------------------------------------------------- the same as one process


def reported(folder):
    output = folder / "report"
    api.report(folder, output=output, plots=False)
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.mark.usefixtures("cluster")
def test_two_workers_give_the_report_of_one_process(tmp_path):
    sweep_processes.prepare(tmp_path)
    more = {"keep_artefacts": True, "teacher": "original", "retrain_epochs": (1,)}
    arguments = {**sweep_processes.arguments(tmp_path), **more}
    plain = api.sweep(tmp_path / "model.pt", output=tmp_path / "plain", **arguments)
    told = Told()
    shared = api.sweep(
        tmp_path / "model.pt", output=tmp_path / "ray", engine="ray", watcher=told, **arguments
    )
    assert plain.made == shared.made == len(plain.records)
    assert {key for name, key in told.calls if name == "finished"} == {
        RunKey.of(record) for record in plain.records
    }
    assert without_times(tmp_path / "ray") == without_times(tmp_path / "plain")
    assert reported(tmp_path / "ray") == reported(tmp_path / "plain")
    folders = [RunFolder(tmp_path / name) for name in ("plain", "ray")]
    assert folders[0].settings() == folders[1].settings()
    assert folders[0].baseline() == folders[1].baseline()
    kept = [{p.name: p.read_bytes() for p in (f.path / "artefacts").iterdir()} for f in folders]
    assert kept[0] == kept[1]
    assert list((tmp_path / "ray" / "claims").iterdir()) == []


def test_runs_are_side_by_side_and_begin_before_they_end(engine, folder, tmp_path):
    """Each of two runs waits until the other has begun."""
    signs = tmp_path / "signs"
    signs.mkdir()

    def make(key):
        import time  # noqa: PLC0415

        (signs / key.ratio).touch()
        while len(list(signs.iterdir())) < 2:
            time.sleep(0.01)
        return record(key)

    told = Told()
    assert engine.work_off(folder, KEYS[:2], make, told) == 2
    for key in KEYS[:2]:
        assert told.calls.index(("started", key)) < told.calls.index(("finished", key))


@pytest.mark.usefixtures("cluster")
def test_threads_and_processors_are_those_asked_for(folder):
    def make(key):
        import torch  # noqa: PLC0415

        return record(key, params=torch.get_num_threads())

    with ray_engine.connected(None, cpus=2, gpus=0) as engine:
        engine.work_off(folder, KEYS[:1], make, Watcher())
    assert folder.record(KEYS[0]).params == 2


# ---------------------------------------------------------------- workers that die


def test_a_killed_worker_loses_no_run(engine, folder, tmp_path):
    """Every run's first worker is killed, one after and others before the record is written."""

    def make(key):
        import os  # noqa: PLC0415
        import signal  # noqa: PLC0415

        sign = tmp_path / f"{key.slug}.died"
        if not sign.exists():
            sign.touch()
            if key.ratio == "0.2":
                folder.write(record(key))
            os.kill(os.getpid(), signal.SIGKILL)
        return record(key)

    told = Told()
    made = engine.work_off(folder, KEYS[:3], make, told)
    assert made == 2  # the other was found as it had been left
    assert [RunKey.of(each) for each in folder.records()] == KEYS[:3]
    ended = [key for name, key in told.calls if name in {"finished", "found"}]
    assert sorted(ended) == KEYS[:3]


def test_a_run_that_kills_all_its_workers_is_named_and_the_others_are_made(
    engine, folder, monkeypatch
):
    monkeypatch.setattr(ray_engine, "_RETRIES", 1)
    bad = KEYS[1]

    def make(key):
        import os  # noqa: PLC0415
        import signal  # noqa: PLC0415

        if key == bad:
            os.kill(os.getpid(), signal.SIGKILL)
        return record(key)

    with pytest.raises(EngineError, match=rf"1 runs died 2 times.*{re.escape(bad.slug)}") as told:
        engine.work_off(folder, KEYS, make, Watcher())
    assert "the same command goes on" in told.value.tip
    assert {RunKey.of(each) for each in folder.records()} == set(KEYS) - {bad}
    assert engine.work_off(folder, KEYS, record, Watcher()) == 1


# ---------------------------------------------------------------- runs that fail


def test_a_users_error_ends_the_sweep_as_in_one_process(engine, folder):
    def make(key):
        from alds_cli.errors import MissingExtraError  # noqa: PLC0415

        if key.ratio == "0.3":
            raise MissingExtraError("this run", "moon")
        return record(key)

    with pytest.raises(MissingExtraError) as told:
        engine.work_off(folder, KEYS, make, Watcher())
    assert (told.value.message, told.value.tip) == (
        "this run needs the optional extra 'moon'",
        "pip install 'alds-cli[moon]'",
    )
    assert KEYS[2] not in {RunKey.of(each) for each in folder.records()}


def test_an_error_of_the_tool_stays_what_it_is(engine, folder):
    def make(key):
        raise ZeroDivisionError(key.ratio)

    with pytest.raises(ZeroDivisionError, match=r"0\.1"):
        engine.work_off(folder, KEYS[:1], make, Watcher())


def test_out_of_reach_and_warnings_come_back(engine, folder, caplog):
    def make(key):
        import logging  # noqa: PLC0415

        logging.getLogger("alds_cli.anywhere").warning("mind the %s", "gap")
        return record(key, reached=False)

    with caplog.at_level(logging.WARNING, "alds_cli"):
        engine.work_off(folder, KEYS[:1], make, Watcher())
    assert "mind the gap" in caplog.messages
    assert not folder.record(KEYS[0]).reached


def test_what_cannot_be_sent_is_told_before_the_first_run(engine, folder):
    lock = threading.Lock()

    def make(key):
        with lock:
            return record(key)

    with pytest.raises(EngineError, match="cannot be sent to workers"):
        engine.work_off(folder, KEYS, make, Watcher())
    assert folder.records() == []


def test_a_folder_that_workers_do_not_see(engine, tmp_path):
    with pytest.raises(RunFolderError, match="is not there on") as told:
        engine.work_off(RunFolder(tmp_path / "elsewhere"), KEYS[:1], record, Watcher())
    assert "that all nodes share" in told.value.tip
    assert not (tmp_path / "elsewhere").exists()


def test_runs_of_other_processes_are_waited_for(engine, folder):
    """A process that is no worker holds a run, and then ends without having made it."""

    class Releasing(Watcher):
        def __init__(self, claim):
            self.claim, self.waited = claim, []

        def waiting(self, keys):
            self.waited.append(list(keys))
            self.claim.__exit__(None, None, None)

    claim = folder.claim(KEYS[0])
    assert claim.__enter__()
    watcher = Releasing(claim)
    assert engine.work_off(folder, KEYS[:2], record, watcher) == 2
    assert watcher.waited == [[KEYS[0]]]


# ---------------------------------------------------------------- clusters


@pytest.mark.usefixtures("cluster")
def test_more_than_any_node_has():
    with (
        pytest.raises(EngineError, match="takes 4096 CPU, and no node") as told,
        ray_engine.connected("local", cpus=4096, gpus=0),
    ):
        pass
    assert told.value.tip == "--run-cpus 2"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there(monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(EngineError, match=f"there is no Ray cluster at {address}: ") as told,
        ray_engine.connected(address, cpus=1, gpus=0),
    ):
        pass
    assert "--ray-address HOST:PORT" in told.value.tip


# ---------------------------------------------------------------- the installed command


def words(digits, folder, *more):
    data = f"tensors:{digits / 'data.safetensors'}"
    grid = ["--methods", "alds,svd", "--device", "cpu", "--threads", "1", "--json"]
    engine = ["--engine", "ray", "--ray-address", "local"]
    return [ALDS, "sweep", digits / "model.pt", "--data", data, *grid, *engine, "-o", folder, *more]


def test_only_the_result_reaches_standard_output(digits, tmp_path):
    arguments = words(digits, "run", "--ratios", "0.3,0.9999")  # a folder by its relative name
    done = subprocess.run(
        arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["runs"], found["made"], found["unreachable"]) == (4, 4, 2)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("4 runs; the original")
    assert all(re.match(r"\[\d/4\] (alds|svd) at 0\.", line) for line in lines[1:]), done.stderr
    assert len(lines) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_interruptions_keep_what_is_done(digits, tmp_path, number):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = words(digits, tmp_path / "run", "--steps", "40", "--repeats", "1")
    try:
        with subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as first:
            lines = [first.stderr.readline(), first.stderr.readline()]
            if number == signal.SIGINT:  # a terminal sends it to the whole group of processes
                os.killpg(first.pid, number)
            else:
                first.send_signal(number)
            out, rest = first.communicate(timeout=120)
    finally:
        signal.signal(signal.SIGINT, before)
    assert lines[1].startswith(b"[1/80] "), lines
    assert (first.returncode, out) == (128 + number, b"")
    kept = len(RunFolder(tmp_path / "run").records())
    assert 1 <= kept < 80
    assert b"Traceback" not in rest
    if number == signal.SIGINT:
        told = re.search(rb"interrupted: (\d+) of 80 runs are kept", rest)
        assert 1 <= int(told[1]) <= kept
