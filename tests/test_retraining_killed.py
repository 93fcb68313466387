"""Trainings that are killed anywhere and resumed end with the bytes of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest


def arguments(digits, output):
    data = f"tensors:{digits / 'data.safetensors'}"
    asked = ["retrain", digits / "model.pt", "--data", data, "--epochs", 60, "--batch-size", 8]
    asked += ["--checkpoint-minutes", 0.0005, "--held-back", 0.2, "--ema", 0.9, "--mixup", 0.2]
    asked += ["--device", "cpu", "--threads", 1, "--quiet", "-o", output]
    return [sys.executable, "-m", "alds_cli", *map(str, asked)]


def begun(state, process):
    """Wait until a run has kept a state, or has ended."""
    before = state.stat().st_mtime_ns if state.exists() else None
    while process.poll() is None:
        if state.exists() and state.stat().st_mtime_ns != before:
            return
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(tmp_path, digits, number):
    undisturbed, killed = tmp_path / "a" / "x.safetensors", tmp_path / "b" / "x.safetensors"
    for file in (undisturbed, killed):
        file.parent.mkdir()
    subprocess.run(arguments(digits, undisturbed), check=True, capture_output=True)
    state = killed.with_name("x.safetensors.training")
    chance, kills = random.Random(0), 0
    for _ in range(int(os.environ.get("ALDS_TEST_KILLS", "3"))):
        command = arguments(digits, killed) + ["--resume"] * (kills > 0)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        begun(state, process)
        time.sleep(chance.uniform(0, 0.2))
        process.send_signal(number)
        _, errors = process.communicate()
        if process.returncode == 0:
            break  # it was done
        kills += 1
        assert not killed.exists()
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
        assert state.exists()
    assert kills >= 2
    done = subprocess.run(
        [*arguments(digits, killed), "--resume"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert killed.read_bytes() == undisturbed.read_bytes()
    assert not state.exists()
