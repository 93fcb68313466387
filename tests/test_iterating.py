"""Compressing and retraining in turns: the steps, the folder, and runs that are interrupted."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alds_cli import api
from alds_cli.checkpoint import files
from alds_cli.checkpoint.iteration_folder import IterationFolder
from alds_cli.compression.iterating import geometric_steps
from alds_cli.errors import (
    AldsError,
    CheckpointError,
    OptionError,
    RatioUnreachableError,
    RunFolderError,
)
from alds_cli.retraining import RetrainSettings

SETTINGS = RetrainSettings(epochs=2, batch_size=32, augmentation="none", seed=3)


@pytest.fixture
def place(digits, tmp_path, monkeypatch):
    """A folder with the checkpoint and the data, and nothing else in it."""
    for name in ("model.pt", "data.safetensors"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def iterated(output="small.pt", settings=SETTINGS, **options):
    """Two steps to a fifth of the parameters, by the method that needs no images."""
    asked = {"to": 0.8, "steps": 2, "method": "alds", "device": "cpu", **options}
    return api.iterate("model.pt", "tensors:data.safetensors", settings, output=output, **asked)


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- the steps


@given(st.floats(1e-9, 1 - 1e-9), st.integers(1, 60))
def test_every_step_leaves_the_same_fraction_of_what_was_left(to, steps):
    ratios = geometric_steps(Fraction(to), steps)
    assert len(ratios) == steps
    assert ratios[-1] == Fraction(to)
    left = [1.0, *(float(1 - ratio) for ratio in ratios)]
    factor = (1 - to) ** (1 / steps)
    for before, after in itertools.pairwise(left):
        assert after / before == pytest.approx(factor, rel=1e-6)


@given(st.fractions(Fraction(1, 10**6), Fraction(10**6 - 1, 10**6)), st.integers(1, 1000))
def test_steps_ascend_to_exactly_what_was_asked(to, steps):
    ratios = geometric_steps(to, steps)
    assert all(0 < one < other < 1 for one, other in itertools.pairwise(ratios))
    assert ratios[-1] == to


def test_known_steps():
    assert geometric_steps(Fraction(3, 4), 2) == [pytest.approx(0.5), Fraction(3, 4)]
    assert geometric_steps(Fraction(1, 3), 1) == [Fraction(1, 3)]


@pytest.mark.slow
def test_the_result_is_that_of_the_commands_one_after_another(place):
    result = iterated()
    assert [stage.step for stage in result.stages] == [1, 2]
    first = float(geometric_steps(Fraction("0.8"), 2)[0])
    data, cpu = "tensors:data.safetensors", {"device": "cpu"}
    api.compress("model.pt", ratio=first, method="alds", seed=3, output="1.pt", **cpu)
    api.retrain("1.pt", data, SETTINGS, output="2.pt", **cpu)
    api.compress("2.pt", ratio=0.8, method="alds", seed=3, output="3.pt", **cpu)
    again = RetrainSettings(epochs=2, batch_size=32, augmentation="none", seed=4)
    api.retrain("3.pt", data, again, output="4.pt", **cpu)
    for mine, kept in (
        ("1.pt", "1/compressed.pt"),
        ("2.pt", "1/retrained.pt"),
        ("3.pt", "2/compressed.pt"),
        ("4.pt", "2/retrained.pt"),
    ):
        assert (place / mine).read_bytes() == (place / "small.pt.iterate" / kept).read_bytes()
    assert (place / "4.pt").read_bytes() == (place / "small.pt").read_bytes()


@pytest.mark.slow
def test_the_original_is_the_teacher_in_every_step(place):
    """From images without labels, of which some judge."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    save_file({"images": load_file("data.safetensors")["images"]}, "data.safetensors")
    settings = RetrainSettings(2, 32, augmentation="none", seed=3, held_back=0.25)
    result = iterated(settings=settings, teacher="original")
    data, cpu = "tensors:data.safetensors", {"device": "cpu"}
    kept = place / "small.pt.iterate"
    for step in (1, 2):
        own = RetrainSettings(2, 32, augmentation="none", seed=2 + step, held_back=0.25)
        api.retrain(
            kept / f"{step}/compressed.pt", data, own, teacher="model.pt", output="t.pt", **cpu
        )
        assert (place / "t.pt").read_bytes() == (kept / f"{step}/retrained.pt").read_bytes()
        stage = result.stages[step - 1]
        losses = [epoch.validation_loss for epoch in stage.history]
        assert stage.kept == 1 + losses.index(min(losses))
        assert stage.trained.epoch == stage.kept


@pytest.mark.slow
@pytest.mark.parametrize("target", ["bytes", "params", "macs"])
def test_everything_is_measured_against_the_original(place, target):
    result = iterated(target=target, steps=3, to="0.6", settings=RetrainSettings(1, 64))
    size = (place / "model.pt").stat().st_size
    original = api.inspect("model.pt")
    for step, (stage, ratio) in enumerate(
        zip(result.stages, geometric_steps(Fraction("0.6"), 3), strict=True), start=1
    ):
        assert (stage.params_before, stage.macs_before) == (original.params, original.macs)
        assert stage.ratio == float(ratio)
        before, after = {
            "params": (original.params, stage.params_after),
            "macs": (original.macs, stage.macs_after),
            "bytes": (size, (place / f"small.pt.iterate/{step}/compressed.pt").stat().st_size),
        }[target]
        assert after <= (1 - ratio) * before
        found = api.inspect(f"small.pt.iterate/{step}/retrained.pt")
        assert (found.params, found.params_before) == (stage.params_after, original.params)


@pytest.mark.slow
def test_the_folder_tells_what_was_done(place):
    told = []
    result = iterated(watcher=told.append)
    assert told == list(result.stages)
    folder = place / "small.pt.iterate"
    names = ("compressed.pt", "plan.json", "retrained.pt", "stage.json")
    assert listed(folder) == [*(f"{n}/{name}" for n in (1, 2) for name in names), "iterate.json"]
    for stage in result.stages:
        assert IterationFolder.beside(place / "small.pt").stage(stage.step) == stage
        assert len(stage.history) == 2
        assert stage.bytes == (folder / f"{stage.step}/retrained.pt").stat().st_size
    assert result.nbytes == (place / "small.pt").stat().st_size
    trained = result.network.training
    assert trained.loss == result.stages[-1].history[-1].loss
    assert result.network.module(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"method": ""},
        {"method": "ft", "to": 0.6},
        {"refit": True, "method": "alds-data", "samples": 48},
        {"tune_steps": 4, "output": "small.safetensors"},
    ],
    ids=str,
)
def test_ways_of_compressing(place, options):
    result = iterated(**options)
    assert float(1 - result.stages[-1].left) >= options.get("to", 0.8)
    assert (place / result.output).exists()


# ---------------------------------------------------------------- interruptions


class Killed(BaseException):
    """Stands for the end of the process."""


def dying(patch, commit, *, after):
    """End a run when the file of that number is about to get its name, or has just got it."""
    real, seen = files._take_over, []

    def take_over(temporary, path):
        seen.append(path)
        if len(seen) < commit:
            return real(temporary, path)
        if after:
            real(temporary, path)
        raise Killed

    patch.setattr(files, "_take_over", take_over)


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    """The files of a run that nothing happened to, and how many got their names."""
    folder = tmp_path_factory.mktemp("undisturbed")
    count, real = [], files._take_over

    def take_over(temporary, path):
        count.append(path)
        return real(temporary, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(files, "_take_over", take_over)
        for name in ("model.pt", "data.safetensors"):
            (folder / name).write_bytes((digits / name).read_bytes())
        iterated(cache=False)
    return networks(folder), len(count)


def networks(folder):
    return {name: (folder / name).read_bytes() for name in listed(folder) if name.endswith(".pt")}


@pytest.mark.slow
def test_the_number_of_files_is_known(undisturbed):
    """What it begins with; for each step a plan, networks, records, and two states; the result."""
    assert undisturbed[1] == 1 + 2 * (1 + 2 + 2 + 2) + 1


@pytest.mark.mostly_slow(40)
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("commit", [11, *range(1, 11), *range(12, 17)])
def test_a_run_that_ends_anywhere_goes_on_to_the_same_files(place, undisturbed, commit, after):
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, commit, after=after)
        with pytest.raises(Killed):
            iterated(cache=False)
    iterated(cache=False, resume=True)
    assert networks(place) == undisturbed[0]
    assert not list(place.rglob("*.training"))
    assert not (place / "small.pt.iterate" / "claim").exists()


def test_a_retraining_goes_on_where_it_was(place, undisturbed):
    """The second epoch of the second step is begun, interrupted, and the first not made again."""
    seen = []

    def stop(event):
        if event.task == "2/2 retrain" and event.figures["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        iterated(cache=False, progress=stop)
    result = iterated(cache=False, resume=True, progress=seen.append)
    assert result.resumed_from == 1
    assert {event.task.split()[0] for event in seen} == {"2/2"}
    assert min(event.figures["epoch"] for event in seen if "retrain" in event.task) == 2
    assert networks(place) == undisturbed[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_moments(place, undisturbed, seed):
    program = Path(__file__).with_name("iterate_processes.py")
    done = subprocess.run(
        [sys.executable, program, str(seed)], capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["killed"] >= 5
    assert networks(place) == undisturbed[0]


# ---------------------------------------------------------------- mistakes


@pytest.mark.slow
def test_what_was_begun_is_not_overwritten(place):
    iterated()
    before = networks(place)
    with pytest.raises(OptionError, match="holds an iteration that was begun already") as told:
        iterated(to=0.7)
    assert "--resume goes on with it" in told.value.tip
    assert networks(place) == before
    assert iterated(resume=True).resumed_from == 2


@pytest.mark.mostly_slow(6)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to": 0.7}, r"ratios was \[0\.55.*, now is \[0\.45"),
        ({"steps": 3}, "ratios was"),
        ({"method": "svd"}, "method was 'alds', now is 'svd'"),
        ({"teacher": "original"}, "teacher was None, now is"),
        ({"validation": "tensors:data.safetensors"}, "validation was None, now is"),
        ({"bound": "exact"}, "bound was None, now is 'exact'"),
        ({"exclude": ("classifier.2",)}, r"exclude was \[\], now is \['classifier.2'\]"),
        ({"settings": RetrainSettings(3, 16, seed=3)}, "training epochs was 2, now is 3"),
    ],
)
def test_an_iteration_goes_on_as_it_was_begun(place, changes, message):
    stopped_after_the_first_step()
    with pytest.raises(OptionError, match=message):
        iterated(resume=True, **changes)
    assert not (place / "small.pt").exists()


def stopped_after_the_first_step():
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        iterated(watcher=stop)


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_another_network_or_other_images_are_refused():
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    stopped_after_the_first_step()
    data, model = load_file("data.safetensors"), torch.load("model.pt")
    data["images"][0, 0, 0, 0] += 1
    save_file(data, "data.safetensors")
    with pytest.raises(OptionError, match="fingerprint images was"):
        iterated(resume=True)
    data["images"][0, 0, 0, 0] -= 1
    save_file(data, "data.safetensors")
    torch.save({**model, "classifier.2.bias": model["classifier.2.bias"] + 1}, "model.pt")
    with pytest.raises(OptionError, match="weights was"):
        iterated(resume=True)
    torch.save(model, "model.pt")
    assert iterated(resume=True).resumed_from == 1


def test_a_ratio_out_of_reach_is_told_before_the_first_step(place):
    with pytest.raises(RatioUnreachableError):
        iterated(to=0.9999)
    assert listed(place) == ["data.safetensors", "model.pt"]


@pytest.mark.slow
def test_a_training_that_diverges_can_be_begun_anew(place):
    with pytest.raises(AldsError, match="diverged"):
        iterated(settings=RetrainSettings(2, 32, lr=1e6))
    assert not (place / "small.pt").exists()
    assert len(iterated(method="svd").stages) == 2
    assert (
        json.loads((place / "small.pt.iterate/1/stage.json").read_text())["stage"]["method"]
        == "svd"
    )


@pytest.mark.slow
def test_a_run_to_resume_that_there_is_none_of(place, caplog):
    assert iterated(resume=True).resumed_from == 0
    assert "no interrupted run to resume" in caplog.text
    assert (place / "small.pt").exists()


def test_a_foreign_folder_is_left_alone(place):
    (place / "small.pt.iterate").mkdir()
    (place / "small.pt.iterate" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"not the folder of an iteration: it holds notes.txt"):
        iterated()
    assert listed(place / "small.pt.iterate") == ["notes.txt"]


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize(
    ("name", "text", "tip"),
    [
        ("iterate.json", "{", "name another output"),
        ("1/stage.json", "[]", "--resume makes them again"),
        ("1/stage.json", None, "--resume makes them again"),
    ],
)
def test_damaged_files_are_named(place, name, text, tip):
    stopped_after_the_first_step()
    path = place / "small.pt.iterate" / name
    if text is None:  # the record of another step
        text = path.read_text().replace('"step": 1', '"step": 2')
    path.write_text(text)
    with pytest.raises(RunFolderError, match="is damaged") as told:
        iterated(resume=True)
    assert tip in told.value.tip


@pytest.mark.slow
def test_only_the_network_of_the_last_step_is_needed(place):
    iterated()
    folder, before = place / "small.pt.iterate", (place / "small.pt").read_bytes()
    for name in ("1/compressed.pt", "1/retrained.pt", "2/compressed.pt"):
        (folder / name).unlink()
    (place / "small.pt").unlink()
    iterated(resume=True)
    assert (place / "small.pt").read_bytes() == before
    (folder / "2/retrained.pt").write_bytes(before[: len(before) // 2])
    with pytest.raises(CheckpointError, match=r"retrained\.pt"):
        iterated(resume=True)
    assert (place / "small.pt").read_bytes() == before


@pytest.mark.slow
def test_two_processes_do_not_work_in_one_folder(place):
    stopped_after_the_first_step()
    with IterationFolder.beside(place / "small.pt").claim() as granted:
        assert granted
        with pytest.raises(RunFolderError, match="another process works in"):
            iterated(resume=True)
    assert iterated(resume=True).resumed_from == 1
