"""Several processes that train and evaluate together give what one process gives."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from job_processes import run_together

from alds_cli.runtime.distributed import ALONE, World, gathered, joined, summed, world


def test_parts_follow_each_other_and_are_even():
    for count in range(12):
        for size in range(1, 6):
            parts = [list(range(count))[World(rank, size).part(count)] for rank in range(size)]
            assert [item for part in parts for item in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_by_itself_exchanges_nothing():
    with joined("cpu") as device:
        assert world() == ALONE
        assert summed([1.5, 2.0], device) == [1.5, 2.0]
        assert gathered("x") == ["x"]


NORMALISED = """
import sys, torch
from torch import nn
from alds_cli.retraining.shared_statistics import shared_statistics
from alds_cli.runtime.distributed import gathered, joined, summed, world

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False),
        nn.BatchNorm2d(5, affine=False, momentum=None), nn.Flatten(), nn.Linear(20, 6),
        nn.BatchNorm1d(6, track_running_stats=False),
    ).double()

def loss_of(module, x):
    return (module(x) ** 3 * torch.linspace(-1, 1, 6)).sum()

with joined("cpu") as device:
    x = torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double() * 3 + 1
    whole, parted = network(), network()
    for _ in range(3):
        loss_of(whole, x).backward()
    with shared_statistics(parted):
        for _ in range(3):
            loss_of(parted, x[world().part(7)]).backward()
    parted.eval(), whole.eval()
    torch.testing.assert_close(whole(x), parted(x), rtol=1e-9, atol=1e-10)
    assert "forward" not in vars(parted[1])
    for (name, one), other in zip(whole.state_dict().items(), parted.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=name)
    for one, other in zip(whole.parameters(), parted.parameters()):
        total = sum(gathered(other.grad))
        torch.testing.assert_close(one.grad, total, rtol=1e-8, atol=1e-9)
    assert summed([1.0, world().rank], device) == [2.0, 1.0]
"""


@pytest.mark.slow
def test_batch_normalisation_sees_the_batch_of_all_processes(tmp_path):
    script = tmp_path / "normalised.py"
    script.write_text(NORMALISED)
    for code, _, errors in run_together([script]):
        assert code == 0, errors


@pytest.mark.slow
def test_processes_that_evaluate_together_count_every_image_once(digits):
    model, data = digits / "model.pt", f"tensors:{digits / 'data.safetensors'}"
    arguments = ["-m", "alds_cli", "evaluate", model, "--data", data, "--no-latency", "--json"]
    arguments += ["--batch-size", "32", "--baseline", model]
    alone = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    (code, output, errors), (other, silent, _) = run_together(arguments)
    assert (code, other, silent) == (0, 0, ""), errors
    one, together = json.loads(alone.stdout), json.loads(output)
    for found in (one, one["baseline"]):
        found["loss"] = pytest.approx(found["loss"], rel=1e-6)
    assert together == one


@pytest.mark.slow
def test_a_command_that_works_in_one_process_says_so(tmp_path, digits):
    ends = run_together(
        [
            "-m",
            "alds_cli",
            "compress",
            digits / "model.pt",
            "--ratio",
            "0.5",
            "-o",
            tmp_path / "small.pt",
        ]
    )
    for code, output, errors in ends:
        assert (code, output) == (2, "")
        assert "2 processes were started together" in errors
    assert not list(tmp_path.iterdir())
