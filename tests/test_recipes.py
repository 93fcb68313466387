"""Recipes are those of the paper's supplement, and files of one's own are read with care."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alds_cli import architectures
from alds_cli.cli import verbs
from alds_cli.compression.tuning import recipe_for_texts
from alds_cli.errors import OptionError
from alds_cli.recipes import known_recipes, read_recipe
from alds_cli.retraining import RetrainSettings, learning_rate

STEPS = 5
"""Steps in an epoch."""

# Written by hand from Tables 3 to 5 of the supplement: what is told of a training, and its rates
# at the start of some epochs, counted from 0.
SGD = {"optimiser": "sgd", "momentum": 0.9}
PAPER = {
    "cifar10-vgg16": (
        {**SGD, "epochs": 300, "batch_size": 256, "nesterov": False, "weight_decay": 5e-4},
        {10: 0.05, 29: 0.05, 30: 0.025, 59: 0.025, 60: 0.0125, 150: 0.05 / 32, 299: 0.05 / 512},
        10,
    ),
    "cifar10-resnet20": (
        {**SGD, "epochs": 182, "batch_size": 128, "nesterov": False, "weight_decay": 1e-4},
        {5: 0.1, 90: 0.1, 91: 0.01, 135: 0.01, 136: 0.001, 181: 0.001},
        5,
    ),
    "cifar10-densenet22": (
        {**SGD, "epochs": 300, "batch_size": 64, "nesterov": True, "weight_decay": 1e-4},
        {10: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 0.001, 299: 0.001},
        10,
    ),
    "cifar10-wrn16-8": (
        {**SGD, "epochs": 200, "batch_size": 128, "nesterov": True, "weight_decay": 5e-4},
        {5: 0.1, 59: 0.1, 60: 0.02, 119: 0.02, 120: 0.004, 179: 0.004, 180: 0.0008, 199: 0.0008},
        5,
    ),
    "imagenet-resnet18": (
        {**SGD, "epochs": 90, "batch_size": 256, "nesterov": False, "weight_decay": 1e-4},
        {5: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 79: 0.001, 80: 1e-4, 89: 1e-4},
        5,
    ),
    "imagenet-alexnet": (
        {**SGD, "epochs": 90, "batch_size": 256, "nesterov": False, "weight_decay": 1e-4},
        {5: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 79: 0.001, 80: 1e-4, 89: 1e-4},
        5,
    ),
    "imagenet-mobilenet_v2": (
        {
            "optimiser": "rmsprop",
            "momentum": 0.9,
            "epochs": 300,
            "batch_size": 768,
            "nesterov": False,
            "weight_decay": 4e-5,
        },
        {0: 0.045, 1: 0.0441, 2: 0.043218, 100: 0.045 * 0.98**100, 299: 0.045 * 0.98**299},
        0,
    ),
    "voc-deeplabv3_resnet50": (
        {**SGD, "epochs": 45, "batch_size": 32, "nesterov": False, "weight_decay": 1e-4},
        {0: 0.02, 9: 0.02 * 0.8**0.9, 30: 0.02 * (1 / 3) ** 0.9, 44: 0.02 * (1 / 45) ** 0.9},
        0,
    ),
}

each_recipe = pytest.mark.parametrize("name", PAPER)


def test_there_is_a_recipe_for_each_column_of_the_tables():
    assert known_recipes() == sorted([*PAPER, "texts"])


@each_recipe
def test_hyperparameters_are_those_of_the_supplement(name):
    settings = read_recipe(name).settings("train")
    stated, _, warmup = PAPER[name]
    assert {key: getattr(settings, key) for key in stated} == stated
    assert settings.warmup_epochs == warmup
    assert settings.label_smoothing == 0


@each_recipe
def test_learning_rates_of_the_whole_schedule_are_those_of_the_supplement(name):
    settings = read_recipe(name).settings("train")
    _, rates, warmup = PAPER[name]
    for epoch, rate in rates.items():
        assert learning_rate(settings, epoch * STEPS, STEPS) == pytest.approx(rate), epoch
    largest = rates[warmup]
    for step in range(warmup * STEPS):
        expected = largest * (step + 1) / (warmup * STEPS)
        assert learning_rate(settings, step, STEPS) == pytest.approx(expected)


def test_polynomial_decay_falls_in_every_step():
    settings = read_recipe("voc-deeplabv3_resnet50").settings("train")
    expected = 0.02 * (1 - 7 / (45 * STEPS)) ** 0.9
    assert learning_rate(settings, 7, STEPS) == pytest.approx(expected)


@each_recipe
@pytest.mark.parametrize("epochs", [1, 9])
def test_a_retraining_has_the_last_rates_of_the_training(name, epochs):
    recipe = read_recipe(name)
    whole, part = recipe.settings("train"), recipe.settings("retrain", epochs=epochs)
    if name == "imagenet-mobilenet_v2":  # "(1e-4)" in Table 4
        expected = [1e-4 * 0.98**epoch for epoch in range(epochs) for _ in range(STEPS)]
    else:
        start = (whole.epochs - epochs) * STEPS
        expected = [learning_rate(whole, start + step, STEPS) for step in range(epochs * STEPS)]
    found = [learning_rate(part, step, STEPS) for step in range(epochs * STEPS)]
    assert found == pytest.approx(expected)
    same = {"epochs": 1, "schedule_epochs": None, "lr": 1.0}
    assert replace(part, **same, warmup_epochs=0) == replace(whole, **same, warmup_epochs=0)


@each_recipe
def test_a_shorter_training_is_the_whole_one_shortened(name):
    recipe = read_recipe(name)
    whole = recipe.settings("train")
    per_epoch = 10 * STEPS
    short = recipe.settings("train", epochs=whole.epochs // 10 or 1)
    if whole.epochs % 10:
        return
    for step in range(0, whole.epochs * STEPS, 7):
        assert learning_rate(short, step, per_epoch) == pytest.approx(
            learning_rate(whole, step, STEPS)
        )


@each_recipe
def test_networks_are_known(name):
    recipe = read_recipe(name)
    assert recipe.network in architectures.known_names()
    assert not recipe.arguments


def test_every_value_can_be_changed():
    recipe = read_recipe("cifar10-resnet20")
    settings = recipe.settings("retrain", epochs=5, lr=0.5, schedule="warm", seed=7)
    assert (settings.epochs, settings.lr, settings.schedule, settings.seed) == (5, 0.5, "warm", 7)
    assert settings.batch_size == 128
    with pytest.raises(OptionError, match="there is no setting 'lrr'") as caught:
        recipe.settings("retrain", lrr=0.5)
    assert "did you mean lr?" in caught.value.tip
    message = "recipe cifar10-resnet20: .*300 epochs do not fit into a schedule of 182"
    with pytest.raises(OptionError, match=message):
        recipe.settings("retrain", epochs=300)


# ---------------------------------------------------------------- files of one's own


def own(folder: Path, text: str | bytes) -> Path:
    path = folder / "own.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_of_ones_own(tmp_path):
    text = "[training]\nepochs = 40\nmilestones = [10, 30]\nlr = 1\n[retraining]\nlr = 0.5\n"
    recipe = read_recipe(own(tmp_path, text))
    assert recipe.network is None
    assert recipe.settings("train").milestones == (0.25, 0.75)
    settings = recipe.settings("retrain", epochs=4)
    assert (settings.lr, settings.schedule_epochs, settings.momentum) == (0.5, 40, 0.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "training is missing"),
        ("[training]\nlr = 1\n", "training.epochs is missing"),
        ("[training]\nepochs = '3'\n", "training.epochs should be a valid integer, not '3'"),
        ("[training]\nepochs = 3\nlrr = 1\n", "training.lrr is not a known field"),
        ("[training]\nepochs = 3\nlr = true\n", "training.lr should be a valid number, not True"),
        ("[training]\nepochs = 3\nlr = nan\n", "it does not hold only plain values"),
        ("[training]\nepochs = 3\nlr = 1979-05-27\n", "it does not hold only plain values"),
        ("[training]\nepochs = 3\nlr = -1\n", "lr -1.0 is not in"),
        ("[training]\nepochs = 3\nschedule = 'x'\n", "schedule 'x' is none of"),
        ("[training]\nepochs = 3\nmilestones = [2, 1]\n", r"milestones \[2, 1\] are not ascending"),
        ("[training]\nepochs = 3\nmilestones = [3]\n", r"milestones \[3\] are not ascending"),
        ("[training]\nepochs = 3\nmilestones = [0.5]\n", "training.milestones.0 should be"),
        ("[training]\nepochs = 3\nschedule_epochs = 9\n", "schedule_epochs is not a known field"),
        ("[training]\nepochs = 3\n[retraining]\nepochs = 2\n", "retraining.epochs is not a known"),
        ("[training]\nepochs = 3\n[retraining]\nrewind = 1\n", "retraining.rewind should be"),
        ("[training]\nepochs = 3\n[more]\n", "more is not a known field"),
        ("[training\n", "it is not TOML: "),
        (b"\xff\xfe", "it is not TOML: "),
        ("a = " + "[" * 5000, "it is not TOML"),
        ("a = " + "[" * 100_000, "it is not TOML"),
        ("# " + "x" * (1 << 20), "more than 1,048,576 bytes"),
    ],
)
def test_files_that_are_no_recipes_are_refused(tmp_path, text, message):
    with pytest.raises(OptionError, match=message) as caught:
        read_recipe(own(tmp_path, text))
    assert "own.toml" in caught.value.message
    assert caught.value.tip


def test_recipes_that_there_are_none_of(tmp_path):
    with pytest.raises(OptionError, match="there is no recipe 'cifar10-resnet2'") as caught:
        read_recipe("cifar10-resnet2")
    assert "did you mean cifar10-resnet20?" in caught.value.tip
    assert all(name in caught.value.tip for name in PAPER)
    with pytest.raises(OptionError, match=r"there is no file .*none\.toml"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(OptionError, match="there is no file"):
        read_recipe(tmp_path / "folder.toml")


# ---------------------------------------------------------------- on the command line


@pytest.fixture
def asked(run, monkeypatch):
    """A function that returns the settings with which a command line would begin."""

    def of(line):
        found = []

        def begin(*_, **options):
            found.append(options.get("settings") or options["retraining"])
            raise KeyboardInterrupt

        monkeypatch.setattr("alds_cli.api.retrain", begin)
        monkeypatch.setattr("alds_cli.api.sweep", begin)
        _, _, err = run(*line.split())
        assert found, err
        return found[0]

    return of


RETRAIN = "retrain m.pt --data tensors:d.safetensors -o o.pt"


@each_recipe
def test_a_recipe_by_name(asked, name):
    assert asked(f"{RETRAIN} --recipe {name}") == read_recipe(name).settings("retrain")


def test_options_given_win_over_the_recipe(asked):
    recipe = read_recipe("cifar10-resnet20")
    found = asked(f"{RETRAIN} --recipe cifar10-resnet20 --epochs 9")
    assert found == recipe.settings("retrain", epochs=9)
    assert (found.epochs, found.schedule_epochs) == (9, 182)
    # Values that are the defaults of the command win too, where they are given.
    line = "--epochs 3 --lr 0.01 --milestones 0.5,0.75 --weight-decay 0 --nesterov --seed 3"
    assert asked(f"{RETRAIN} --recipe cifar10-resnet20 {line}") == recipe.settings(
        "retrain",
        epochs=3,
        lr=0.01,
        milestones=(0.5, 0.75),
        weight_decay=0.0,
        nesterov=True,
        seed=3,
    )
    line = "--recipe cifar10-vgg16 --epochs 3 --schedule warm"
    assert asked(f"{RETRAIN} {line}").schedule == "warm"


def test_without_a_recipe_defaults_stay(asked):
    assert asked(RETRAIN) == RetrainSettings(epochs=3)


def test_texts_have_a_recipe_of_their_own_unless_one_is_named(asked):
    line = RETRAIN.replace("tensors:d.safetensors", "lines:d.txt")
    settings = read_recipe("texts").settings("retrain")
    assert (settings.optimiser, settings.schedule) == ("adamw", "warm")
    assert asked(line) == settings
    assert asked(f"{line} --epochs 5 --lr 0.01") == replace(settings, epochs=5, lr=0.01)
    assert asked(f"{line} --recipe cifar10-vgg16").optimiser == "sgd"


def test_tuning_on_texts_has_the_rate_and_the_temperature_of_their_recipe():
    training, tuning = read_recipe("texts").settings("retrain"), recipe_for_texts()
    assert (tuning.lr, tuning.temperature) == (training.lr, training.temperature)
    assert tuning.lr == 3e-4


def test_sweeps_take_recipes(asked):
    line = "sweep m.pt --data d --train-data t --methods svd -o runs --retrain-epochs 9,20"
    found = asked(f"{line} --recipe cifar10-resnet20 --lr 0.05")
    recipe = read_recipe("cifar10-resnet20")
    assert found == recipe.settings("retrain", epochs=20, lr=0.05)


def test_shells_complete_their_names(monkeypatch):
    monkeypatch.setenv("_ALDS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "alds retrain m.pt --recipe cifar10-re")
    monkeypatch.setenv("COMP_CWORD", "4")
    found = CliRunner().invoke(verbs.program(), [], prog_name="alds")
    assert found.stdout.split() == ["cifar10-resnet20"]


def test_wrong_recipes_end_the_command(run, tmp_path):
    code, out, err = run(*RETRAIN.split(), "--recipe", "resnet")
    assert (code, out) == (2, "")
    assert "there is no recipe 'resnet'" in err
    code, _, err = run(*RETRAIN.split(), "--recipe", own(tmp_path, "[training]\nepoch = 3\n"))
    assert code == 2
    assert "training.epochs is missing" in err
    code, _, err = run(*RETRAIN.split(), "--recipe", "cifar10-resnet20", "--epochs", 183)
    assert code == 2
    assert "183 epochs do not fit into a schedule of 182" in err
    assert not list(tmp_path.glob("o.pt*"))
