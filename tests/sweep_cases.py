"""Records as sweeps write them, for the tests of several modules."""

from __future__ import annotations

import json

from alds_cli.checkpoint.run_folder import RunKey
from alds_cli.records import (
    Choice,
    Evaluation,
    Latency,
    LayerReport,
    SweepBaseline,
    SweepRecord,
)


def baseline(**changes):
    """Make the baseline of a sweep."""
    fields = {
        "model": "model.pt",
        "architecture": "digits_cnn",
        "weights_hash": "0" * 64,
        "params": 1000,
        "macs": 20_000,
        "bytes": 5000,
        "data": "tensors:data.safetensors",
        "quality": Evaluation(91.5, 99.5, 0.25, 64),
    }
    return SweepBaseline(**{**fields, **changes})


def record(key=None, **changes):
    """Make a finished run."""
    key = key or RunKey("alds", "0.5", 0, 0)
    fields = {
        "seed": key.repeat,
        "reached": True,
        "params": 500,
        "macs": 9000,
        "bytes": 2500,
        "quality": Evaluation(88.25, None, 0.5, 64),
        "latency": Latency(1.0, 0.5, 1.5, 10, 1, "cpu"),
        "layers": (
            LayerReport("conv", (4, 3, 3, 3), 108, 50, Choice(0, 1, 2), 0.1, 0.2),
            LayerReport("fc", (10, 4), 50, 50, reason="no low-rank pair is smaller"),
        ),
        "seconds": {"compress": 0.25, "evaluate": 0.5},
    }
    return SweepRecord(**key._asdict(), **{**fields, **changes})


def without_times(folder):
    """Return the records of a sweep by file name, without measured times."""
    found = {}
    for path in sorted((folder / "records").glob("[!.]*")):
        content = json.loads(path.read_text())
        content["record"]["seconds"] = None
        found[path.name] = content
    return found
