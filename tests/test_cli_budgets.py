"""Budgets on the command line: what is promised holds, what is refused leaves no trace."""

from __future__ import annotations

import json

import pytest
import torch

from alds_cli import api
from alds_cli.tracing.trace import count_macs, count_parameters


def test_a_budget_in_bytes_and_macs(run, digits, tmp_path):
    small = tmp_path / "small.safetensors"
    code, out, err = run(
        "compress", digits / "model.pt", "--max-size", "120kB", "--max-macs", "180k",
        "--max-params", "60k", "-o", small, "--json",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    assert small.stat().st_size == report["bytes_after"] <= 120_000
    assert report["macs_after"] == count_macs(api.load(small), (1, 8, 8)) <= 180_000
    assert report["params_after"] == count_parameters(api.load(small)) <= 60_000
    assert report["limits"] == {"bytes": 120_000, "macs": 180_000, "params": 60_000}
    assert report["ratio_asked"] is None
    assert report["objective"] >= report["objective_bound"] > 0


@pytest.mark.parametrize("target", ["params", "macs", "bytes"])
def test_a_ratio_of_each_target(run, digits, tmp_path, target):
    code, out, err = run(
        "compress", digits / "model.pt", "--target", target, "--ratio", "0.4",
        "-o", tmp_path / "small.pt", "--json",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    assert report["target"] == target
    assert report[f"{target}_after"] <= 0.6 * report[f"{target}_before"]


def test_a_family_from_one_profile(run, digits, tmp_path):
    code, out, err = run(
        "compress", digits / "model.pt", "--ratio", "0.2, 0.4,0.6",
        "-o", tmp_path / "small-{ratio}.pt", "--plan-out", tmp_path / "{ratio}.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    family = json.loads(out)["family"]
    assert [member["ratio_asked"] for member in family] == [0.2, 0.4, 0.6]
    for member, ratio in zip(family, ("0.2", "0.4", "0.6"), strict=True):
        path = tmp_path / f"small-{ratio}.pt"
        assert member["output"] == str(path)
        assert count_parameters(api.load(path)) == member["params_after"]
        assert (tmp_path / f"{ratio}.json").exists()
    code, out, _ = run(
        "compress", digits / "model.pt", "--ratio", "0.2,0.4", "-o", tmp_path / "t-{ratio}.pt"
    )
    assert code == 0
    assert "t-0.2.pt" in out
    assert "t-0.4.pt" in out


def test_a_family_needs_names(run, digits, tmp_path):
    small = tmp_path / "small.pt"
    code, out, err = run("compress", digits / "model.pt", "--ratio", "0.2,0.4", "-o", small)
    assert (code, out) == (2, "")
    assert "{ratio}" in err
    assert not list(tmp_path.iterdir())


def test_the_gap_of_a_sum_is_printed(run, digits, tmp_path):
    small = tmp_path / "small.pt"
    arguments = ("compress", digits / "model.pt", "--ratio", "0.5", "--solver", "knapsack")
    code, out, err = run(*arguments, "-o", small)
    assert code == 0, err
    assert "sum of squared errors" in out
    assert "least" in out
    report = json.loads(run(*arguments, "-o", small, "--json")[1])
    assert report["bound"] == "frobenius"
    assert 0 < report["objective_bound"] <= report["objective"]
    squares = sum(
        (delta.square().sum() / weight.square().sum()).item()
        for weight, delta in differences(digits / "model.pt", small)
    )
    assert squares == pytest.approx(report["objective"], rel=1e-5)


def differences(original, compressed):
    """Each layer's weight and what is missing of it, from the files alone."""
    dense = api.load(original).state_dict()
    network = api.load(compressed)
    for name, part in network.named_modules():
        if isinstance(part, torch.nn.Sequential) and hasattr(part, "second"):
            weight = dense[f"{name}.weight"].double()
            first, second = part.first.weight.double(), part.second.weight.double()
            k = getattr(part.first, "groups", 1)
            left = second.flatten(1).reshape(len(second), k, -1).transpose(0, 1)
            right = first.flatten(1).reshape(k, left.shape[2], -1)
            product = torch.cat(list(left @ right), dim=1).reshape(weight.shape)
            yield weight, weight - product


@pytest.mark.parametrize("solver", ["exact", "knapsack"])
def test_true_errors_are_minimised_and_remembered(run, digits, tmp_path, solver):
    arguments = ("compress", digits / "model.pt", "--ratio", "0.5", "--solver", solver)
    plain = json.loads(run(*arguments, "--bound", "sum", "--dry-run", "--json")[1])
    small = tmp_path / "small.pt"
    code, out, err = run(*arguments, "--bound", "exact", "-o", small, "--json")
    assert code == 0, err
    report = json.loads(out)
    errors = [layer["error"] for layer in report["layers"] if not layer["kept"]]
    found = max(errors) if solver == "exact" else sum(error**2 for error in errors)
    assert report["objective"] == pytest.approx(found, rel=1e-5)
    assert report["objective"] <= plain["objective"]
    again = json.loads(run(*arguments, "--bound", "exact", "--dry-run", "--json")[1])
    assert again["objective"] == report["objective"]


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--max-params", "1"], 1, "--max-params 1 cannot be reached"),
        (["--max-size", "2kB"], 1, "--max-size 2kB cannot be reached"),
        (["--max-macs", "7"], 1, "--max-macs 7 cannot be reached"),
        (["--target", "macs", "--ratio", "0.999"], 1, "the largest ratio is"),
        (["--target", "latency", "--ratio", "0.9999"], 1, "ratio"),
        (["--max-latency", "1ns"], 1, "--max-latency"),
        (["--ratio", "0.5", "--rank-multiple", "4096"], 1, "cannot be reached"),
        (["--max-params", "lots"], 2, "--max-params is a positive number"),
        (["--max-latency", "3"], 2, "--max-latency is a positive number"),
        (["--max-size", "5 bananas"], 2, "--max-size is a positive number"),
        (["--ratio", "0.5", "--target", "weight"], 2, "unknown target"),
        (["--ratio", "0.5", "--solver", "knapsack", "--bound", "density"], 2, "cannot minimise"),
        (["--ratio", "0.5", "--rank-multiple", "0"], 2, "rank-multiple"),
        (["--target", "macs"], 2, "Neither a ratio nor a limit"),
        (["--ratio", "0.5", "--target", "latency", "--device", "tape"], 2, "tape"),
    ],
)
def test_what_cannot_be_had_leaves_no_trace(run, digits, tmp_path, arguments, code, message):
    made, out, err = run("compress", digits / "model.pt", *arguments, "-o", tmp_path / "small.pt")
    assert (made, out) == (code, ""), err
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())
