"""Every method on whole networks: the contract, what is reported, and what really runs."""

from __future__ import annotations

import copy
import json
import random
import re
from fractions import Fraction

import pytest
import torch
from pages import ROOT, blocks_of
from recounting import recounted_macs
from safetensors.torch import save_file
from small_networks import digits_network
from torch import nn

import alds_cli
from alds_cli import api
from alds_cli.architectures import build
from alds_cli.compression.factorise import carry_out
from alds_cli.errors import OptionError, PlanError
from alds_cli.methods import METHODS
from alds_cli.profiling import TrueErrors, error_tables
from alds_cli.records import Architecture, Choice, Plan
from alds_cli.surgery import dense_state, find_layers, weight_at
from alds_cli.tracing.trace import trace

CASES = [
    (name, ("0.2", ".pt") if number % 2 else ("0.5", ".safetensors"))
    for number, name in enumerate(METHODS)
]
"""Every method with a ratio and a kind of file, which take turns."""

PAIRS = tuple(name for name, method in METHODS.items() if method.plan is not None)


def write_images(path, count, size, classes, *, seed=0, grey=False):
    """Noise that is smooth enough for a layer to respond to."""
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if grey else 3
    coarse = torch.rand(count, channels, 8, 8, generator=generator)
    images = nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    pixels = (255 * images).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    labels = torch.randint(classes, (count,), generator=generator)
    save_file({"images": pixels, "labels": labels}, path)
    return f"tensors:{path}"


def options_of(method, data):
    """What a method needs beside a ratio."""
    return {"method": method, **({"data": data, "samples": 16} if METHODS[method].needs else {})}


@pytest.fixture
def grey(tmp_path):
    return write_images(tmp_path / "grey.safetensors", 40, 8, 10, grey=True)


def require_sound(path, original, report, ratio, shape):
    """An artefact that keeps the contract, and does what its report says."""
    module = alds_cli.load(path)
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count == report.params_after
    assert count <= (1 - Fraction(ratio)) * report.params_before
    assert recounted_macs(module, torch.randn(1, *shape)) == report.macs_after
    assert recounted_macs(original, torch.randn(1, *shape)) == report.macs_before
    assert path.stat().st_size == report.bytes_after
    with torch.no_grad():
        assert module(torch.randn(2, *shape)).isfinite().all()


@pytest.mark.parametrize(("method", "asked"), CASES)
def test_every_method_on_a_small_network(model, grey, tmp_path, method, asked):
    ratio, suffix = asked
    path = tmp_path / f"small{suffix}"
    options = options_of(method, grey)
    result = api.compress(model, ratio=ratio, output=path, **options)
    shape = result.network.input_shape
    require_sound(path, digits_network(), result.report, ratio, shape)
    quality = api.evaluate(path, grey, latency=False).model.quality
    assert quality.images == 40
    again = tmp_path / f"again{suffix}"
    api.compress(model, ratio=ratio, output=again, **options)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("method", METHODS)
def test_a_plan_carried_out_again_gives_the_same_network(model, grey, tmp_path, method):
    plan = tmp_path / "plan.json"
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    options = options_of(method, grey)
    api.compress(model, ratio="0.3", output=first, plan_output=plan, **options)
    options.pop("method")
    if method == "auto":  # its factors were made without the images on which methods are compared
        options["samples"] -= max(1, round(options["samples"] / 10))
    api.compress(model, plan=plan, output=second, **options)
    ours, theirs = (alds_cli.load(path).state_dict() for path in (first, second))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("method", METHODS)
def test_an_artefact_compressed_again_starts_from_the_dense_network(model, grey, tmp_path, method):
    path = tmp_path / "small.pt"
    api.compress(model, ratio="0.5", output=path, **options_of(method, grey))
    again = api.compress(path, ratio="0.1")
    assert again.report.params_before == sum(p.numel() for p in digits_network().parameters())
    inspected = api.inspect(path)
    assert inspected.params_before == again.report.params_before
    assert inspected.params == sum(p.numel() for p in alds_cli.load(path).parameters())


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("target", ["macs", pytest.param("bytes", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_plans_for_macs_and_bytes(model, grey, tmp_path, method, target):
    path = tmp_path / "small.pt"
    options = options_of(method, grey)
    report = api.compress(model, target=target, ratio="0.4", output=path, **options).report
    before, after = getattr(report, f"{target}_before"), getattr(report, f"{target}_after")
    assert after <= Fraction("0.6") * before
    assert report.bytes_after == path.stat().st_size


@pytest.mark.parametrize("method", ["messi", "ft", "pfp"])
def test_methods_that_know_no_times_refuse_a_latency(model, grey, tmp_path, method):
    path = tmp_path / "small.pt"
    for asked in ({"target": "latency"}, {"max_latency": "1s"}, {"never_slower": True}):
        with pytest.raises(OptionError, match="not for latency"):
            api.compress(model, ratio="0.1", output=path, **asked, **options_of(method, grey))
    assert not path.exists()


@pytest.mark.parametrize("method", ["alds-data", "balf", "pca", "pfp"])
def test_methods_that_look_at_images_ask_for_them(run, model, tmp_path, method):
    path = tmp_path / "small.pt"
    code, out, err = run("compress", model, "--method", method, "--ratio", "0.3", "-o", path)
    assert code == 2
    assert "--data" in err
    assert not out
    assert not path.exists()


def test_images_that_say_nothing_are_refused(run, model, tmp_path):
    path = tmp_path / "small.pt"
    code, _, err = run(
        "compress", model, "--method", "pca", "--ratio", "0.3", "-o", path,
        "--data", "tensors:nowhere.safetensors",
    )  # fmt: skip
    assert code == 2
    assert "nowhere.safetensors" in err
    assert not path.exists()


def test_a_plan_either_prunes_or_decomposes(model, tmp_path):
    plan = tmp_path / "plan.json"
    api.compress(model, ratio="0.3", method="ft", plan_output=plan, dry_run=True)
    content = json.loads(plan.read_text())
    name = next(iter(content["pruned"]))
    content["layers"][name] = {"scheme": 0, "k": 1, "j": 1}
    plan.write_text(json.dumps(content))
    with pytest.raises(OptionError, match="either prunes or decomposes"):
        api.compress(model, plan=plan, output=tmp_path / "small.pt")


@pytest.mark.parametrize("ranges", ["0-99999999999", "3-1", "x", "-1", "0,0", "5,2", 7, ["0"]])
def test_a_damaged_plan_of_pruning_is_refused(model, tmp_path, ranges):
    plan = tmp_path / "plan.json"
    api.compress(model, ratio="0.3", method="ft", plan_output=plan, dry_run=True)
    content = json.loads(plan.read_text())
    content["pruned"][next(iter(content["pruned"]))] = {"outputs": ranges}
    plan.write_text(json.dumps(content))
    with pytest.raises(PlanError):
        api.compress(model, plan=plan, output=tmp_path / "small.pt")


def test_the_options_of_methods_on_the_command_line(run, model, tmp_path):
    path = tmp_path / "small.pt"
    code, out, _ = run(
        "compress", model, "--method", "alds-simple", "--k", "4", "-r", "0.4", "-o", path, "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert (document["method"], document["arguments"]) == ("alds-simple", {"k": 4})
    assert {layer["k"] for layer in document["layers"] if not layer["kept"]} <= {1, 4}
    code, out, _ = run("inspect", path, "--json")
    assert json.loads(out)["arguments"] == {"k": 4}
    code, _, err = run(
        "compress", model, "--method", "messi", "--k", "2", "--method-arg", "k=3", "-r", "0.4",
        "-o", tmp_path / "twice.pt",
    )  # fmt: skip
    assert code == 2
    assert "given twice" in err


def test_the_command_prunes_shows_and_evaluates(run, model, tmp_path, grey):
    path = tmp_path / "small.pt"
    code, out, _ = run("compress", model, "--method", "ft", "--ratio", "0.4", "-o", path)
    assert code == 0
    assert "layers have fewer channels (ft)" in out
    code, out, _ = run("inspect", path)
    assert code == 0
    assert re.search(r"\d+ of \d+ filters", out)
    code, out, _ = run("evaluate", path, "--data", grey, "--no-latency", "--json")
    assert code == 0
    assert json.loads(out)["params"] < 0.6 * sum(p.numel() for p in digits_network().parameters())


class Large:
    """A network of the comparison, and images that suit it."""

    def __init__(self, name, shared, folder):
        self.name, self.shape = name, (3, 32, 32)
        if name.startswith("cifar"):
            self.path = shared / "weights" / f"{name.replace('cifar_', 'cifar10_')}.safetensors"
            self.data = f"tensors:{shared / 'data' / 'cifar10' / 'train-0.safetensors'}"
            held = write_images(folder / "held.safetensors", 32, 32, 10, seed=1)
        else:
            self.shape = (3, 224, 224)
            self.path = shared / "weights" / "imagenet_mobilenet_v2.safetensors"
            if name == "resnet18":
                torch.manual_seed(0)
                self.path = folder / "resnet18.pt"
                torch.save(build(Architecture("resnet18")).state_dict(), self.path)
            self.data = write_images(folder / "noise.safetensors", 32, 96, 1000)
            held = self.data
        self.held = held
        self.module = alds_cli.load(self.path)


@pytest.fixture(
    scope="module", params=["cifar_resnet20", "cifar_resnet56", "resnet18", "mobilenet_v2"]
)
def large(request, shared, tmp_path_factory):
    return Large(request.param, shared, tmp_path_factory.mktemp(request.param))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "asked"), CASES)
def test_every_method_on_the_networks_of_the_comparison(large, tmp_path, method, asked):
    if large.name == "resnet18" and method in {"auto", "alds-fisher"}:
        pytest.skip("alds-data shows the same on moments as large, the other networks the rest")
    ratio = asked[0]
    if large.name in {"cifar_resnet56", "resnet18"}:  # the other one of the same kind has this one
        ratio = {"0.2": "0.5", "0.5": "0.2"}[ratio]
    path = tmp_path / "small.safetensors"
    options = options_of(method, large.data)
    report = api.compress(large.path, ratio=ratio, output=path, **options).report
    require_sound(path, copy.deepcopy(large.module), report, ratio, large.shape)
    assert api.evaluate(path, large.held, latency=False).model.quality.images == 32


def test_the_own_method_that_the_pages_show(model, tmp_path, monkeypatch):
    blocks = blocks_of(ROOT / "docs" / "methods.md")
    code = next(block.text for block in blocks if block.marks.get("file") == "mine.py")
    assert len(code.splitlines()) <= 20
    name = f"shown_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    report = api.compress(model, ratio="0.5", method=f"{name}:alike", method_args={"k": 4}).report
    assert report.ratio >= 0.5
    assert {layer.choice.k for layer in report.layers if layer.choice} == {4}


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("draw", range(6))
def test_the_errors_tabled_for_a_real_network_are_those_of_its_layers(shared, draw):
    """A random option for every layer of a ResNet20 in float32, of all schemes."""
    module = alds_cli.load(shared / "weights" / "cifar10_resnet20.safetensors")
    specs = find_layers(module, trace(module, (3, 32, 32)))
    tables, _ = error_tables(module, specs, schemes=(0, 1, 2, 3), cache=False)
    generator = random.Random(draw)
    rows = {name: generator.randrange(len(own.costs)) for name, own in tables.layers.items()}
    choices = {
        name: Choice(*map(int, tables.layers[name].choices[row])) for name, row in rows.items()
    }
    exact = TrueErrors(module, tables)(list(choices.items()))
    made = copy.deepcopy(module)
    reports = carry_out(made, specs, tables, Plan(choices))
    dense = dense_state(module, made.state_dict(), choices)
    for report, true in zip(reports, exact, strict=True):
        table, row = tables.layers[report.name], rows[report.name]
        weight = weight_at(module, report.name).double()
        missing = weight - dense[f"{report.name}.weight"].double()
        norms = [torch.linalg.matrix_norm(own.flatten(1), 2) for own in (missing, weight)]
        operators = float(norms[0] / norms[1])
        assert report.error == pytest.approx(operators, abs=2e-6)
        assert report.error <= report.error_bound + 2e-6
        if report.choice.scheme == 0:
            assert operators == pytest.approx(true, abs=2e-6)
        lost = float(missing.square().sum() / weight.square().sum())
        tabled = table.tail_energy[row] / table.energies[report.choice.scheme]
        assert lost == pytest.approx(tabled, rel=1e-4, abs=1e-10)
