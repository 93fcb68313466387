"""What the runs of a sweep record, and which sweeps go on in which folders."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alds_cli import api
from alds_cli.calibration import observing
from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.compression import traced_model
from alds_cli.datasets import Batches, open_dataset
from alds_cli.errors import (
    AldsError,
    ArchitectureError,
    DataError,
    OptionError,
    PlanError,
    RunFolderError,
)
from alds_cli.records import Preprocessing
from alds_cli.retraining import RetrainSettings
from alds_cli.sweeping import runs

RETRAINING = RetrainSettings(epochs=7, batch_size=32, augmentation="none", seed=9)


@pytest.fixture
def sweep(digits, tmp_path):
    """A sweep of the small network into the test's folder, unless told otherwise."""

    def call(**changes):
        data = f"tensors:{digits / 'data.safetensors'}"
        usual = {
            "model": digits / "model.pt",
            "data": data,
            "methods": ["alds"],
            "ratios": ["0.5"],
            "repeats": 1,
            "output": tmp_path / "run",
        }
        return api.sweep(**{**usual, **changes})

    return call


@pytest.fixture
def training(digits):
    """The spec of images to learn from."""
    return f"tensors:{digits / 'data.safetensors'}"


def by_key(result):
    return {RunKey.of(record): record for record in result.records}


# ---------------------------------------------------------------- what a run records


def test_a_run_is_what_compress_and_evaluate_make(sweep, digits, training, tmp_path):
    result = sweep(methods=["alds:solver=knapsack:bound=frobenius"], keep_artefacts=True)
    (record,) = result.records
    path = tmp_path / "small.pt"
    report = api.compress(
        digits / "model.pt", ratio=0.5, output=path, solver="knapsack", bound="frobenius"
    ).report
    measured = api.evaluate(path, training, latency=False).model
    assert record.method == "alds:bound=frobenius:solver=knapsack"
    assert record.quality == measured.quality
    assert (record.params, record.macs) == (report.params_after, report.macs_after)
    assert record.bytes == path.stat().st_size
    assert tuple(record.layers) == tuple(report.layers)
    assert (record.latency, record.latency_before) == (None, None)
    (kept,) = (result.folder / "artefacts").iterdir()
    assert kept.read_bytes() == path.read_bytes()


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Hide a GPU, on which training is not repeatable to the bit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("on_the_cpu")
def test_pairs_are_fitted_again_and_tuned_on_images_without_labels(sweep, digits, tmp_path):
    images = load_file(digits / "data.safetensors")["images"][:60].contiguous()
    save_file({"images": images}, tmp_path / "unlabelled.safetensors")
    unlabelled = f"tensors:{tmp_path / 'unlabelled.safetensors'}"
    words = ["alds", "alds:refit=1", "alds-data:tune_steps=2:refit=1"]
    usual = {"ratios": ["0.6"], "train_data": unlabelled, "samples": 40}
    result = sweep(methods=words, repeats=2, **usual)
    assert sorted((record.method, record.repeat) for record in result.records) == [
        ("alds", 0),
        ("alds-data:refit=1:tune_steps=2", 0),
        ("alds-data:refit=1:tune_steps=2", 1),
        ("alds:refit=1", 0),
        ("alds:refit=1", 1),
    ]
    for method, asked in (
        ("alds:refit=1", {"method": "alds", "refit": True}),
        (
            "alds-data:refit=1:tune_steps=2",
            {"method": "alds-data", "refit": True, "tune_steps": 2},
        ),
    ):
        made = api.compress(
            digits / "model.pt", ratio=0.6, data=unlabelled, samples=40, seed=1, **asked
        )
        record = by_key(result)[RunKey(method, "0.6", 1, 0)]
        assert tuple(record.layers) == tuple(made.report.layers)
    with pytest.raises(DataError, match="has no labels"):
        sweep(methods=["alds"], output=tmp_path / "other", retrain_epochs=(1,), **usual)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ft:refit=1", "removes filters"),
        ("pfp:tune_steps=3", "removes filters"),
        ("alds:refit=2", "refit is a whole number from 0 to 1"),
        ("alds:refit=yes", "refit is a whole number"),
        ("alds:tune_steps=-1", "tune_steps is a whole number"),
        ("alds:tune_steps=1.5", "tune_steps is a whole number"),
    ],
)
def test_words_that_cannot_be_carried_out_are_refused(sweep, training, word, message):
    with pytest.raises(OptionError, match=message):
        sweep(methods=[word], train_data=training)


def test_refitting_needs_images_to_learn_from(sweep):
    with pytest.raises(OptionError, match="alds:refit=1 needs images to learn from"):
        sweep(methods=["alds:refit=1"])


@pytest.mark.slow
@pytest.mark.usefixtures("on_the_cpu")
def test_retraining_starts_from_the_compressed_network(sweep, digits, training):
    result = sweep(repeats=2, retrain_epochs=(0, 2, 1), retraining=RETRAINING, train_data=training)
    keys = [(record.retrain_epochs, record.repeat) for record in result.records]
    assert keys == [(0, 0), (2, 0), (2, 1), (1, 0), (1, 1)]
    small = api.compress(digits / "model.pt", ratio=0.5, seed=1).network
    settings = RetrainSettings(epochs=2, batch_size=32, augmentation="none", seed=1)
    trained = api.retrain(small, training, settings).network
    record = by_key(result)[RunKey("alds", "0.5", 1, 2)]
    assert record.seed == 1
    assert record.quality == api.evaluate(trained, training, latency=False).model.quality
    assert record.quality != by_key(result)[RunKey("alds", "0.5", 0, 2)].quality
    assert set(record.seconds) == {"compress", "retrain", "evaluate"}


def test_the_baseline_is_the_network_as_it_is(sweep, digits, training):
    base = sweep().baseline
    measured = api.evaluate(digits / "model.pt", training, latency=False).model
    assert base.quality == measured.quality
    assert (base.params, base.macs) == (measured.footprint.params, measured.footprint.macs)
    assert (base.model, base.architecture, base.data) == ("model.pt", "digits_cnn", training)


def test_what_is_out_of_reach_is_a_record_too(sweep):
    result = sweep(ratios=[0.5, "0.9999", "1/3"])
    reached = {record.ratio: record for record in result.records}
    assert list(reached) == ["0.5", "0.9999", "1/3"]
    assert result.unreachable == 1
    missed = reached["0.9999"]
    assert not missed.reached
    assert "cannot be reached" in missed.reason
    assert (missed.params, missed.quality, missed.layers) == (None, None, ())
    assert reached["0.5"].reached
    assert reached["1/3"].params * 3 <= 2 * result.baseline.params


@pytest.mark.usefixtures("on_the_cpu")
def test_networks_are_timed_in_turns_with_the_original(sweep, monkeypatch):
    real, seen = runs.measure_latency, []

    def measured(modules, shape, **options):
        seen.append((list(modules), shape))
        return real(modules, shape, runs=5, **options)

    monkeypatch.setattr("alds_cli.sweeping.runs.measure_latency", measured)
    result = sweep(latency=True)
    assert seen == 2 * [(["network", "original"], (1, 8, 8))]
    (record,) = RunFolder(result.folder).records()
    for latency in (record.latency, record.latency_before, result.baseline.latency):
        assert 0 < latency.lower_quartile_ms <= latency.median_ms <= latency.upper_quartile_ms
        assert (latency.device, latency.runs) == ("cpu", 5)
    assert "time" in record.seconds


def test_a_module_of_unknown_architecture_has_no_artefact(sweep, tmp_path):
    torch.manual_seed(0)
    linear = torch.nn.Linear
    own = {
        "model": torch.nn.Sequential(torch.nn.Flatten(), linear(64, 32), linear(32, 10)),
        "source": api.Source(input_shape=(1, 8, 8)),
        "preprocessing": Preprocessing((0.5,), (0.5,)),
    }
    with pytest.raises(ArchitectureError, match="because it could not be loaded"):
        sweep(**own, keep_artefacts=True)
    assert list(tmp_path.iterdir()) == []
    result = sweep(**own)
    assert (result.baseline.architecture, result.baseline.bytes) == ("unknown", None)
    assert (result.records[0].reached, result.records[0].bytes) == (True, None)


def test_image_files_are_known_again_by_what_they_show(tmp_path):
    def fingerprint(name, files):
        for file, colour in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), colour).save(path)
        images = open_dataset(f"imagefolder:{tmp_path / name}")
        return runs.image_fingerprint(images)

    first = {"a/1.png": (9, 0, 0), "b/2.png": (0, 9, 0)}
    expected = fingerprint("first", first)
    assert expected["images"] == 2
    assert fingerprint("moved", first) == expected
    assert fingerprint("recoloured", {**first, "b/2.png": (0, 9, 1)}) != expected
    assert fingerprint("relabelled", {"a/1.png": (9, 0, 0), "a/2.png": (0, 9, 0)}) != expected
    assert fingerprint("more", {**first, "b/3.png": (0, 9, 0)}) != expected


# ---------------------------------------------------------------- going on


def test_finished_runs_are_not_made_again(sweep):
    first = sweep(ratios=["0.3", "0.5"])
    files = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.json")}
    again = sweep(ratios=["0.5", "0.30"])
    assert (first.made, again.made) == (2, 0)
    assert by_key(again) == by_key(first)
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.json")} == files


def test_a_folder_takes_more_of_everything(sweep, training):
    sweep()
    more = sweep(
        methods=["alds", "alds:solver=alternating"],
        ratios=["0.5", "0.9999"],
        repeats=2,
        retrain_epochs=(0, 1),
        retraining=RETRAINING,
        train_data=training,
    )
    # Two ratios: one run without retraining, two where something is random.
    assert len(more.records) == 2 * (1 + 2) + 2 * 2 * 2
    assert more.made == len(more.records) - 1
    assert sweep(repeats=9).made == 0
    assert len(RunFolder(more.folder).records()) == len(more.records)


def test_the_same_images_may_lie_elsewhere(sweep, digits, tmp_path):
    sweep()
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((digits / "data.safetensors").read_bytes())
    assert sweep(data=f"tensors:{moved}").made == 0


@pytest.fixture
def other_model(tmp_path):
    path = tmp_path / "other.pt"
    state = torch.load(str(tmp_path / "model.pt"), weights_only=True)
    state[next(iter(state))] += 1
    torch.save(state, path)
    return path


def test_other_settings_need_another_folder(sweep, training):
    known = {"train_data": training, "retrain_epochs": (0, 1)}
    folder = sweep(preprocessing=Preprocessing((0.0,), (1.0,)), **known).folder
    files = {path: path.read_bytes() for path in folder.rglob("*.json")}
    for change, message in (
        ({"target": "macs"}, "target params, not macs"),
        ({"latency": True}, "latency False, not True"),
        ({"preprocessing": Preprocessing((0.25,), (0.5,))}, r"preprocessing.mean \[0.0\], not"),
        ({"retraining": RetrainSettings(epochs=1, lr=0.5)}, "retraining.lr 0.01, not 0.5"),
        ({"teacher": "original"}, "teacher labels, not original"),
    ):
        with pytest.raises(OptionError, match="was begun differently: .*" + message):
            sweep(**{"preprocessing": Preprocessing((0.0,), (1.0,)), **known, **change})
        assert {path: path.read_bytes() for path in folder.rglob("*.json")} == files


@pytest.mark.usefixtures("on_the_cpu")
def test_the_original_teaches_where_it_is_asked_to(sweep, digits, tmp_path):
    images = load_file(digits / "data.safetensors")["images"]
    save_file({"images": images}, tmp_path / "unlabelled.safetensors")
    unlabelled = f"tensors:{tmp_path / 'unlabelled.safetensors'}"
    retraining = RetrainSettings(epochs=1, batch_size=32)
    usual = {"train_data": unlabelled, "retrain_epochs": (1,), "retraining": retraining}
    result = sweep(**usual, teacher="original", keep_artefacts=True)
    small = tmp_path / "small.pt"
    api.compress(digits / "model.pt", ratio=0.5, output=small)
    better = api.retrain(
        small, unlabelled, retraining, teacher=digits / "model.pt", output=tmp_path / "better.pt"
    )
    (kept,) = (result.folder / "artefacts").iterdir()
    assert kept.read_bytes() == (tmp_path / "better.pt").read_bytes()
    assert better.network.training.teacher is not None
    with pytest.raises(DataError, match="no labels"):
        sweep(**usual, output=tmp_path / "another")


def test_another_network_needs_another_folder(sweep, model, other_model):
    sweep(model=model)
    with pytest.raises(OptionError, match=r"weights [0-9a-f]{12}…, not [0-9a-f]{12}…"):
        sweep(model=other_model)


def test_a_damaged_record_is_found_before_the_work(sweep, monkeypatch):
    folder = sweep(ratios=["0.3", "0.5"]).folder
    (folder / "records" / "alds-0.3-e0-r0.json").unlink()
    (folder / "records" / "alds-0.5-e0-r0.json").write_text("{}")
    monkeypatch.setattr("alds_cli.sweeping.runs.compress_networks", pytest.fail)
    with pytest.raises(RunFolderError, match=r"alds-0\.5-e0-r0\.json is damaged"):
        sweep(ratios=["0.3", "0.5"])


def test_an_error_names_its_run_and_keeps_the_others(sweep, monkeypatch):
    real = runs.compress_networks

    def fails_at_half(options):
        if options.ratio == 0.5:
            raise PlanError("it does not fit", tip="try another")
        return real(options)

    monkeypatch.setattr("alds_cli.sweeping.runs.compress_networks", fails_at_half)
    with pytest.raises(PlanError) as caught:
        sweep(ratios=["0.3", "0.5"])
    assert caught.value.message == "alds at ratio 0.5: it does not fit"
    assert caught.value.tip == "try another"
    monkeypatch.undo()
    assert sweep(ratios=["0.3", "0.5"]).made == 1


# ---------------------------------------------------------------- what cannot begin

_METHODS = """
from alds_cli.calibration import RESPONSES
from alds_cli.methods import Method
from alds_cli.records import Plan

def nothing(problem):
    return Plan({})

looking = Method("looks", "none", nothing, needs=(RESPONSES,))
thrifty = Method("params only", "none", nothing, targets=("params",))
"""


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": ["alds", "svdd"]}, OptionError, "unknown method 'svdd'"),
        ({"methods": []}, OptionError, "at least one method"),
        ({"methods": ["svd", "svd"]}, OptionError, "the method svd is given twice"),
        ({"methods": ["alds-simple:k=2:k=3"]}, OptionError, "alds-simple: k is given twice"),
        ({"methods": ["alds-simple:m=2"]}, OptionError, "no argument 'm'"),
        ({"methods": ["alds:solver=magic"]}, OptionError, "unknown solver 'magic'"),
        ({"methods": ["alds:solver=3"]}, OptionError, "solver is a name, not 3"),
        ({"methods": ["alds:bound=magic"]}, OptionError, "unknown bound 'magic'"),
        (
            {"methods": ["contestants:thrifty"], "target": "macs"},
            OptionError,
            "plans for params, not",
        ),
        (
            {"methods": ["alds", "contestants:looking"]},
            OptionError,
            "contestants:looking needs images",
        ),
        ({"retrain_epochs": (0, 1)}, OptionError, "retraining needs images"),
        ({"ratios": ["1.5"]}, OptionError, "between 0 and 1, not 1.5"),
        ({"ratios": []}, OptionError, "at least one ratio"),
        ({"target": "beauty"}, OptionError, "unknown target 'beauty'"),
        ({"device": "abacus"}, OptionError, "abacus"),
        ({"data": "tensors:none.safetensors"}, DataError, "there is no file"),
        ({"model": "none.pt"}, AldsError, "none.pt"),
        ({"train_data": "tensors:none", "retrain_epochs": [1]}, DataError, "there is no file"),
        (
            {
                "train_data": "tensors:none",
                "retrain_epochs": [1],
                "retraining": RetrainSettings(epochs=3, warmup_epochs=2),
            },
            OptionError,
            "does not fit into 1",
        ),
    ],
)
def test_what_cannot_begin_leaves_nothing(sweep, tmp_path, monkeypatch, change, error, message):
    (tmp_path / "contestants.py").write_text(_METHODS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        sweep(**change)
    assert not (tmp_path / "run").exists()


def test_images_that_do_not_fit_leave_nothing(sweep, tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise DataError("label 11 is outside the network's 10 classes")

    monkeypatch.setattr("alds_cli.sweeping.runs.evaluate", refuses)
    with pytest.raises(DataError, match="outside"):
        sweep()
    assert list(tmp_path.iterdir()) == []


def test_methods_that_look_at_images_are_handed_some(sweep, training, tmp_path, monkeypatch):
    (tmp_path / "contestants.py").write_text(_METHODS)
    monkeypatch.chdir(tmp_path)
    asked = []

    def looks(options):
        asked.append((options.method, options.data, options.samples, options.seed))
        return real(replace(options, method="alds", data=None))

    real = runs.compress_networks
    monkeypatch.setattr("alds_cli.sweeping.runs.compress_networks", looks)
    result = sweep(
        methods=["alds", "contestants:looking"], repeats=2, train_data=training, samples=20
    )
    assert [(name, data is not None, count, seed) for name, data, count, seed in asked] == [
        ("alds", False, 20, 0),
        ("contestants:looking", True, 20, 0),
        ("contestants:looking", True, 20, 1),  # the images are drawn by the seed
    ]
    assert json.loads((result.folder / "sweep.json").read_text())["settings"]["samples"] == 20
    with pytest.raises(OptionError, match="samples 20, not 30"):
        sweep(methods=["contestants:looking"], train_data=training, samples=30)


@pytest.mark.slow
def test_images_are_run_once_for_all_methods_that_need_the_same(sweep, training, monkeypatch):
    asked = []
    real = observing.calibration_batches

    def opened(*args, **named):
        made = real(*args, **named)
        asked.append(Counted(made))
        return asked[-1]

    class Counted(Batches):
        passes = 0

        def __init__(self, made):
            vars(self).update(vars(made))

        def __iter__(self):
            Counted.passes += 1
            return super().__iter__()

    monkeypatch.setattr(traced_model, "calibration_batches", opened)
    methods = ["alds-data", "balf", "pca"]
    sweep(methods=methods, ratios=["0.2", "0.3"], train_data=training, samples=20)
    assert len(asked) == 6
    assert Counted.passes == 2  # of inputs and of outputs
    sweep(
        methods=["alds-data:solver=exact", "balf"],
        ratios=["0.2"],
        repeats=2,
        train_data=training,
        samples=20,
    )
    assert Counted.passes == 3  # of another sample
