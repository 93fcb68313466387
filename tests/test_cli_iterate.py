"""`alds iterate`: what it prints, and its answers to mistakes."""

from __future__ import annotations

import io
import json
import math
import time

import pytest
from rich.console import Console

from alds_cli import api
from alds_cli.cli.iterate import _of_any_step
from alds_cli.records import ProgressEvent


@pytest.fixture
def place(digits, tmp_path, monkeypatch):
    """A folder with the checkpoint and the data, and nothing else in it."""
    for name in ("model.pt", "data.safetensors"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ("iterate", "model.pt", "--data", "tensors:data.safetensors", "--device", "cpu")
FEW = (*WORDS, "--to", "0.6", "--steps", "2", "--epochs-per-step", "1", "--method", "alds")


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-o", "-"), "has to be a file"),
        (("-o", "model.pt"), "the work begins with that file"),
        (("-o", "data.safetensors"), "the work begins with that file"),
        (("-o", "x.pt", "--teacher", "originals"), "originals: no such file"),
        (("-o", "x.pt", "--to", "1.5"), "between 0 and 1, not 1.5"),
        (("-o", "x.pt", "--target", "latency"), "unknown target 'latency'"),
        (("-o", "x.pt", "--steps", "0"), "--steps is a whole number from 1 to 1,000, not '0'"),
        (("-o", "x.pt", "--epochs-per-step", "0"), "--epochs-per-step is a whole number from 1"),
        (("-o", "x.pt", "--method", "svdd"), "unknown method 'svdd'"),
        (("-o", "x.pt", "--solver", "best"), "best"),
        (("-o", "x.pt", "--recipe", "cifar10-resnet2"), "there is no recipe 'cifar10-resnet2'"),
    ],
)
def test_mistakes_are_answered_and_leave_nothing(place, run, more, message):
    code, out, err = run(*FEW, *more)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(path.name for path in place.iterdir()) == ["data.safetensors", "model.pt"]


def test_what_the_command_prints(place, run):
    code, out, err = run(*FEW, "-o", "x.pt")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["1"], ["2"])]
    sizes = [
        json.loads((place / f"x.pt.iterate/{n}/stage.json").read_text())["stage"]["params_after"]
        for n in (1, 2)
    ]
    assert [row[1] for row in rows] == [f"{size:,}" for size in sizes]
    assert "[1/2] " in err
    assert "[2/2] " in err
    code, out, err = run(*FEW, "-o", "x.pt", "--resume", "--json", "-q")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["resumed_from"], told["steps"], told["params"]) == (2, 2, sizes[-1])
    assert [stage["params_after"] for stage in told["stages"]] == sizes
    assert math.isclose(told["stages"][0]["ratio"], 1 - 0.4**0.5)


def test_an_interruption_says_what_is_kept(place, run, monkeypatch):
    from alds_cli.compression import iterating  # noqa: PLC0415 - torch is imported by then anyway

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(iterating, "retrain", interrupted)
    code, out, err = run(*FEW, "-o", "x.pt")
    assert (code, out) == (130, "")
    assert "interrupted: finished steps are kept in x.pt.iterate; --resume goes on" in err
    assert not (place / "x.pt").exists()
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert run(*FEW, "-o", "x.pt", "--resume")[0] == 0


def test_one_bar_shows_a_part_of_every_step():
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface()
    stream = io.StringIO()
    interface.notes = Console(file=stream, force_terminal=True, width=100)
    with interface.progress() as bars:
        show = _of_any_step(bars)
        for step in (1, 2):
            for done in (1, 4):
                show(ProgressEvent(f"{step}/2 retrain", done, 4))
        show(ProgressEvent("3/3 retrain", 2, 4))
        time.sleep(0.3)
    last = stream.getvalue().split("retrain")[-1]
    assert "2/4" in last
    assert stream.getvalue().split("\x1b[2K")[-1].count("retrain") == 1
    assert _of_any_step(None) is None


def test_a_recipe_gives_what_is_not_given(run, monkeypatch):
    asked = {}

    def iterate(**options):
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("alds_cli.api.iterate", iterate)
    recipe = api.recipe("cifar10-resnet20", purpose="retrain", epochs=4, lr=0.03)
    run(*WORDS, "--to", "0.8", "-o", "x.pt", "--recipe", "cifar10-resnet20", "--lr", "0.03",
        "--epochs-per-step", "4")  # fmt: skip
    assert asked["settings"] == recipe
    run(*WORDS, "--to", "0.8", "-o", "x.pt", "--recipe", "cifar10-resnet20")
    assert asked["settings"] == api.recipe("cifar10-resnet20", purpose="retrain")
    run(*WORDS, "--to", "0.8", "-o", "x.pt")
    assert asked["settings"].epochs == 3
