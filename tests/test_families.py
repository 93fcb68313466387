"""Several ratios at once, from one profile."""

from __future__ import annotations

import pytest
import torch
from small_networks import digits_network

from alds_cli import api
from alds_cli.compression import low_rank
from alds_cli.errors import OptionError, RatioUnreachableError


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_each_of_a_family_is_what_it_would_be_alone(model, tmp_path, suffix):
    ratios = ["0.6", "0.2", "0.40"]
    results = api.compress_family(
        model,
        ratios=ratios,
        output=tmp_path / f"small-{{ratio}}{suffix}",
        plan_output=tmp_path / "plan-{ratio}.json",
    )
    for ratio, result in zip(ratios, results, strict=True):
        path = tmp_path / f"small-{ratio}{suffix}"
        alone = tmp_path / f"alone{suffix}"
        report = api.compress(model, ratio=ratio, output=alone).report
        assert result.output == str(path)
        assert path.read_bytes() == alone.read_bytes()
        assert result.report.params_after == report.params_after
        assert result.report.max_relative_error == report.max_relative_error
        assert (tmp_path / f"plan-{ratio}.json").exists()


def test_the_spectra_are_found_once(model, monkeypatch):
    calls = []
    real = low_rank.error_tables
    monkeypatch.setattr(low_rank, "error_tables", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert len(api.compress_family(model, ratios=[0.2, 0.4, 0.6], cache=False)) == 3
    assert len(calls) == 1


def test_the_network_handed_in_is_left_alone():
    net = digits_network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    results = api.compress_family(net, ratios=[0.2, 0.4])
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    modules = [result.network.module for result in results]
    shared = {id(tensor) for tensor in modules[0].parameters()}
    assert not shared & {id(tensor) for tensor in modules[1].parameters()}


def test_one_ratio_out_of_reach_stops_them_all(model, tmp_path):
    with pytest.raises(RatioUnreachableError):
        api.compress_family(model, ratios=["0.2", "0.999"], output=tmp_path / "s-{ratio}.pt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ratios": ["0.2", "0.4"], "output": "small.pt"}, "cannot all be written"),
        ({"ratios": ["0.2", "0.4"], "output": "-"}, "cannot all be written"),
        ({"ratios": ["0.2", "0.2"], "output": "{ratio}.pt"}, "given twice"),
        ({"ratios": ["0.2", "x"], "output": "{ratio}.pt"}, "between 0 and 1"),
        ({"ratios": ["0.2", ""], "output": "{ratio}.pt"}, "between 0 and 1"),
    ],
)
def test_families_that_make_no_sense(model, options, complaint):
    with pytest.raises(OptionError, match=complaint):
        api.compress_family(model, **options)


def test_a_plan_has_one_ratio(model, tmp_path):
    path = tmp_path / "plan.json"
    api.compress(model, ratio=0.5, plan_output=path)
    with pytest.raises(OptionError, match="several ratios"):
        api.compress_family(model, ratios=["0.2", "0.4"], plan=path)
