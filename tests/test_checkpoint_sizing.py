"""The size of an artefact is known before it is written, to the byte."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from alds_cli.checkpoint import Document, artefact_size, write_artefact
from alds_cli.inputs import InputSpec
from alds_cli.records import Architecture, Choice, Plan
from alds_cli.tracing.trace import meta_copy

TYPES = (torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.int64, torch.bool)

NAMES = st.text("abz.0é_", min_size=1, max_size=40).filter(lambda name: name.strip("."))

SHAPES = st.lists(st.integers(0, 7), max_size=4)


@st.composite
def states(draw):
    """A state dict of any types, shapes and names."""
    made = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=12, unique=True)):
        made[name] = torch.ones(draw(SHAPES), dtype=draw(st.sampled_from(TYPES)))
    return made


def document(layers=3):
    plan = Plan({f"layer{n}.conv": Choice(0, 2, n + 1) for n in range(layers)})
    return Document(
        Architecture("resnet18", {"num_classes": 7}), plan, inputs=InputSpec.of_sample((3, 8, 8))
    )


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(state=states())
def test_size_is_known_to_the_byte(tmp_path, suffix, state):
    path = tmp_path / f"artefact{suffix}"
    written = write_artefact(state, document(), path)
    assert written == path.stat().st_size
    assert artefact_size(state, document(), path) == written
    hollow = {name: tensor.to("meta") for name, tensor in state.items()}
    assert artefact_size(hollow, document(), path) == written


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_tied_weights_count_as_they_are_written(tmp_path, suffix):
    net = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40))
    net[2].weight = net[0].weight
    path = tmp_path / f"artefact{suffix}"
    written = write_artefact(net.state_dict(), document(), path)
    assert artefact_size(net.state_dict(), document(), path) == written
    assert artefact_size(meta_copy(net).state_dict(), document(), path) == written


@pytest.mark.slow
def test_large_tensors_take_no_memory():
    code = """
import resource, torch
from alds_cli.checkpoint import Document, artefact_size
from alds_cli.tracing.trace import meta_copy
from alds_cli.records import Architecture, Plan
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
large = {"weight": torch.empty(1 << 14, 1 << 14, device="meta")}  # 1 GiB
for name in ("a.pt", "a.safetensors"):
    assert artefact_size(large, Document(Architecture("resnet18"), Plan({})), name) > 1 << 30
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 64 << 10  # KiB
