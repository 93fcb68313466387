"""Several processes that train and evaluate together give what one process gives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from job_processes import run_together
from safetensors.torch import load_file

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
def test_processes_that_retrain_together_write_one_file(tmp_path, digits):
    data = f"tensors:{digits / 'data.safetensors'}"
    common = ["-m", "alds_cli", "retrain", digits / "model.pt", "--data", data, "--epochs", 2]
    common += ["--batch-size", 10, "--json", "--device", "cpu", "--log"]
    for size, name in ((1, "one"), (2, "two")):
        ends = run_together(
            [*common, tmp_path / f"{name}.jsonl", "-o", tmp_path / f"{name}.safetensors"],
            size=size,
        )
        assert [code for code, *_ in ends] == [0] * size, ends
        assert [bool(output) for _, output, _ in ends] == [True, False][:size]
    assert len(list(tmp_path.iterdir())) == 4
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    assert len((tmp_path / "two.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_job_that_loses_a_process_is_resumed_by_fewer(tmp_path, digits):
    data = f"tensors:{digits / 'data.safetensors'}"
    common = ["-m", "alds_cli", "retrain", digits / "model.pt", "--data", data, "--epochs", 40]
    common += ["--batch-size", 10, "--device", "cpu", "--checkpoint-minutes", 0.0005, "-o"]
    small, state = tmp_path / "x.safetensors", tmp_path / "x.safetensors.training"

    def lose(processes):
        while not state.exists() and processes[0].poll() is None:
            time.sleep(0.01)
        processes[1].kill()

    (code, _, errors), (killed, *_) = run_together([*common, small], meanwhile=lose)
    assert (code, killed) == (2, -signal.SIGKILL), errors
    assert "another process of the job has ended" in errors
    assert not small.exists()
    resumed = subprocess.run(
        [sys.executable, *map(str, [*common, small, "--resume", "--json"])],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(json.loads(resumed.stdout)["history"]) == 40
    assert "there is no interrupted run" not in resumed.stderr
    assert small.exists()
    assert not state.exists()


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


TRAINED = """
import sys
import torch
from torch import nn
from alds_cli.datasets import PRESETS, TensorImages
from alds_cli.retraining import RetrainSettings, retrain
from alds_cli.runtime.distributed import joined, world

class Headed(nn.Module):
    # A head that no loss looks at, as GoogLeNet has them.
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
        )
        self.head, self.auxiliary = nn.Linear(72, 4), nn.Linear(72, 4)

    def forward(self, x):
        x = self.stem(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)

def network(seed):
    torch.manual_seed(seed)
    return Headed().double()

torch.manual_seed(5)
labels = torch.arange(51) % 4
images = torch.randint(0, 256, (51, 3, 8, 8), dtype=torch.uint8)
settings = RetrainSettings(
    epochs=5, batch_size=12, lr=0.05, nesterov=True, clip_norm=1.0, mixup=0.3, cutmix=0.3,
    label_smoothing=0.1, ema=0.9, held_back=0.1,
)
teacher = network(9)
with joined("cpu") as device:
    module = network(world().rank)  # all begin with the weights of the first
    result = retrain(
        module, TensorImages("x", [images], labels), settings, preprocessing=PRESETS["unit"],
        teacher=teacher, device=device,
    )
    told = [(own.loss, own.accuracy, own.validation_loss) for own in result.history]
    torch.save((module.state_dict(), told), f"{sys.argv[1]}-{world().rank}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_processes_that_train_together_get_the_weights_of_one(tmp_path, size):
    script = tmp_path / "trained.py"
    script.write_text(TRAINED)
    for code, _, errors in run_together([script, tmp_path / "parts"], size=size):
        assert code == 0, errors
    for code, _, errors in run_together([script, tmp_path / "whole"], size=1):
        assert code == 0, errors
    whole, told = torch.load(tmp_path / "whole-0")
    for rank in range(size):
        parts, heard = torch.load(tmp_path / f"parts-{rank}")
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(heard, told, rtol=1e-9, atol=1e-9)
