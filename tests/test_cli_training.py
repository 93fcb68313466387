"""Training from file to file with a teacher, judges and metrics."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from alds_cli import api, architectures
from alds_cli.checkpoint import hash_tensors
from alds_cli.retraining import RetrainSettings
from alds_cli.retraining.judging import divided

MORE = ("--data", "tensors:data.safetensors", "--batch-size", "16", "--device", "cpu")


@pytest.fixture
def place(digits, tmp_path, monkeypatch):
    """A folder with a network, another one to learn from, and the data without labels."""
    (tmp_path / "model.pt").write_bytes((digits / "model.pt").read_bytes())
    torch.manual_seed(5)
    teacher = architectures.build(architectures.parse_architecture("digits_cnn"))
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    images = load_file(digits / "data.safetensors")
    save_file({"images": images["images"]}, tmp_path / "data.safetensors")
    save_file(images, tmp_path / "labelled.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(run, *arguments):
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_teacher_takes_the_place_of_labels(place, run):
    code, out, err = run("retrain", "model.pt", *MORE, "--epochs", 2, "-o", "o.pt")
    assert (code, out) == (2, "")
    assert "no labels" in err
    more = (*MORE, "--teacher", "teacher.pt", "--epochs", 3, "--lr", 0.05, "--augment", "none")
    found = read(run, "retrain", "model.pt", *more, "-o", "o.pt")
    assert found["history"][-1]["loss"] < found["history"][0]["loss"]
    assert found["classes"] is None
    told = read(run, "inspect", "o.pt")["training"]
    weights = api.load("teacher.pt").state_dict()
    assert told["teacher"] == hash_tensors(weights)
    assert told["settings"]["label_weight"] == 0
    code, _, err = run("retrain", "model.pt", *more, "--label-weight", 0.5, "-o", "p.pt")
    assert code == 2
    assert "no labels" in err
    assert not (place / "p.pt").exists()


def test_another_teacher_does_not_take_up_a_run(place, run):
    def stop(event):
        if event.figures["epoch"] > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.retrain(
            "model.pt",
            "tensors:data.safetensors",
            RetrainSettings(epochs=3, batch_size=16),
            teacher="teacher.pt",
            output="o.pt",
            device="cpu",
            progress=stop,
        )
    resume = ("retrain", "model.pt", *MORE, "--epochs", 3, "-o", "o.pt", "--resume")
    kept = (place / "o.pt.training").read_bytes()
    code, _, err = run(*resume, "--teacher", "model.pt")
    assert code == 2
    assert "another teacher" in err
    assert (place / "o.pt.training").read_bytes() == kept
    assert read(run, *resume, "--teacher", "teacher.pt")["resumed_from"] == 1
    whole = ("retrain", "model.pt", *MORE, "--epochs", 3, "-o", "whole.pt")
    read(run, *whole, "--teacher", "teacher.pt")
    assert (place / "o.pt").read_bytes() == (place / "whole.pt").read_bytes()


LABELLED = ("--data", "tensors:labelled.safetensors", *MORE[2:])


@pytest.mark.usefixtures("place")
def test_the_epoch_that_judged_best_is_written(run):
    more = ("--epochs", 4, "--lr", 0.5, "--held-back", 0.25)
    code, out, err = run("retrain", "model.pt", *LABELLED, *more, "-o", "o.pt")
    assert code == 0, err
    assert "loss, held back" in out
    found = read(run, "retrain", "model.pt", *LABELLED, *more, "-o", "p.pt")
    losses = [own["validation_loss"] for own in found["history"]]
    assert found["kept"] == 1 + losses.index(min(losses))
    told = read(run, "inspect", "p.pt")["training"]
    assert told["epoch"] == found["kept"]
    assert told["validation_loss"] == min(losses)
    assert ("judged best" in out) == (found["kept"] < 4)


def test_the_last_epoch_is_written_beside_the_best(place, run):
    more = ("--epochs", 4, "--lr", 0.5, "--ema", 0.5)
    judged = (*more, "--held-back", 0.25)
    found = read(run, "retrain", "model.pt", *LABELLED, *judged, "-o", "o.pt", "--last", "l.pt")
    assert found["kept"] < 4
    told = read(run, "inspect", "l.pt")["training"]
    assert told["epoch"] == 4
    assert told["validation_loss"] == found["history"][3]["validation_loss"]
    best, last = (api.load(name).state_dict() for name in ("o.pt", "l.pt"))
    assert any(not torch.equal(own, last[name]) for name, own in best.items())
    # What judges leaves what is trained alone.
    parts = ("--data", "tensors:part.safetensors", *MORE[2:])
    kept = divided(64, RetrainSettings(epochs=4, held_back=0.25))[1]
    images = load_file("labelled.safetensors")
    save_file({name: own[kept].contiguous() for name, own in images.items()}, "part.safetensors")
    read(run, "retrain", "model.pt", *parts, *more, "-o", "plain.pt", "--last", "same.pt")
    assert all(
        torch.equal(own, last[name]) for name, own in api.load("plain.pt").state_dict().items()
    )
    assert (place / "same.pt").read_bytes() == (place / "plain.pt").read_bytes()


@pytest.mark.usefixtures("place")
def test_a_part_of_the_images_judges(run):
    whole = "tensors:labelled.safetensors"
    more = ("--data", f"{whole}#train", "--validation", f"{whole}#early-stopping", *MORE[2:])
    found = read(run, "retrain", "model.pt", *more, "--epochs", 2, "-o", "o.pt")
    assert all(own["validation_accuracy"] in {0, 100 / 3, 200 / 3, 100} for own in found["history"])


def test_metrics_are_lines_of_json(place, run):
    more = ("--epochs", 3, "--held-back", 0.25, "--log", "log.jsonl")
    found = read(run, "retrain", "model.pt", *LABELLED, *more, "-o", "o.pt")
    lines = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    assert lines == found["history"]


def test_metrics_of_a_run_that_was_taken_up_are_told_once(place, run):
    def stop(event):
        if event.figures["epoch"] > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.retrain(
            "model.pt",
            "tensors:labelled.safetensors",
            RetrainSettings(epochs=3, batch_size=16),
            output="o.pt",
            device="cpu",
            log="log.jsonl",
            progress=stop,
        )
    assert len((place / "log.jsonl").read_text().splitlines()) == 2
    more = ("--epochs", 3, "--log", "log.jsonl", "--resume")
    read(run, "retrain", "model.pt", *LABELLED, *more, "-o", "o.pt")
    lines = (place / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert "validation_loss" not in json.loads(lines[0])


@pytest.mark.parametrize("name", ["labelled.safetensors", "teacher.pt", "o.pt", "o.pt.training"])
def test_metrics_replace_nothing(place, run, name):
    before = {own.name: own.read_bytes() for own in place.iterdir()}
    more = ("--epochs", 1, "--log", name, "--teacher", "teacher.pt", "-o", "o.pt")
    code, _, err = run("retrain", "model.pt", *LABELLED, *more)
    assert code == 2
    assert "cannot write" in err
    assert {own.name: own.read_bytes() for own in place.iterdir()} == before


def test_a_run_that_fails_before_its_first_epoch_keeps_the_log_of_another(place, run):
    (place / "log.jsonl").write_text("kept\n")
    more = ("--epochs", 1, "--log", "log.jsonl", "--patience", 3, "-o", "o.pt")
    code, _, err = run("retrain", "model.pt", *LABELLED, *more)
    assert code == 2
    assert "no images judge" in err
    assert (place / "log.jsonl").read_text() == "kept\n"


def test_metrics_that_cannot_be_written_end_the_command_before_the_work(place, run):
    code, out, err = run(
        "retrain", "model.pt", *LABELLED, "--epochs", 1, "--log", "no/log", "-o", "o.pt"
    )
    assert (code, out) == (2, "")
    assert "no/log" in err
    assert not list(place.glob("o.pt*"))


def test_events_need_tensorboard(place, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    more = ("--epochs", 1, "--tensorboard", "events", "-o", "o.pt")
    code, _, err = run("retrain", "model.pt", *LABELLED, *more)
    assert code == 2
    assert "pip install 'alds-cli[tensorboard]'" in err
    assert not list(place.glob("o.pt*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_events_for_tensorboard(place, run):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    more = ("--epochs", 3, "--tensorboard", "events", "-o", "o.pt")
    found = read(run, "retrain", "model.pt", *LABELLED, *more)
    events = accumulator(str(place / "events"))
    events.Reload()
    assert [own.step for own in events.Scalars("loss")] == [1, 2, 3]
    assert [own.value for own in events.Scalars("loss")] == pytest.approx(
        [own["loss"] for own in found["history"]]
    )
