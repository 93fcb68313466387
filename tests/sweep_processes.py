"""Sweeps in processes that end in every possible way; a program for `test_sweeping_processes`.

It imports torch once and forks, so that a process that is killed after a moment costs no
more than that moment. Standard output carries one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_networks import digits_network

from alds_cli import api
from alds_cli.checkpoint.run_folder import RunFolder
from alds_cli.retraining import RetrainSettings


def arguments(place):
    """Return arguments for two methods, one of them random, with and without retraining."""
    return {
        "data": f"tensors:{place / 'test.safetensors'}",
        "methods": ["alds", "alds:solver=alternating"],
        "ratios": ["0.5", "0.999"],  # the last is out of reach
        "repeats": 2,
        "retrain_epochs": (0, 1),
        "retraining": RetrainSettings(epochs=1, batch_size=32, augmentation="none"),
        "train_data": f"tensors:{place / 'train.safetensors'}",
    }


def begin(place, folder):
    """Fork a process that sweeps, and writes its number of runs to `FOLDER.made.PID`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            made = sweep(place, folder)
            (place / f"{folder}.made.{os.getpid()}").write_text(str(made))
            code = 0
        finally:
            os._exit(code)
    return child


def sweep(place, folder):
    """Sweep, and return the number of runs made."""
    return api.sweep(place / "model.pt", output=place / folder, **arguments(place)).made


def ended(child):
    """Wait for a process, and return its exit code, which is negative after a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child, delay):
    """Kill a process after a moment."""
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    ended(child)


def main(place, kills, seed):
    """Make an undisturbed sweep, one that is killed repeatedly, and one shared by processes."""
    draw = random.Random(seed)
    made = {"undisturbed": [sweep(place, "undisturbed")]}  # loads everything that the others need
    records = RunFolder(place / "undisturbed").records()
    whole = sum(sum(record.seconds.values()) for record in records)
    for _ in range(kills):
        kill(begin(place, "killed"), draw.uniform(0, whole / 2))
    survivor, victim = begin(place, "killed"), begin(place, "killed")
    kill(victim, draw.uniform(0, whole))
    crowd = [begin(place, "crowd") for _ in range(2)]
    codes = [ended(child) for child in (survivor, *crowd)]
    for folder in ("killed", "crowd"):
        made[folder] = [int(path.read_text()) for path in place.glob(f"{folder}.made.*")]
    json.dump({"codes": codes, "made": made}, sys.stdout)


def prepare(place):
    """Write a network and images."""
    torch.save(digits_network().state_dict(), place / "model.pt")
    generator = torch.Generator().manual_seed(0)
    for name in ("train", "test"):
        images = torch.randint(0, 256, (64, 8, 8, 1), generator=generator, dtype=torch.uint8)
        save_file(
            {"images": images, "labels": torch.arange(64) % 10}, place / f"{name}.safetensors"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    prepare(folder)
    main(folder, int(sys.argv[2]), int(sys.argv[3]))
