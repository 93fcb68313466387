"""`alds compare`: sizes, errors and differences of models, and what may be chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_networks import digits_network

from alds_cli import api
from alds_cli.cli.comparison_table import comparison
from alds_cli.cli.interface import PlainConsole
from alds_cli.evaluation import models as judging
from alds_cli.evaluation.image_answers import answers_of
from alds_cli.inspecting import comparison as comparing
from alds_cli.inspecting.layer_errors import layer_errors

DIGITS = api.Source("digits_cnn")


@pytest.fixture
def models(digits, tmp_path, run):
    paths = [digits / "model.pt"]
    for ratio in ("0.3", "0.6"):
        paths.append(tmp_path / f"{ratio}.pt")
        assert run("compress", paths[0], "-r", ratio, "-o", paths[-1])[0] == 0
    return paths


def test_sizes_and_errors_are_those_of_the_compressions(models, run):
    code, out, err = run("compare", *models, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["images"] is None
    first, *others = told["models"]
    assert first["max_relative_error"] == 0
    assert first["method"] is None
    for path, own in zip(models[1:], others, strict=True):
        seen = api.inspect(path)
        again = api.compress(models[0], ratio=float(path.stem)).report
        assert own["method"] == "alds"
        assert (own["params"], own["macs"]) == (seen.params, seen.macs)
        assert own["bytes"] == path.stat().st_size
        assert own["max_relative_error"] == pytest.approx(again.max_relative_error, rel=1e-4)
        assert own["latency"] is own["top1"] is own["comparison"] is None


def test_errors_are_spectral_norms():
    original, other = digits_network(0), digits_network(1)
    found = layer_errors(original, other)
    layers = {name: own for name, own in original.named_modules() if hasattr(own, "in_channels")}
    assert layers.keys() < found.keys()
    for name in layers:
        one, two = (
            own.get_submodule(name).weight.detach().double().flatten(1).numpy()
            for own in (original, other)
        )
        expected = np.linalg.norm(one - two, 2) / np.linalg.norm(one, 2)
        assert found[name] == pytest.approx(expected, rel=1e-6)


def test_layers_of_other_shapes_have_no_errors():
    one = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 5))
    assert layer_errors(one, one) == {"0": 0, "1": 0}
    assert layer_errors(one, other).keys() == {"0"}


@pytest.mark.parametrize(
    ("ratios", "shown"),
    [
        (np.linspace(1.2, 1.3, 40), True),
        (np.linspace(0.6, 0.8, 40), True),
        (np.linspace(0.8, 1.25, 40), False),
        (np.r_[np.full(17, 0.9), np.full(23, 1.1)], False),
    ],
)
def test_times_differ_only_where_that_is_shown(ratios, shown):
    reference = np.random.default_rng(0).uniform(1, 5, len(ratios))
    found = comparing._ratio(ratios * reference, reference)
    assert found.low <= found.median <= found.high
    assert found.shown == shown


@pytest.fixture
def quick(monkeypatch):
    """Replace measuring: the first takes a second, every other one twice as long as the last."""
    asked = []

    def times(modules, *_, **__):
        asked.append(list(modules.values()))
        return {name: np.full(20, 2.0**number) for number, name in enumerate(modules)}

    monkeypatch.setattr(comparing, "time_networks", times)
    return asked


def test_every_model_answers_once(models, digits, quick, monkeypatch):
    asked = []

    def counting(module, *arguments):
        asked.append(module)
        return answers_of(module, *arguments)

    monkeypatch.setattr(judging, "answers_of", counting)
    api.compare(models, data=f"tensors:{digits / 'data.safetensors'}", device="cpu")
    assert len(asked) == len({*asked}) == len(models)
    assert len(quick) == 1


def test_all_are_judged_beside_the_first(models, digits, quick, run):
    data = f"tensors:{digits / 'data.safetensors'}"
    code, out, err = run("compare", *models, "--data", data, "--json", "--device", "cpu")
    assert code == 0, err
    told = json.loads(out)
    assert told["images"] == 64
    assert len(quick) == 1
    assert [own["latency"]["median_ms"] for own in told["models"]] == [1000, 2000, 4000]
    assert [own["slowdown"] for own in told["models"][1:]] == [
        {"median": ratio, "low": ratio, "high": ratio} for ratio in (2, 4)
    ]
    for path, own in zip(models[1:], told["models"][1:], strict=True):
        expected = api.evaluate(path, data, baseline=models[0], latency=False)
        assert own["top1"] == expected.model.quality.top1
        assert own["comparison"]["difference"] == expected.comparison.difference
    assert told["models"][0]["comparison"] is told["models"][0]["slowdown"] is None


@pytest.mark.usefixtures("quick")
def test_a_network_beside_itself_is_no_different(digits, run):
    model, data = digits / "model.pt", f"tensors:{digits / 'data.safetensors'}"
    code, out, err = run("compare", model, model, "--data", data, "--device", "cpu")
    assert code == 0, err
    assert "≈ +0.00" in out
    assert "×2.00" in out
    assert "≈ ×" not in out


@pytest.mark.parametrize(
    ("given", "said"),
    [(["{}"], "nothing to compare"), (["-", "-"], "standard input"), (["{}", "no.pt"], "no.pt")],
)
def test_refusals(given, said, digits, run):
    code, out, err = run("compare", *(own.format(digits / "model.pt") for own in given))
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("width", [60, 80, 160])
def test_nothing_is_cut_off_at_any_width(width, tmp_path):
    network = digits_network()
    found = api.compare([network, network], DIGITS)
    with (tmp_path / "out").open("w+", encoding="utf-8") as file:
        PlainConsole(file, width).print(comparison(found), crop=False)
        file.seek(0)
        text = file.read()
    assert max(map(len, text.splitlines())) <= width
    assert text.count(f"{found.models[0].params:,}") == 2
