"""Every command computes on a GPU where there is one, and gives what it gives on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from segmenting import PREPARED, masked_images, segmenting_network
from test_retraining import dataset, network, train  # noqa: F401 - a fixture among them

from alds_cli.datasets import PRESETS, Batches, TensorImages
from alds_cli.evaluation import measure_masks, pixel_divergences
from alds_cli.retraining import RetrainSettings, TrainingState

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda")
SETTINGS = RetrainSettings(epochs=3, batch_size=16, lr=0.02, augmentation="crop-flip")


def on_both(run, *arguments):
    """Return what a command prints as JSON on a CPU and on a GPU."""
    found = []
    for device in ("cpu", "cuda"):
        code, out, err = run(*arguments, "--device", device, "--json")
        assert code == 0, err
        found.append(json.loads(out))
    return found


def plan_of(path):
    return json.loads(path.read_text())


def test_tables_give_the_same_plan(run, digits, tmp_path, monkeypatch):
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("ALDS_CACHE_DIR", str(tmp_path / f"cache-{device}"))
        code, _, err = run(
            "compress", digits / "model.pt", "--ratio", "0.5", "--device", device,
            "-o", tmp_path / f"{device}.safetensors", "--plan-out", tmp_path / f"{device}.json",
        )  # fmt: skip
        assert code == 0, err
    cpu, gpu = (plan_of(tmp_path / f"{device}.json") for device in ("cpu", "cuda"))
    assert cpu["layers"] == gpu["layers"]
    ours, theirs = (load_file(tmp_path / f"{device}.safetensors") for device in ("cpu", "cuda"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["alds-data", "alds-fisher", "balf", "pca", "auto"])
def test_methods_that_look_at_images_end_as_near(run, digits, tmp_path, method):
    data = f"tensors:{digits / 'data.safetensors'}"
    cpu, gpu = on_both(
        run, "compress", digits / "model.pt", "--ratio", "0.4", "--data", data, "--samples", "256",
        "--method", method, "--no-cache", "-o", tmp_path / "small.pt",
    )  # fmt: skip
    assert gpu["params_after"] == pytest.approx(cpu["params_after"], rel=0.03)
    assert gpu["max_relative_error"] == pytest.approx(cpu["max_relative_error"], rel=0.05)


def test_tuning_runs(run, digits, tmp_path):
    data = f"tensors:{digits / 'data.safetensors'}"
    cpu, gpu = on_both(
        run, "compress", digits / "model.pt", "--ratio", "0.5", "--data", data, "--samples", "512",
        "--tune-steps", "60", "--no-cache", "-o", tmp_path / "small.pt",
    )  # fmt: skip
    assert gpu["params_after"] == cpu["params_after"]


def test_pixels_are_counted_and_compared_as_near():
    module, other = segmenting_network(), segmenting_network(decay=0.5)
    batches = Batches(masked_images(module), PREPARED, batch_size=5, masks=True)
    (cpu, before), (gpu, after) = (
        measure_masks({"model": other, "baseline": module}, batches, device=place)
        for place in (torch.device("cpu"), GPU)
    )
    assert gpu["model"].mean_iou == pytest.approx(cpu["model"].mean_iou, abs=0.5)
    assert after.difference_low == pytest.approx(before.difference_low, abs=0.5)
    each, near = (
        pixel_divergences(module, other, batches, device=place)[0]
        for place in (torch.device("cpu"), GPU)
    )
    torch.testing.assert_close(each, near, rtol=1e-2, atol=1e-4)


def test_evaluation_counts_the_same(run, digits):
    data = f"tensors:{digits / 'data.safetensors'}"
    cpu, gpu = on_both(run, "evaluate", digits / "model.pt", "--data", data)
    assert gpu["top1"] == pytest.approx(cpu["top1"], abs=0.2)
    assert gpu["loss"] == pytest.approx(cpu["loss"], rel=1e-2)


def test_batches_of_a_gpu_are_those_of_a_cpu():
    images = torch.randint(0, 256, (37, 3, 12, 10), dtype=torch.uint8)
    images = TensorImages("random", [images], torch.arange(37))

    def batches(device):
        return Batches(
            images, PRESETS["cifar10"], batch_size=8, augmentation="crop-flip", device=device,
            generator=torch.Generator().manual_seed(3), merge_last=True,
        )  # fmt: skip

    for (ours, labels), (theirs, others) in zip(batches(None), batches(GPU), strict=True):
        assert theirs.device.type == "cuda"
        assert torch.equal(labels, others)
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_training_goes_the_same_way(dataset, compiled):  # noqa: F811
    settings = replace(SETTINGS, ema=0.8, held_back=0.25, mixup=0.3)
    here, there = network(dropout=0), network(dropout=0)
    cpu = train(here, dataset, settings)
    gpu = train(there, dataset, replace(settings, compile=compiled), device=GPU)
    assert next(there.parameters()).device.type == "cpu"
    for one, other in zip(cpu.history, gpu.history, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=0.02)
        assert other.validation_loss == pytest.approx(one.validation_loss, rel=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_compiled_training_learns_from_a_teacher_and_goes_on(dataset, precision):  # noqa: F811
    settings = replace(SETTINGS, compile=True, precision=precision, epochs=4)
    teacher = network(dropout=0).eval()
    states, whole, resumed = [], network(dropout=0.2), network(dropout=0.2)
    result = train(whole, dataset, settings, teacher=teacher, device=GPU, keep=states.append)
    losses = [own.loss for own in result.history]
    assert losses[-1] < losses[0]
    state = TrainingState.from_dict(states[1].to_dict())
    again = train(resumed, dataset, settings, teacher=teacher, device=GPU, resume=state)
    assert again.history[-1].loss == pytest.approx(losses[-1], rel=0.1)


def test_commands_that_take_several_steps_end(run, digits, tmp_path):
    data = f"tensors:{digits / 'data.safetensors'}"
    model = digits / "model.pt"
    for arguments in (
        ["profile", model, "-o", tmp_path / "table.safetensors"],
        ["train", "--arch", "digits_cnn", "--data", data, "--epochs", "2", "-o", "fresh.pt"],
        ["iterate", model, "--to", "0.6", "--steps", "2", "--epochs-per-step", "1",
         "--data", data, "-o", "less.pt"],
        ["compress", model, "--data", data, "--max-drop", "2", "-o", "least.pt"],
        ["compress", model, "--target", "latency", "--ratio", "0.1", "-o", "fast.pt"],
        ["sweep", model, "--data", data, "--ratios", "0.3,0.6", "--methods", "alds,svd",
         "-o", "runs"],
    ):  # fmt: skip
        own = [tmp_path / each if each in {"fresh.pt", "less.pt", "least.pt", "fast.pt", "runs"}
               else each for each in arguments]  # fmt: skip
        code, _, err = run(*own)
        if arguments[1:4] == [model, "--target", "latency"] and code == 1:
            continue  # a network as small as this may be at its fastest
        assert code == 0, (arguments, err)


def test_a_job_of_one_process_joins_by_nccl(digits, tmp_path):
    data = f"tensors:{digits / 'data.safetensors'}"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1",
         "-m", "alds_cli", "retrain", str(digits / "model.pt"), "--data", data, "--epochs", "1",
         "-o", str(tmp_path / "small.pt"), "--json"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["history"]) == 1
