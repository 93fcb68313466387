"""The method `messi`: the same ratio everywhere, and artefacts of clustered columns."""

from __future__ import annotations

import json

import pytest
import torch
from small_networks import digits_network
from torch import nn

from alds_cli import api
from alds_cli.allocation import Problem
from alds_cli.compression.traced_model import layer_reports
from alds_cli.errors import BadWeightsError, OptionError, RatioUnreachableError
from alds_cli.methods import METHODS, messi
from alds_cli.network.opening import open_network
from alds_cli.numerics.clustering.clustered_factors import cluster_factors, clustered_residual
from alds_cli.numerics.fold import fold, pair_params
from alds_cli.numerics.spectra import empty_table
from alds_cli.records import (
    CLUSTERED,
    Choice,
    ErrorTable,
    LayerSpec,
    Plan,
)
from alds_cli.surgery import dense_state, find_layers, weight_at
from alds_cli.tracing.trace import count_macs, count_parameters

LAYERS = (
    LayerSpec("wide", "conv2d", 16, 8, (3, 3)),
    LayerSpec("tall", "linear", 30, 7),
    LayerSpec("thin", "conv2d", 9, 2, (1, 1)),
    LayerSpec("square", "conv2d", 12, 12, (1, 1)),
)


QUICK = {"starts": 1}
FIVE = {"k": 5, **QUICK}


def planned(budget, *, specs=LAYERS, rank_multiple=1, **arguments):
    problem = Problem(
        [empty_table(spec) for spec in specs],
        [budget],
        rank_multiple=rank_multiple,
        seed=5,
        arguments={**messi.ARGUMENTS, **arguments},
    )
    return messi.plan(problem)


def cost(spec, choice):
    if choice is None:
        return spec.weight_params
    return pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j)


def removed(spec, choice):
    return 1 - cost(spec, choice) / spec.weight_params


def offered(spec, k):
    """Keeping a layer, and clusters of every rank that shrink it, tried one by one."""
    columns = spec.weight_params // spec.out_channels
    pairs = [Choice(CLUSTERED, k, j) for j in range(1, columns - k + 2)]
    return [None, *(own for own in pairs if cost(spec, own) < spec.weight_params)]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_same_fraction_is_removed_of_every_layer(k, share):
    budget = int(share * sum(spec.weight_params for spec in LAYERS))
    plan = planned(budget, k=k)
    assert plan.method == "messi"
    assert plan.seed == 5
    specs = {spec.name: spec for spec in LAYERS}
    assert sum(cost(specs[name], own) for name, own in plan.choices.items()) <= budget
    assert all(own in offered(specs[name], k) for name, own in plan.choices.items())
    most = max(removed(specs[name], own) for name, own in plan.choices.items())
    # The least fraction for which every layer, removing at most that, leaves little enough.
    levels = sorted({removed(spec, own) for spec in LAYERS for own in offered(spec, k)})
    least = next(
        level
        for level in levels
        if sum(
            min(cost(spec, own) for own in offered(spec, k) if removed(spec, own) <= level)
            for spec in LAYERS
        )
        <= budget
    )
    assert most == pytest.approx(least, abs=1e-12)


def test_ranks_are_multiples_where_asked():
    budget = sum(spec.weight_params for spec in LAYERS) // 2
    plan = planned(budget, rank_multiple=2)
    assert plan.decomposed
    assert all(own.j % 2 == 0 for own in plan.decomposed.values())


def test_as_many_clusters_as_columns_shrink_nothing():
    assert planned(200, specs=LAYERS[1:2], k=6).choices["tall"] is not None
    for k in (7, 8, 100):
        assert planned(210, specs=LAYERS[1:2], k=k).choices == {"tall": None}


def test_layers_without_clusters_are_kept():
    grouped = LayerSpec("grouped", "conv2d", 16, 16, (3, 3), groups=2)
    turned = LayerSpec("turned", "conv_transpose2d", 16, 16, (3, 3))
    specs = (*LAYERS, grouped, turned)
    plan = planned(sum(own.weight_params for own in specs) - 200, specs=specs)
    assert plan.choices["grouped"] is plan.choices["turned"] is None
    assert plan.decomposed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"k": 0}, "slices or clusters, not 0"),
        ({"distance": "cubed"}, "unknown distance 'cubed'"),
        ({"starts": 0}, "starts, not 0"),
    ],
)
def test_arguments_that_make_no_sense(arguments, complaint):
    with pytest.raises(OptionError, match=complaint):
        planned(500, **arguments)


@pytest.mark.parametrize(("suffix", "distance"), [("pt", "squared"), ("safetensors", "absolute")])
def test_what_is_written_is_what_was_reported(tmp_path, suffix, distance):
    path = tmp_path / f"small.{suffix}"
    network = digits_network()
    result = api.compress(
        network,
        ratio="0.4",
        method="messi",
        method_args={"distance": distance, "starts": 1},
        output=path,
    )
    report = result.report
    assert report.ratio >= 0.4
    assert {own.choice.scheme for own in report.layers if own.choice} == {CLUSTERED}
    loaded = api.load(path)
    assert count_parameters(loaded) == report.params_after
    assert count_macs(loaded, (1, 8, 8)) == report.macs_after
    assert path.stat().st_size == report.bytes_after
    inputs = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), result.network.module(inputs))
        dense = open_network(path, multiply_back=True).module
        torch.testing.assert_close(dense(inputs), loaded(inputs), rtol=1e-4, atol=1e-5)
    for layer in report.layers:
        before, after = weight_at(network, layer.name), weight_at(dense, layer.name)
        difference = torch.linalg.matrix_norm((after - before).flatten(1).double(), 2)
        error = float(difference / torch.linalg.matrix_norm(before.flatten(1).double(), 2))
        assert layer.error == pytest.approx(error, rel=1e-4, abs=1e-6)


def test_macs_are_those_of_the_closed_form(tmp_path):
    network = digits_network()
    report = api.compress(network, ratio="0.3", method="messi", method_args=FIVE).report
    dry = api.compress(network, ratio="0.3", method="messi", method_args=FIVE, dry_run=True)
    assert report.layers != dry.report.layers  # errors are known only afterwards
    assert [own.choice for own in report.layers] == [own.choice for own in dry.report.layers]
    again = api.compress(network, plan=dry.plan, output=tmp_path / "again.pt").report
    assert again.macs_after == report.macs_after
    assert count_macs(api.load(tmp_path / "again.pt"), (1, 8, 8)) == report.macs_after


@pytest.mark.parametrize("target", ["params", "macs", "bytes"])
def test_every_target_it_offers_is_reached(tmp_path, target):
    path = tmp_path / "small.safetensors"
    original = tmp_path / "model.pt"
    api.save(digits_network(), original, arch="digits_cnn")
    options = {"method": "messi", "method_args": QUICK, "target": target}
    report = api.compress(original, ratio="0.3", output=path, **options).report
    before, after = {
        "params": (report.params_before, report.params_after),
        "macs": (report.macs_before, report.macs_after),
        "bytes": (report.bytes_before, path.stat().st_size),
    }[target]
    assert after <= 0.7 * before
    assert set(METHODS["messi"].targets) == {"params", "macs", "bytes"}


def test_the_largest_ratio_is_named():
    options = {"method": "messi", "dry_run": True}
    with pytest.raises(RatioUnreachableError) as caught:
        api.compress(digits_network(), ratio="0.99", **options)
    largest = caught.value.largest
    assert 0.5 < largest < 0.99
    assert api.compress(digits_network(), ratio=largest, **options).report.ratio >= largest
    with pytest.raises(RatioUnreachableError):
        api.compress(digits_network(), ratio=largest + 1e-4, **options)


def test_same_bytes_for_any_number_of_threads(tmp_path, threads):
    written = []
    for count in (1, 3):
        threads(count)
        path = tmp_path / f"small-{count}.pt"
        api.compress(digits_network(), ratio="0.5", method="messi", seed=3, output=path)
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_from_the_command_line_and_back(run, model, tmp_path):
    small, dense = tmp_path / "small.safetensors", tmp_path / "again.pt"
    code, out, err = run(
        "compress", model, "--method", "messi", "--method-arg", "k=4", "--method-arg", "starts=1",
        "--ratio", "0.4", "-o", small, "--json",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    assert report["method"] == "messi"
    assert report["arguments"] == {"k": 4, "starts": 1}
    assert {own["k"] for own in report["layers"] if own["k"]} == {4}
    code, out, err = run("inspect", small, "--json")
    assert code == 0, err
    # Compressed anew, its clusters are multiplied back first.
    code, out, err = run("compress", small, "--ratio", "0.2", "-o", dense, "--json")
    assert code == 0, err
    assert json.loads(out)["params_before"] == report["params_before"]


def test_an_unknown_distance_writes_nothing(run, model, tmp_path):
    target = tmp_path / "small.pt"
    code, out, err = run(
        "compress", model, "--method", "messi", "--method-arg", "distance=cubed", "--ratio", "0.4",
        "-o", target,
    )  # fmt: skip
    assert code == 2
    assert out == ""
    assert "unknown distance 'cubed'" in err
    assert not target.exists()


@pytest.mark.parametrize("multiply_back", [False, True])
def test_a_damaged_artefact_is_refused(tmp_path, multiply_back):
    path = tmp_path / "small.pt"
    api.compress(digits_network(), ratio="0.4", method="messi", method_args=QUICK, output=path)
    content = torch.load(path, weights_only=True)
    name = next(key for key in content["state_dict"] if key.endswith("first.order"))
    content["state_dict"][name][0] = content["state_dict"][name][1]
    torch.save(content, path)
    owner = name.removesuffix(".order")
    with pytest.raises(BadWeightsError, match=f"{owner}: its order is no permutation"):
        open_network(path, multiply_back=multiply_back)


def test_an_artefact_without_its_order_is_refused(run, tmp_path):
    path = tmp_path / "small.pt"
    api.compress(digits_network(), ratio="0.4", method="messi", method_args=QUICK, output=path)
    content = torch.load(path, weights_only=True)
    del content["state_dict"][next(k for k in content["state_dict"] if k.endswith("first.order"))]
    torch.save(content, path)
    code, _, err = run("inspect", path)
    assert code == 2
    assert "order" in err


def test_a_plan_of_ones_own_may_mix_clusters_and_slices():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(4, 16, 3, padding=1)
            self.two = nn.Linear(16, 12)

        def forward(self, image):
            return self.two(self.one(image).mean((2, 3)))

    torch.manual_seed(0)
    network = Two().eval()
    plan = Plan({"one": Choice(CLUSTERED, 7, 1), "two": Choice(0, 2, 2)}, seed=11)
    result = api.compress(network, api.Source(input_shape=(4, 8, 8)), plan=plan)
    pair = result.network.module.one
    matrix = fold(network.one.weight.detach(), CLUSTERED)
    expected = cluster_factors(matrix, 7, 1, seed=11, dtype=torch.float32)
    assert torch.equal(pair.first.order, expected.order)
    assert torch.equal(pair.first.weight, expected.first)
    error = clustered_residual(matrix, expected) / torch.linalg.matrix_norm(matrix.flatten(1), 2)
    assert result.report.layers[0].error == pytest.approx(float(error), rel=1e-6)


@pytest.mark.parametrize("ratio", ["0.2", pytest.param("0.5", marks=pytest.mark.slow)])
def test_a_trained_network_loses_less_energy_than_in_slices(shared, ratio):
    path = shared / "weights" / "cifar10_resnet20.safetensors"
    original = api.load(path)
    lost = {}
    for method in ("messi", "alds-simple"):
        result = api.compress(path, ratio=ratio, method=method)
        assert result.report.ratio >= float(ratio)
        macs = count_macs(result.network.module, (3, 32, 32))
        assert macs == result.report.macs_after < result.report.macs_before
        made = open_network(result.network, multiply_back=True).module
        lost[method] = sum(
            float((weight_at(made, own.name) - weight_at(original, own.name)).square().sum())
            for own in result.report.layers
        )
    assert lost["messi"] < lost["alds-simple"]


def test_retraining_moves_weights_and_leaves_the_order(run, digits, tmp_path):
    small, better = tmp_path / "small.pt", tmp_path / "better.pt"
    api.compress(digits / "model.pt", ratio="0.4", method="messi", method_args=QUICK, output=small)
    data = f"tensors:{digits / 'data.safetensors'}"
    code, _, err = run("retrain", small, "--data", data, "--epochs", "1", "-o", better)
    assert code == 0, err
    before, after = api.load(small).state_dict(), api.load(better).state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        fixed = name.endswith((".order", ".sizes"))
        assert torch.equal(tensor, after[name]) == fixed, name


def test_a_transformer_with_clusters_computes_what_its_product_does():
    """Its fused kernels would pass the clusters by."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 20, batch_first=True, dropout=0.0)
    network = nn.Sequential(nn.Linear(7, 12), nn.TransformerEncoder(layer, 2)).eval()
    specs = find_layers(network)
    choices = {name: Choice(CLUSTERED, 3, 1) for name, own in specs.items() if own.in_channels > 7}
    assert len(choices) == 8
    source = api.Source(input_shape=(5, 7))
    made = api.compress(network, source, plan=Plan(choices)).network.module
    network.load_state_dict(dense_state(network, made.state_dict(), choices))
    rows = torch.randn(2, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(made(rows), network(rows), rtol=1e-4, atol=1e-5)


def test_a_layer_that_cannot_have_clusters_is_said_to_be_kept_for_that():
    specs = {
        own.name: own
        for own in (
            LayerSpec("grouped", "conv2d", 16, 16, (3, 3), groups=2),
            LayerSpec("plain", "conv2d", 16, 16, (3, 3)),
            LayerSpec("kept", "conv2d", 16, 16, (3, 3)),
        )
    }
    tables = ErrorTable("hash", {})
    plan = Plan({"grouped": None, "plain": Choice(CLUSTERED, 3, 2), "kept": None}, method="messi")
    reasons = {own.name: own.reason for own in layer_reports(specs, tables, plan, {}, {})}
    assert reasons["grouped"] == "the columns of 2 groups cannot be clustered"
    assert reasons["kept"] == "the allocation keeps it"
