"""Pruned networks as artefacts: written, read, pruned again, corrupted."""

from __future__ import annotations

import json

import pytest
import torch
from small_networks import digits_network

from alds_cli import api
from alds_cli.checkpoint.writing import DOCUMENT_KEY
from alds_cli.errors import AldsError, PlanError, RatioUnreachableError
from alds_cli.tracing.trace import count_parameters


def images():
    torch.manual_seed(0)
    return torch.randn(3, 1, 8, 8)


def outputs(module):
    with torch.no_grad():
        return module(images())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("target", ["params", "macs", "bytes"])
def test_artefacts_hold_what_is_left(model, tmp_path, suffix, target):
    path = tmp_path / f"small{suffix}"
    result = api.compress(model, ratio="0.5", method="ft", target=target, output=path)
    report = result.report
    reached = {
        "params": (report.params_before, report.params_after),
        "macs": (report.macs_before, report.macs_after),
        "bytes": (report.bytes_before, report.bytes_after),
    }[target]
    assert 0.47 * reached[0] < reached[1] <= 0.5 * reached[0]
    assert path.stat().st_size == report.bytes_after
    loaded = api.load(path)
    assert count_parameters(loaded) == report.params_after
    assert torch.equal(outputs(loaded), outputs(result.network.module))
    assert loaded.features[0].out_channels == len(result.plan.pruned["features.0"].outputs)
    assert api.inspect(path).params_before == report.params_before


def test_sensitivities_come_from_the_data(digits, tmp_path):
    made = [
        api.compress(
            digits / "model.pt",
            ratio=0.4,
            method="pfp",
            data=f"tensors:{digits / 'data.safetensors'}",
            samples=samples,
            output=tmp_path / f"{samples}.pt",
        )
        for samples in (48, 48, 3)
    ]
    assert made[0].plan == made[1].plan
    assert made[0].plan.pruned != made[2].plan.pruned
    report = made[0].report
    assert 0.57 * report.params_before < report.params_after <= 0.6 * report.params_before
    assert torch.equal(outputs(api.load(tmp_path / "48.pt")), outputs(made[1].network.module))


def test_pruning_starts_again_from_the_dense_network(model, tmp_path):
    api.compress(model, ratio=0.3, method="ft", output=tmp_path / "first.pt")
    again = api.compress(tmp_path / "first.pt", ratio=0.5, method="ft", output=tmp_path / "b.pt")
    assert again.report.params_before == count_parameters(digits_network())
    assert again.report.ratio >= 0.5
    # Filters that were zeros are the first to go.
    once = api.compress(model, ratio=0.5, method="ft")
    first = api.compress(model, ratio=0.3, method="ft").plan.pruned
    for name, kept in again.plan.pruned.items():
        before = first[name].outputs
        assert kept.outputs is None or set(kept.outputs) <= set(before or kept.outputs)
    assert once.report.params_after == again.report.params_after


def test_a_plan_is_written_edited_and_carried_out(model, tmp_path):
    plan = tmp_path / "plan.json"
    made = api.compress(model, ratio=0.5, method="ft", plan_output=plan)
    replayed = api.compress(model, plan=plan)
    assert replayed.plan.pruned == made.plan.pruned
    assert torch.equal(outputs(replayed.network.module), outputs(made.network.module))
    content = json.loads(plan.read_text())
    content["pruned"].pop("features.1")
    plan.write_text(json.dumps(content))
    with pytest.raises(PlanError, match=r"whole channels.*features\.1"):
        api.compress(model, plan=plan)


def test_what_cannot_be_reached_is_said_and_nothing_is_written(model, run, tmp_path):
    target = tmp_path / "small.pt"
    with pytest.raises(RatioUnreachableError) as caught:
        api.compress(model, ratio=0.9999, method="ft", output=target)
    assert 0.9 < caught.value.largest < 0.9999
    code, _, err = run("compress", model, "--method", "ft", "--ratio", "0.9999", "-o", target)
    assert (code, target.exists()) == (1, False)
    assert f"{caught.value.largest:.4f}" in err
    api.compress(model, ratio=f"{caught.value.largest:.4f}", method="ft", output=target)


def edited(path, edit):
    content = torch.load(path, weights_only=True)
    document = json.loads(content[DOCUMENT_KEY])
    edit(document["plan"]["pruned"])
    content[DOCUMENT_KEY] = json.dumps(document)
    torch.save(content, path)


EDITS = {
    "unknown module": lambda pruned: pruned.update({"nowhere": {"outputs": "0-3"}}),
    "no such channel": lambda pruned: pruned["features.0"].update(outputs="0-3,99"),
    "not in order": lambda pruned: pruned["features.0"].update(outputs="3,1"),
    "no ranges": lambda pruned: pruned["features.0"].update(outputs="a-b"),
    "huge": lambda pruned: pruned["features.0"].update(outputs="0-99999999999"),
    "nothing left": lambda pruned: pruned["features.0"].update(outputs=""),
    "not a table": lambda pruned: pruned.update({"features.0": 3}),
    "one more": lambda pruned: pruned["features.3"].update(inputs="0-31"),
    "one module less": lambda pruned: pruned.pop("features.1"),
    "an activation": lambda pruned: pruned.update({"features.2": {"outputs": "0-3"}}),
}


@pytest.mark.parametrize("name", EDITS)
def test_corrupt_artefacts_are_errors(model, tmp_path, name):
    path = tmp_path / "small.pt"
    api.compress(model, ratio=0.5, method="ft", output=path)
    edited(path, EDITS[name])
    with pytest.raises(AldsError):
        api.load(path)
