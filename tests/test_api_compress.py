"""Compressing from file to file: the same bytes every time, and again from the result."""

from __future__ import annotations

import pytest
import torch
from small_networks import digits_network
from torchvision.models import mobilenet_v2, resnet18

from alds_cli import api
from alds_cli.compression import session
from alds_cli.errors import ContractError, OptionError, OutputError
from alds_cli.tracing.trace import count_parameters


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("solver", ["exact", "alternating"])
def test_the_same_bytes_whatever_threads_and_cache(model, suffix, solver, threads, tmp_path):
    found = []
    for number, (count, cache) in enumerate([(1, False), (4, False), (4, True), (1, True)]):
        threads(count)
        path = tmp_path / f"small{number}{suffix}"
        api.compress(model, ratio=0.6, solver=solver, seed=3, cache=cache, output=path)
        found.append(path.read_bytes())
        assert torch.get_num_threads() == count
    assert len(set(found)) == 1


def test_compressing_an_artefact_again_starts_from_the_dense_network(model, tmp_path):
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    one = api.compress(model, ratio=0.5, output=first).report
    two = api.compress(first, ratio=0.7, output=second).report
    assert two.params_before == one.params_before
    assert two.ratio >= 0.7
    assert count_parameters(api.load(second)) == two.params_after
    # a smaller ratio than before is one of the dense network, too
    less = api.compress(first, ratio=0.3).report
    assert less.params_before == one.params_before
    assert less.params_after <= 0.7 * one.params_before


def test_in_place(model):
    report = api.compress(model, ratio=0.5, output=model).report
    assert count_parameters(api.load(model)) == report.params_after


def test_the_network_handed_in_is_left_alone():
    net = digits_network().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = api.compress(net, ratio=0.5)
    assert net.training
    assert set(net.state_dict()) == set(before)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    again = api.compress(result.network, ratio=0.8)
    assert result.report.params_after == count_parameters(result.network.module)
    assert again.report.params_before == result.report.params_before


def test_a_dry_run_writes_nothing(model, tmp_path):
    result = api.compress(model, ratio=0.5, output=tmp_path / "no" / "small.pt", dry_run=True)
    assert result.network is None
    assert result.report.ratio >= 0.5
    assert result.report.max_relative_error is None
    assert 0 < result.report.max_error_bound <= 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]
    real = api.compress(model, ratio=0.5)
    assert real.plan == result.plan
    assert real.report.params_after == result.report.params_after


def test_nothing_to_do_is_said(model):
    with pytest.raises(OptionError, match="Neither a ratio nor a limit nor a plan"):
        api.compress(model)


def test_outputs_are_tried_before_the_work(model, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "open_network", lambda *_, **__: pytest.fail("worked"))
    for option in ("output", "plan_output"):
        with pytest.raises(OutputError):
            api.compress(model, ratio=0.5, **{option: tmp_path / "no" / "file"})


def test_a_refused_ratio_leaves_the_old_output(model, tmp_path):
    path = tmp_path / "small.pt"
    path.write_text("old")
    with pytest.raises(ContractError):
        api.compress(model, ratio=0.999, output=path)
    assert path.read_text() == "old"


def test_a_profile_is_what_compress_starts_from(model, tmp_path):
    path = tmp_path / "table.safetensors"
    first = api.profile(model, output=path, cache=False)
    assert first.computed
    assert first.path == path
    stages = []
    result = api.compress(model, ratio=0.5, table=path, cache=False, progress=stages.append)
    assert {event.task for event in stages} == {"decompose"}
    assert result.plan == api.compress(model, ratio=0.5, cache=False).plan


@pytest.mark.parametrize("bound", ["density", "sum", "theorem1", "published-code"])
def test_true_errors_stay_within_the_bounds(bound):
    report = api.compress(digits_network(), ratio=0.6, bound=bound).report
    assert report.max_relative_error > 0
    for layer in report.layers:
        assert layer.error <= layer.error_bound * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("make", [resnet18, mobilenet_v2])
def test_networks_of_torchvision(make, tmp_path):
    torch.manual_seed(0)
    net = make(num_classes=5).eval()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "model.pt")
    path = tmp_path / "small.safetensors"
    exclude = ["layer4.*"] if make is resnet18 else []
    report = api.compress(tmp_path / "model.pt", ratio=0.2, exclude=exclude, output=path).report
    found = api.load(path)
    assert count_parameters(found) == report.params_after <= 0.8 * report.params_before
    assert report.macs_after < report.macs_before
    with torch.no_grad():
        assert found(torch.randn(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("name", ["cifar10_resnet20", "cifar10_resnet56"])
def test_real_networks_keep_their_answers_at_a_small_ratio(shared, name, tmp_path):
    source = shared / "weights" / f"{name}.safetensors"
    path = tmp_path / "small.pt"
    report = api.compress(source, ratio=0.1, output=path).report
    assert 0.1 <= report.ratio < 0.102
    torch.manual_seed(0)
    inputs = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        before, after = api.load(source)(inputs), api.load(path)(inputs)
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.7


@pytest.mark.slow
def test_mobilenet_with_real_weights(shared, tmp_path):
    source = shared / "weights" / "imagenet_mobilenet_v2.safetensors"
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        report = api.compress(source, ratio=0.3, output=path, cache=False).report
    assert paths[0].read_bytes() == paths[1].read_bytes()
    for layer in report.layers:
        assert layer.error <= layer.error_bound * (1 + 1e-6) + 1e-6
