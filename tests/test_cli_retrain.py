"""`alds retrain` from file to file: what a run that went wrong leaves, and who may go on."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alds_cli import api, architectures
from alds_cli.checkpoint.training_state import read_state
from alds_cli.errors import DataError, OutputError
from alds_cli.retraining import RetrainSettings, TrainingState


@pytest.fixture
def place(digits, tmp_path, monkeypatch):
    """A folder with the checkpoint and the data, and nothing else in it."""
    for name in ("model.pt", "data.safetensors"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(place):
    return sorted(path.name for path in place.iterdir())


MORE = ("--data", "tensors:data.safetensors", "--batch-size", "16", "--device", "cpu")
SETTINGS = RetrainSettings(epochs=3, batch_size=16)


def interrupt(data="tensors:data.safetensors", model="model.pt", after=1, **options):
    """Leave the state that a run of three epochs has after some of them."""

    def stop(event):
        if event.figures["epoch"] > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.retrain(model, data, SETTINGS, output="o.pt", device="cpu", progress=stop, **options)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("rate", ["1e6"])
def test_a_run_that_diverged_leaves_nothing(place, run, epochs, rate):
    before = listed(place)
    code, out, err = run(
        "retrain", "model.pt", *MORE, "--epochs", epochs, "--lr", rate, "-o", "x.pt"
    )
    assert (code, out) == (1, "")
    assert "retraining diverged in epoch" in err
    assert listed(place) == before


def test_a_run_that_diverges_keeps_the_last_state_that_was_sound(place, caplog):
    states = []

    def seen(_):
        states.append((place / "x.pt.training").exists())

    with pytest.raises(Exception, match="diverged"):
        api.retrain(
            _spoiled_after(9),
            "tensors:data.safetensors",
            SETTINGS,
            api.Source(arch="digits_cnn"),
            preprocessing=_unit(),
            output="x.pt",
            device="cpu",
            progress=seen,
        )
    assert any(states)
    state = TrainingState.from_dict(read_state(place / "x.pt.training")["state"])
    assert state.epoch == 2
    assert all(own.isfinite().all() for own in state.model.values())
    assert "the state after epoch 2 is kept" in caplog.text
    assert "--resume with a smaller --lr goes on with it" in caplog.text
    assert not (place / "x.pt").exists()


def _unit():
    from alds_cli.records import Preprocessing  # noqa: PLC0415

    return Preprocessing((0.0,), (1.0,))


def _spoiled_after(steps):
    """A network whose output is not finite after so many passes in training."""
    network = architectures.build(architectures.parse_architecture("digits_cnn"))
    passed = []

    def spoil(module, _inputs, output):
        passed.append(module.training)
        return output * (float("nan") if sum(passed) > steps else 1.0)

    network.register_forward_hook(spoil)
    return network


def test_a_run_that_diverges_at_once_leaves_an_earlier_state_alone(place, run):
    interrupt()
    kept = (place / "o.pt.training").read_bytes()
    code, _, err = run("retrain", "model.pt", *MORE, "--epochs", 1, "--lr", "1e6", "-o", "o.pt")
    assert code == 1, err
    assert (place / "o.pt.training").read_bytes() == kept


@pytest.mark.usefixtures("place")
def test_a_failure_in_a_later_epoch_says_that_its_state_is_kept(caplog):
    with caplog.at_level("WARNING"):
        interrupt()
    assert "the state after epoch 1 is kept in o.pt.training; --resume" in caplog.text


def test_an_interrupted_continuation_says_that_the_state_is_still_there(place, caplog):
    interrupt()
    kept = (place / "o.pt.training").read_bytes()
    caplog.clear()
    interrupt(after=0, resume=True)
    assert "the state after epoch 1 is kept in o.pt.training" in caplog.text
    assert (place / "o.pt.training").read_bytes() == kept


@pytest.mark.usefixtures("place")
def test_a_result_that_cannot_be_written_costs_no_training(run, monkeypatch):
    def refuse(*_):
        raise OutputError("cannot write o.pt: No space left on device")

    more = ("model.pt", *MORE, "--epochs", 2, "-o", "o.pt")
    with monkeypatch.context() as full:
        full.setattr("alds_cli.retraining.training_run.write_network", refuse)
        code, _, err = run("retrain", *more)
    assert code == 2
    assert "the state after epoch 2 is kept in o.pt.training" in err
    code, out, err = run("retrain", *more, "--resume", "--json")
    assert code == 0, err
    assert json.loads(out)["resumed_from"] == 2


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("model.pt", "data.safetensors"),
        ("model.pt", "./data.safetensors"),
        ("model.pt", "link"),
        ("model.pt", "names.txt"),
        ("model.pt", "model.pt.training"),
        ("o.pt.training", "o.pt"),
        ("model.pt", "kept"),
    ],
)
def test_results_replace_nothing_that_the_run_begins_with(place, run, model, output):
    (place / "link").symlink_to("data.safetensors")
    (place / "kept.training").symlink_to("data.safetensors")
    (place / "names.txt").write_text("\n".join("abcdefghij"))
    for name in ("model.pt.training", "o.pt.training"):
        (place / name).write_bytes((place / "model.pt").read_bytes())
    before = {own.name: own.read_bytes() for own in place.iterdir()}
    more = ("--epochs", 1, "--classes", "names.txt", "-o", output)
    code, _, err = run("retrain", model, *MORE, *more)
    assert code == 2
    assert "the work begins with that file" in err
    assert {own.name: own.read_bytes() for own in place.iterdir()} == before


@pytest.mark.usefixtures("place")
def test_a_network_may_replace_its_original(run):
    code, _, err = run("retrain", "model.pt", *MORE, "--epochs", 1, "-o", "model.pt")
    assert code == 0, err


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_goes_on_with_the_same_images_elsewhere(place, run, after):
    code, _, err = run("retrain", "model.pt", *MORE, "--epochs", 3, "-o", "whole.pt")
    assert code == 0, err
    interrupt(after=after)
    (place / "moved").mkdir()
    (place / "data.safetensors").rename(place / "moved/images.safetensors")
    data = ("--data", "tensors:moved/images.safetensors", *MORE[2:])
    code, out, err = run(
        "retrain", "model.pt", *data, "--epochs", 3, "-o", "o.pt", "--resume", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["resumed_from"] == after
    assert (place / "o.pt").read_bytes() == (place / "whole.pt").read_bytes()
    assert not (place / "o.pt.training").exists()


@pytest.mark.parametrize(
    ("change", "extra", "message"),
    [
        (lambda x, y: (255 - x, y), [], "started with other images"),
        (lambda x, y: (x, 9 - y), [], "started with other labels"),
        (lambda x, y: (x[:-1], y[:-1]), [], "number of images was 64, now is 63"),
        (lambda x, y: (x, y), ["--augment", "none"], "augmentation was auto, now is none"),
        (lambda x, y: (x, y), ["--mean", "0.3", "--std", "1"], "mean was"),
        (lambda x, y: (x, y), ["--seed", "7"], "seed was 0, now is 7"),
    ],
)
def test_a_run_does_not_go_on_with_other_data_or_settings(place, run, change, extra, message):
    interrupt()
    kept = (place / "o.pt.training").read_bytes()
    tensors = load_file(place / "data.safetensors")
    images, labels = change(tensors["images"], tensors["labels"])
    save_file({"images": images.contiguous(), "labels": labels}, place / "data.safetensors")
    code, _, err = run(
        "retrain", "model.pt", *MORE, "--epochs", 3, "-o", "o.pt", "--resume", *extra
    )
    assert code == 2
    assert message in err
    assert (place / "o.pt.training").read_bytes() == kept
    assert not (place / "o.pt").exists()


def test_a_run_does_not_go_on_with_classes_mapped_otherwise(place, run):
    torch.manual_seed(0)
    arch = architectures.parse_architecture("digits_cnn", ["in_channels=3"])
    torch.save(architectures.build(arch).state_dict(), place / "colour.pt")
    for name in ("emu", "gnu"):
        (place / "set" / name).mkdir(parents=True)
        for number in range(20):
            shade = (number, 2 * number, 99)
            Image.new("RGB", (8, 8), shade).save(place / f"set/{name}/{number}.png")
    (place / "one.txt").write_text("\n".join([*"abcdefgh", "emu", "gnu"]))
    (place / "two.txt").write_text("\n".join([*"abcdefgh", "gnu", "emu"]))
    unit = ("--mean", "0,0,0", "--std", "1,1,1")
    from alds_cli.records import Preprocessing  # noqa: PLC0415

    interrupt(
        "imagefolder:set",
        "colour.pt",
        classes="one.txt",
        preprocessing=Preprocessing((0.0,) * 3, (1.0,) * 3),
    )
    data = ("--data", "imagefolder:set", *MORE[2:], *unit, "--epochs", 3, "-o", "o.pt", "--resume")
    code, _, err = run("retrain", "colour.pt", *data, "--classes", "two.txt")
    assert code == 2
    assert "other labels" in err
    code, _, err = run("retrain", "colour.pt", *data, "--classes", "one.txt")
    assert code == 0, err


@pytest.mark.parametrize("label", [10, -1, 255])
def test_labels_are_held_to_the_classes_before_the_work_begins(place, label):
    tensors = load_file(place / "data.safetensors")
    tensors["labels"][-1] = label
    save_file(tensors, place / "data.safetensors")
    told = []
    with pytest.raises(DataError, match=f"label {label} is outside"):
        api.evaluate("model.pt", "tensors:data.safetensors", device="cpu", progress=told.append)
    with pytest.raises(DataError, match=f"label {label} is outside"):
        api.retrain(
            "model.pt", "tensors:data.safetensors", SETTINGS, device="cpu", progress=told.append
        )
    assert not told
