"""Forms in which a network gives the same answers faster."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

import alds_cli
from alds_cli import api
from alds_cli.architectures import build
from alds_cli.errors import PlanError
from alds_cli.inputs import InputSpec
from alds_cli.latency import fastest_form
from alds_cli.latency.fastest_form import _ways
from alds_cli.numerics.fold import distinct_schemes
from alds_cli.records import Architecture, Choice, Inference
from alds_cli.runtime import devices
from alds_cli.surgery import detach_computed, make_pair, put_at
from alds_cli.surgery.inference_form import (
    can_vary,
    foldable_norms,
    put_into_inference_form,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Take little time to measure: which form is found does not matter here."""
    monkeypatch.setattr(devices, "_SECONDS_PER_NETWORK", 0.001)
    monkeypatch.setattr(devices, "_RUNS", (2, 3))
    monkeypatch.setattr(fastest_form, "_SECONDS_PER_PAIR", 0.001)
    monkeypatch.setattr(fastest_form, "_ROUNDS", (2, 3))


def filled(module):
    """Give a module random tensors in float64, variances positive."""
    generator = torch.Generator().manual_seed(0)
    module = module.to_empty(device="cpu").double()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(drawn.abs() + 0.1 if name.endswith("var") else drawn)
    return module.eval()


def same(one, other, inputs):
    with torch.no_grad():
        expected, found = one(inputs), other(inputs)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- pairs

AXES = st.integers(1, 3)


@st.composite
def layers(draw):
    """A convolution of any geometry, and a choice for it."""
    dimensions, groups, k = draw(AXES), draw(st.sampled_from([1, 2])), draw(st.integers(1, 4))

    def each(values):
        return tuple(draw(values) for _ in range(dimensions))

    kernel = each(st.sampled_from([1, 2, 3]))
    family = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    mode = draw(st.sampled_from(["zeros", "circular", "replicate"]))
    layer = family(
        groups * k * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 4)),
        kernel,
        stride=each(st.integers(1, 2)),
        padding=each(st.integers(0, 2)),
        dilation=each(st.integers(1, 2)),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
        device="meta",
    )
    scheme = draw(st.sampled_from(distinct_schemes(kernel)))
    return layer, Choice(scheme, k, draw(st.integers(1, 3)))


@settings(deadline=None, max_examples=60)
@given(layers())
def test_every_way_to_run_a_pair_gives_the_same(case):
    layer, choice = case
    pair = filled(make_pair(layer, choice))
    assume(can_vary(pair))
    inputs = torch.randn(2, layer.in_channels, *[7] * len(layer.kernel_size), dtype=torch.float64)
    ways = dict(_ways(pair))
    groups = pair.first.groups
    merges = {number for kind, number in ways if kind == "merged"}
    assert merges == {n for n in range(2, groups + 1) if groups % n == 0}
    ranks = {number for kind, number in ways if kind == "padded"}
    assert ranks == {4, 8, 16, 32} - {choice.j}
    assert tuple(ways["multiplied", 0].weight.shape) == tuple(layer.weight.shape)
    for way in ways.values():
        same(pair, way, inputs)


def test_linear_pairs_run_as_one_layer():
    pair = filled(make_pair(nn.Linear(12, 9, device="meta"), Choice(0, 1, 3)))
    for way in dict(_ways(pair)).values():
        same(pair, way, torch.randn(4, 5, 12, dtype=torch.float64))


@pytest.mark.parametrize("k", [2, 3, 4, 6])
def test_linear_pairs_of_slices_run_in_every_way(k):
    pair = filled(make_pair(nn.Linear(12, 9, device="meta"), Choice(0, k, 3)))
    ways = dict(_ways(pair))
    merges = {number for kind, number in ways if kind == "merged"}
    assert merges == {n for n in range(2, k + 1) if k % n == 0}
    assert type(ways["merged", k][0]) is nn.Linear
    assert ways["multiplied", 0].weight.shape == (9, 12)
    assert {number for kind, number in ways if kind == "padded"} == {4, 8, 16, 32}
    for way in ways.values():
        same(pair, way, torch.randn(4, 5, 12, dtype=torch.float64))


def test_what_is_no_pair_of_two_layers_stays():
    clustered = make_pair(nn.Conv2d(8, 8, 3, device="meta"), Choice(4, 2, 2))
    table = make_pair(nn.Embedding(9, 12, device="meta"), Choice(0, 1, 2))
    for pair in (clustered, table, nn.ReLU(), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))):
        assert not can_vary(pair)


# ---------------------------------------------------------------- normalisations


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_folded_normalisations_give_the_same(dimensions, affine, bias):
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    network = filled(
        nn.Sequential(convolution(4, 6, 3, bias=bias, groups=2), norm(6, affine=affine), nn.ReLU())
    )
    folded = foldable_norms(network)
    assert folded == {"1": "0"}
    fast = put_into_inference_form(copy.deepcopy(network), Inference(folded))
    assert isinstance(fast[1], nn.Identity)
    same(network, fast, torch.randn(2, 4, *[8] * dimensions, dtype=torch.float64))


class PreActivated(nn.Module):
    """The first convolution's output is used beside the normalisation, too."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.second, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.second(self.norm(x).relu())) + x


class Twice(nn.Module):
    """One normalisation follows two convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.second(self.norm(self.first(x))))


def test_only_what_nothing_else_reads_is_folded():
    assert foldable_norms(filled(PreActivated())) == {"last": "second"}
    assert foldable_norms(filled(Twice())) == {}
    untracked = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert foldable_norms(untracked) == {}
    hooked = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    hooked[0].register_forward_hook(lambda _module, _given, made: made + 1)
    assert foldable_norms(hooked) == {}


@pytest.mark.parametrize(
    "form",
    [
        Inference({"bn9": "conv1"}),
        Inference({"conv1": "bn1"}),
        Inference({"bn1": "layer3.0.conv1"}),
        Inference(merged={"conv1": 2}),
        Inference(merged={"layer1.0.conv1": 5}),
        Inference(padded={"layer1.0.conv1": 1}),
        Inference(multiplied=["linear"]),
    ],
)
def test_lists_that_do_not_fit_are_refused(form):
    network = build(Architecture("cifar_resnet20"))
    network.layer1[0].conv1 = filled(make_pair(network.layer1[0].conv1, Choice(0, 4, 2))).float()
    with pytest.raises(PlanError):
        put_into_inference_form(network, form)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_densenet22", "digits_cnn"])
def test_networks_give_the_same_in_their_fastest_form(name):
    torch.manual_seed(0)
    network = filled(build(Architecture(name)))
    shape = (1, 8, 8) if name == "digits_cnn" else (3, 32, 32)
    found = fastest_form.fastest_form(network, InputSpec.of_sample(shape), batch_size=2, device=CPU)
    assert found.before.runs == found.after.runs
    forms = [found.inference, Inference(foldable_norms(network), channels_last=True)]
    for form in forms:
        same(network, fastest_form.in_form(network, form), torch.randn(2, *shape).double())


class Viewing(nn.Module):
    """Its code needs contiguous activations."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.layer(x)
        return x.view(len(x), -1)


def test_networks_that_need_contiguous_activations_stay_so():
    found = fastest_form.fastest_form(
        filled(Viewing()).float(), InputSpec.of_sample((3, 8, 8)), device=CPU
    )
    assert not found.inference.channels_last


def test_a_network_is_also_timed_with_its_layers_in_the_place_of_pairs(monkeypatch):
    """So none is slower than the network that it was made from, whatever its pairs take alone."""
    torch.manual_seed(0)
    network = build(Architecture("digits_cnn")).eval()
    pairs = []
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.in_channels > 1:
            put_at(network, name, filled(make_pair(layer, Choice(0, 1, 2))).float())
            pairs.append(name)
    assert pairs

    timed = []

    def layers_are_fastest(_, forms):
        timed.append([form for name, form in forms.items() if name != "as it is"])
        whole = [name for name, form in forms.items() if list(form.multiplied) == pairs]
        return (whole or list(forms))[0], {name: np.ones(3) for name in forms}

    monkeypatch.setattr(fastest_form._Search, "fastest", layers_are_fastest)
    found = fastest_form.fastest_form(
        network, InputSpec.of_sample((1, 8, 8)), pairs=pairs, device=CPU
    )
    assert list(found.inference.multiplied) == pairs
    layouts, _, again = timed
    assert [form.packed for form in again] == [form.packed for form in layouts]
    assert all(list(form.multiplied) == pairs for form in again)
    made = fastest_form.in_form(network, found.inference)
    assert all(type(made.get_submodule(name)) is nn.Conv2d for name in pairs)


@pytest.fixture
def small(digits, tmp_path, monkeypatch):
    """An artefact; the last form that is tried counts as the fastest, whatever the times are."""
    monkeypatch.setattr(
        fastest_form._Search,
        "fastest",
        lambda _, forms: (list(forms)[-1], {name: np.ones(3) for name in forms}),
    )
    path = tmp_path / "small.safetensors"
    api.compress(digits / "model.pt", ratio=0.4, output=path)
    return path


def test_the_command_writes_the_plain_network_and_a_list(run, small, tmp_path):
    fast = tmp_path / "fast.safetensors"
    code, out, err = run("optimize", small, "-o", fast, "--device", "cpu", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["latency_before"]["batch_size"] == 1
    assert told["difference"] < 1e-12
    plain, listed = load_file(small), load_file(fast)
    assert plain.keys() == listed.keys()
    assert all(torch.equal(plain[name], listed[name]) for name in plain)
    with safe_open(fast, "pt") as file:
        document = json.loads(file.metadata()["alds"])
    assert document["inference"]["folded"] == told["folded"]
    module = alds_cli.load(fast)
    names = dict(module.named_modules())
    assert told["folded"]
    assert all(isinstance(names[norm], nn.Identity) for norm in told["folded"])
    inputs = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(module(inputs), alds_cli.load(small)(inputs))


def test_an_optimised_artefact_can_still_be_trained_compressed_and_inspected(
    run, small, digits, tmp_path
):
    fast, data = tmp_path / "fast.pt", f"tensors:{digits / 'data.safetensors'}"
    assert run("optimize", small, "-o", fast)[0] == 0
    for name, arguments in {
        "trained": ["retrain", "--data", data, "--epochs", 1, "--augment", "none"],
        "smaller": ["compress", "--ratio", 0.2],
    }.items():
        for source in (small, fast):
            output = tmp_path / f"{name}-{source.stem}.safetensors"
            code, _, err = run(*arguments[:1], source, *arguments[1:], "-o", output)
            assert code == 0, err
        ours, theirs = (load_file(tmp_path / f"{name}-{s}.safetensors") for s in ("small", "fast"))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    one, other = (json.loads(run("inspect", each, "--json")[1]) for each in (small, fast))
    assert {**one, "bytes": 0} == {**other, "bytes": 0}


def test_a_baseline_is_treated_alike(run, small, digits, tmp_path):
    fast, data = tmp_path / "fast.pt", f"tensors:{digits / 'data.safetensors'}"
    assert run("optimize", small, "-o", fast)[0] == 0
    arguments = ["--data", data, "--baseline", digits / "model.pt", "--json"]
    code, out, err = run("evaluate", fast, *arguments)
    assert code == 0, err
    assert "the baseline is run in its fastest form too" in err
    plain = json.loads(run("evaluate", small, *arguments)[1])
    told = json.loads(out)
    for key in ("params", "macs", "top1"):
        assert told[key] == plain[key]
        assert told["baseline"][key] == plain["baseline"][key]


def test_a_damaged_list_is_named(run, small, tmp_path, digits):
    fast = tmp_path / "fast.safetensors"
    assert run("optimize", small, "-o", fast)[0] == 0
    tensors = load_file(fast)
    with safe_open(fast, "pt") as file:
        document = json.loads(file.metadata()["alds"])
    document["inference"]["folded"] = {"nowhere": "features.0"}
    save_file(tensors, fast, {"alds": json.dumps(document)})
    data = f"tensors:{digits / 'data.safetensors'}"
    code, _, err = run("evaluate", fast, "--data", data, "--no-latency")
    assert code == 2
    assert "the artefact's document is damaged: the network has no module nowhere" in err


def test_what_cannot_be_timed_is_refused(run, tmp_path, digits):
    output = tmp_path / "fast.pt"
    code, _, err = run("optimize", tmp_path / "none.pt", "-o", output)
    assert (code, output.exists()) == (2, False)
    code, _, err = run("optimize", digits / "model.pt", "-o", output, "--input-shape", "3,8,8")
    assert (code, output.exists()) == (2, False)
    assert "does not take inputs" in err


@pytest.mark.slow
def test_what_is_exported_is_the_fastest_form(run, small, tmp_path):
    fast = tmp_path / "fast.safetensors"
    code, out, _ = run("optimize", small, "-o", fast, "--json")
    assert code == 0
    folded = json.loads(out)["folded"]
    for name in ("fast.pt2", "fast.ts"):
        code, _, err = run("export", fast, "-o", tmp_path / name)
        assert code == 0, err
    program = torch.export.load(tmp_path / "fast.pt2")
    kept = {name.rpartition(".")[0] for name in program.state_dict if "running_mean" in name}
    assert not kept & set(folded)
    inputs = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(program.module()(inputs), alds_cli.load(small)(inputs))


# ---------------------------------------------------------------- computed weights


def _masked(layer):
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
@pytest.mark.parametrize(
    "computed",
    [parametrizations.weight_norm, nn.utils.weight_norm, _masked],
    ids=["norm", "hook", "mask"],
)
def test_weights_that_are_computed_are_folded_or_left_to_it(computed):
    """A normalisation is not folded into a weight that a hook would compute anew."""
    torch.manual_seed(0)
    network = nn.Sequential(
        computed(nn.Conv2d(8, 8, 3)), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)
    ).eval()
    network[1].running_mean.normal_()
    with torch.no_grad():
        expected = network(torch.ones(2, 8, 6, 6))
    detach_computed(network)
    assert foldable_norms(network) == {}
    form = Inference({}, channels_last=True, packed=True)
    found = put_into_inference_form(copy.deepcopy(network), form)
    with torch.no_grad():
        torch.testing.assert_close(found(torch.ones(2, 8, 6, 6)), expected, rtol=1e-5, atol=1e-6)
