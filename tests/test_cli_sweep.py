"""`alds sweep`: as a program of its own, what it prints, and its answers to mistakes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sweep_cases
from rich.console import Console

from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.cli.sweep_display import _Display, _Tally
from alds_cli.records import ProgressEvent

ALDS = Path(sys.executable).with_name("alds")


@pytest.fixture
def arguments(digits, tmp_path):
    """A sweep of three runs, one of them out of reach."""
    data = f"tensors:{digits / 'data.safetensors'}"
    grid = ["--methods", "alds", "--ratios", "0.3,0.5,0.9999"]
    return ["sweep", digits / "model.pt", "--data", data, *grid, "-o", tmp_path / "run"]


def without(arguments, option):
    """The arguments but for an option and its value."""
    place = arguments.index(option)
    return arguments[:place] + arguments[place + 2 :]


# ---------------------------------------------------------------- what it prints


def test_results_and_progress(run, arguments, tmp_path):
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "3 runs: 3 made now, 0 found; 1 out of reach" in out
    assert f"alds report {tmp_path / 'run'}" in out
    assert re.search(r"alds +3 +1 +0\.5 +\d+\.\d\d %", out)
    assert "3 runs; the original: top-1" in err
    assert re.search(r"\[1/3\] alds at 0\.3: top-1 \d+\.\d\d % \([+-]\d+\.\d\d\) in \d", err)
    assert re.search(r"\[3/3\] alds at 0\.9999: not reached: a ratio of 0\.9999 cannot be", err)
    code, out, err = run(*arguments)
    assert code == 0
    assert "3 runs: 0 made now, 3 found; 1 out of reach" in out
    assert err.strip() == f"3 runs, 3 of them finished already; {err.partition('; ')[2].strip()}"


def test_json_holds_every_run(run, arguments, tmp_path):
    code, out, err = run(*arguments, "--json", "--quiet")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["schema"], found["folder"]) == (1, str(tmp_path / "run"))
    assert (found["runs"], found["made"], found["found"], found["unreachable"]) == (3, 3, 0, 1)
    assert found["baseline"]["params"] > 0
    folder = RunFolder(tmp_path / "run")
    assert found["baseline"]["quality"]["top1"] == folder.baseline().quality.top1
    for entry, record in zip(found["records"], folder.records(), strict=True):
        assert (entry["method"], entry["ratio"]) == (record.method, record.ratio)
        assert (entry["reached"], entry["params"]) == (record.reached, record.params)
        assert "layers" not in entry


def test_options_arrive_where_they_belong(run, monkeypatch):
    asked = {}

    def sweep(model, data, source, **options):
        asked.update(options, model=model, data=data, source=source)
        raise KeyboardInterrupt

    monkeypatch.setattr("alds_cli.api.sweep", sweep)
    words = (
        "sweep m.pt --data imagefolder:val --methods alds,alds-simple:k=5 -o runs --alpha 0.7 "
        "--steps 5 --ratios 0.2,1/3 --target macs --repeats 4 --retrain-epochs 0,3 --latency "
        "--keep-artefacts --train-data imagefolder:train --samples 99 --batch-size 16 --lr 0.5 "
        "--momentum 0.8 --nesterov --weight-decay 0.1 --warmup-epochs 2 --milestones 0.4 "
        "--gamma 0.2 --augment none --label-smoothing 0.1 --download --device cpu --workers 2 "
        "--arch resnet18 --input-shape 3,64,64 --classes names.txt "
        "--engine ray --ray-address head:6379 --run-cpus 4 --run-gpus 0.5"
    )
    run(*words.split())
    settings = asked.pop("retraining")
    assert (settings.batch_size, settings.lr, settings.momentum) == (16, 0.5, 0.8)
    assert (settings.nesterov, settings.weight_decay) == (True, 0.1)
    assert (settings.warmup_epochs, settings.milestones, settings.gamma) == (2, (0.4,), 0.2)
    assert (settings.augmentation, settings.label_smoothing) == ("none", 0.1)
    source = asked.pop("source")
    assert (source.arch, source.input_shape) == ("resnet18", (3, 64, 64))
    del asked["watcher"], asked["progress"]
    assert asked == {
        "model": "m.pt",
        "data": "imagefolder:val",
        "methods": ["alds", "alds-simple:k=5"],
        "output": Path("runs"),
        "alpha": "0.7",
        "steps": 5,
        "ratios": ["0.2", "1/3"],
        "target": "macs",
        "repeats": 4,
        "retrain_epochs": [0, 3],
        "latency": True,
        "teacher": None,
        "keep_artefacts": True,
        "train_data": "imagefolder:train",
        "samples": 99,
        "preprocessing": None,
        "classes": "names.txt",
        "download": True,
        "workers": 2,
        "device": "cpu",
        "engine": "ray",
        "ray_address": "head:6379",
        "run_cpus": 4,
        "run_gpus": 0.5,
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--methods svdd", "unknown method 'svdd'"),
        (
            "--retrain-epochs 1,two",
            "--retrain-epochs: it is a whole number from 0 to 16,384, not 'two'",
        ),
        ("--retrain-epochs 1", "retraining needs images to learn from"),
        ("--ratios 0.5,2", "between 0 and 1, not 2"),
        ("--repeats 0", "--repeats is a whole number from 1 to 1,000, not '0'"),
        ("--milestones early", "milestones are ascending fractions"),
        ("--lr -1", "--lr is a number above 0, at most 1,000,000, not '-1'"),
        ("--target beauty", "unknown target 'beauty'"),
        ("--quiet --verbose", "contradict"),
        ("--samples 0", "--samples is a whole number from 1 to 1,000,000,000, not '0'"),
        ("--teacher m.pt", "unknown teacher 'm.pt'"),
        ("--engine slurm", "unknown engine 'slurm'"),
        ("--ray-address local", "--ray-address is for runs by Ray"),
        ("--run-cpus 2", "--run-cpus is for runs by Ray"),
        ("--run-gpus 0.5", "--run-gpus is for runs by Ray"),
        ("--data tensors:none", "there is no file none"),
        ("-o model.pt/run", "is a file"),
    ],
)
def test_mistakes_are_answered_and_leave_nothing(run, arguments, model, monkeypatch, more, message):
    monkeypatch.chdir(model.parent)
    code, out, err = run(*arguments, *more.split())
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert [entry.name for entry in model.parent.iterdir()] == ["model.pt"]


def test_without_ray_the_extra_is_named(run, arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, err = run(*arguments, "--engine", "ray")
    assert (code, out) == (2, "")
    assert "--engine ray needs the optional extra 'ray'" in err
    assert "pip install 'alds-cli[ray]'" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--data", "--methods", "-o"])
def test_what_must_be_named(run, arguments, option):
    code, _, err = run(*without(arguments, option))
    assert code == 2
    assert "missing option" in err


@pytest.mark.parametrize(("more", "policy"), [([], "PASSIVE"), (["--latency"], None)])
def test_threads_wait_as_everywhere_where_time_counts(run, more, policy, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    # There are no such files.
    code, _, _ = run("sweep", "m.pt", "--data", "tensors:d", "--methods", "svd", "-o", "r", *more)
    assert code == 2
    assert os.environ.pop("OMP_WAIT_POLICY", None) == policy


def test_another_alpha(run, arguments, tmp_path):
    code, _, err = run(*without(arguments, "--ratios"), "--alpha", "0.5", "--steps", "2", "-q")
    assert (code, err) == (0, "")
    assert [record.ratio for record in RunFolder(tmp_path / "run").records()] == ["0.5", "0.75"]


# ---------------------------------------------------------------- interruptions


def test_an_interruption_says_what_is_kept(run, arguments, tmp_path, monkeypatch):
    from alds_cli.sweeping import runs  # noqa: PLC0415 - torch is imported by then anyway

    real = runs.compress_networks

    def interrupted(options):
        if options.ratio > 0.9:
            raise KeyboardInterrupt
        return real(options)

    monkeypatch.setattr(runs, "compress_networks", interrupted)
    code, out, err = run(*arguments)
    assert (code, out) == (130, "")
    folder = tmp_path / "run"
    assert f"interrupted: 2 of 3 runs are kept in {folder}; the same command continues" in err
    assert run(*arguments, "--quiet") == (130, "", "")
    monkeypatch.undo()
    assert "1 made now, 2 found" in run(*arguments)[1]


@pytest.mark.usefixtures("heeded_interrupts")
@pytest.mark.slow
def test_the_installed_command_is_interrupted(digits, tmp_path):
    """Ctrl-C at the first finished run."""
    words = [
        "sweep", digits / "model.pt", "--data", f"tensors:{digits / 'data.safetensors'}",
        "--methods", "alds,svd", "--steps", "40", "--repeats", "1", "-o", tmp_path / "run",
    ]  # fmt: skip
    with subprocess.Popen([ALDS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        lines = [first.stderr.readline(), first.stderr.readline()]
        first.send_signal(signal.SIGINT)
        out, rest = first.communicate(timeout=60)
    assert lines[1].startswith(b"[1/80] alds at 0.2: top-1")
    assert (first.returncode, out) == (130, b"")
    kept = len(RunFolder(tmp_path / "run").records())
    assert 1 <= kept < 80
    assert f"interrupted: {kept} of 80 runs are kept".encode() in rest
    assert b"Traceback" not in rest


# ---------------------------------------------------------------- the display


def drawn(display, width):
    """What a terminal of that width would show."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(display)
    return console.file.getvalue().splitlines()


@pytest.fixture
def tally():
    """A sweep in the middle: one method done, one out of reach, one at work."""
    made = _Tally()
    ratios = ["0.2", "0.36", "0.488"]
    methods = ["alds", "svd", "a-method:with=many:arguments=and:a=name"]
    keys = [RunKey(method, ratio, n, 0) for n in (0, 1) for ratio in ratios for method in methods]
    made.planned(sweep_cases.baseline(), keys, [sweep_cases.record(keys[0])])
    for key in keys[1:4]:
        made.started(key)
        made.finished(sweep_cases.record(key, reached=key.method != "svd"))
    made.found(sweep_cases.record(keys[9]))
    made.started(keys[4])
    return made


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_display_fits(tally, width):
    display = _Display(tally)
    display.advanced(ProgressEvent("evaluate", 3, 7))
    lines = drawn(display, width)
    assert max(len(line.rstrip()) for line in lines) <= width
    if width >= 80:
        assert "5/18 runs, 1 out of reach" in lines[0]
        assert lines[1].rstrip() == "now: svd at 0.36: evaluate 3/7"
        assert lines[3].split() == ["alds", "■▪·", "3/6"]
        assert lines[4].split() == ["svd", "▪▶·", "1/6"]
        assert lines[5].split() == ["a-method:with=many:argument…", "▪··", "1/6"]
        assert "ratios 0.2 … 0.488" in lines[6]


def test_the_display_shows_what_runs_side_by_side(tally):
    tally.started(tally.keys[4])  # a worker that died began it before
    tally.started(tally.keys[6])
    lines = drawn(_Display(tally), 120)
    assert lines[1].rstrip() == "now: 2 runs: svd at 0.36; alds at 0.488"
    assert lines[3].split() == ["alds", "■▪▶", "3/6"]
    assert lines[4].split() == ["svd", "▪▶·", "1/6"]
    tally.finished(sweep_cases.record(tally.keys[4]))
    assert drawn(_Display(tally), 120)[1].rstrip() == "now: alds at 0.488"


def test_many_ratios_leave_their_pictures_out(tally):
    keys = [RunKey("alds", f"0.{n}1", 0, 0) for n in range(90)]
    tally.planned(sweep_cases.baseline(), keys, [])
    lines = drawn(_Display(tally), 80)
    assert lines[3].split() == ["alds", "0/90"]
    assert len(lines) == 4


def test_the_display_before_and_after(tally):
    fresh = _Display(_Tally())
    assert drawn(fresh, 80)[0].rstrip() == "now: reading and evaluating the original"
    fresh.advanced(ProgressEvent("profile", 3, 7))
    assert drawn(fresh, 80)[0].rstrip().endswith("the original: profile 3/7")
    for key in tally.keys:
        tally.found(sweep_cases.record(key))
    first, second, *_ = drawn(_Display(tally), 80)
    assert "18/18 runs" in first
    assert "0:00:00 left" in first
    assert second.rstrip() == "now:"


def test_the_display_waits_for_others(tally):
    tally.waiting(tally.keys)
    assert drawn(_Display(tally), 80)[1].rstrip() == "now: waiting for 13 runs of other processes"
    alone = _Tally()
    alone.planned(sweep_cases.baseline(), [RunKey("svd", "0.1", 0, 0)], [])
    alone.waiting(alone.keys)
    assert drawn(_Display(alone), 80)[1].rstrip() == "now: waiting for a run of another process"


def test_time_that_is_not_known_is_not_made_up():
    tally = _Tally()
    keys = [RunKey("alds", "0.5", n, epochs) for n in (0, 1) for epochs in (0, 5)]
    tally.planned(sweep_cases.baseline(), keys, [])
    assert tally.time_left() == "–:––:––"
    tally.finished(sweep_cases.record(keys[0], seconds={"compress": 0.0}))
    assert tally.time_left() == "–:––:––"
    tally.finished(sweep_cases.record(keys[2], seconds={"compress": 50_000.0}))
    # Two runs are left, whose compression takes 25,000 seconds each.
    assert re.fullmatch("over 13:5[23]:[0-9]{2}", tally.time_left())
    tally.started(keys[1])
    tally.advanced(ProgressEvent("evaluate", 1, 2), 10_000.0)
    assert tally.time_left().startswith("over 13:")
    tally.advanced(ProgressEvent("retrain", 1, 20), 10_000.0)
    assert re.fullmatch("12[45]:[0-9]{2}:[0-9]{2}", tally.time_left())
    tally.started(keys[3])  # side by side, both are done in half of the time
    assert re.fullmatch("6[12]:[0-9]{2}:[0-9]{2}", tally.time_left())
    tally.finished(sweep_cases.record(keys[1], seconds={"retrain": 0.0}))
    tally.finished(sweep_cases.record(keys[3], seconds={"retrain": 0.0}))
    assert tally.time_left() == "0:00:00"


def test_a_display_does_not_outlive_its_sweep(tmp_path):
    """On a terminal, the picture is taken away before the results are printed."""
    from alds_cli.cli import sweep_display  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface()
    stream = io.StringIO()
    interface.notes = Console(file=stream, force_terminal=True, width=80)
    with sweep_display.watching(interface, tmp_path) as (watcher, progress):
        watcher.planned(sweep_cases.baseline(), [RunKey("alds", "0.5", 0, 0)], [])
        progress(ProgressEvent("evaluate", 1, 2))
        time.sleep(0.3)
    assert "0/1 runs" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("\x1b[2K")
    assert isinstance(watcher, _Display)
