"""An iteration whose process is killed at random moments; a program for `test_iterating`.

It imports torch once and forks, so that a process that is killed after a moment costs no more than
that moment. It works in the current folder; standard output carries one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

import torch

from alds_cli import api
from alds_cli.retraining import RetrainSettings


def iterate():
    """Go on with the iteration."""
    api.iterate(
        "model.pt",
        "tensors:data.safetensors",
        RetrainSettings(epochs=2, batch_size=32, augmentation="none", seed=3),
        to=0.8,
        steps=2,
        method="alds",
        device="cpu",
        cache=False,
        output="small.pt",
        resume=True,
    )


def begin():
    """Fork a process that goes on with the iteration."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            iterate()
            code = 0
        finally:
            os._exit(code)
    return child


def main(seed):
    """Kill ten processes, or as many as do not reach the end, and let the last one finish."""
    draw, killed = random.Random(seed), 0
    for _ in range(10):
        child = begin()
        time.sleep(draw.uniform(0.02, 0.4))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in {0, -signal.SIGKILL}, code
        killed += code != 0
    assert os.waitstatus_to_exitcode(os.waitpid(begin(), 0)[1]) == 0
    json.dump({"killed": killed}, sys.stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]))
