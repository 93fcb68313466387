"""`alds inspect` of a file whose network is not known: what is in it, and why none fits."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alds_cli import api
from alds_cli.architectures import build
from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture


def stranger():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32)
    return {
        **nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).state_dict(),
        "ids": torch.arange(4),
        "gate": torch.tensor(1.0, dtype=torch.bfloat16),
    }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_names_shapes_and_types_are_listed(suffix, tmp_path, run):
    state, path = stranger(), tmp_path / f"model{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    code, out, err = run("inspect", path, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["architecture"] is None
    assert found["bytes"] == path.stat().st_size
    assert found["scalars"] == sum(tensor.numel() for tensor in state.values())
    assert {each["name"]: (each["shape"], each["dtype"]) for each in found["tensors"]} == {
        name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    }
    assert "no known network" in found["reason"]
    assert "no known network" in err
    assert "--arch" in err


def test_modules_that_are_alike_share_a_row(tmp_path, run):
    torch.save(stranger(), tmp_path / "model.pt")
    code, out, _ = run("inspect", tmp_path / "model.pt", "-q")
    assert code == 0
    rows = [row for row in out.splitlines() if "layers." in row]
    assert len(rows) == 6
    assert all("layers.0–11." in row and " 12 " in row for row in rows)
    assert "in_proj_weight 48×16" in out
    assert "bfloat16" in out


def test_the_nearest_network_is_told(tmp_path, run):
    state = build(Architecture("cifar_resnet20")).state_dict()
    state["linear.weight"] = state["linear.weight"].T
    torch.save(state, tmp_path / "model.pt")
    code, out, err = run("inspect", tmp_path / "model.pt")
    assert code == 0
    assert "linear" in out
    assert "cifar_resnet20" in err


def test_a_network_that_is_named_must_fit(tmp_path):
    torch.save(stranger(), tmp_path / "model.pt")
    with pytest.raises(ArchitectureError):
        api.inspect(tmp_path / "model.pt", api.Source("cifar_resnet20"))
    found = api.inspect(tmp_path / "model.pt")
    assert isinstance(found, api.Contents)
    assert found.tensors[-1] == api.StoredTensor("gate", (), "bfloat16")


@pytest.mark.parametrize("name", ["9" * 5000, "\x1b[2Jx", "a..b", "1.2.3", "[bold]x"])
def test_odd_names_are_shown_without_harm(name, tmp_path, run):
    torch.save(
        {f"{name}.weight": torch.ones(2, 2), "0.weight": torch.ones(2, 2)}, tmp_path / "m.pt"
    )
    code, out, err = run("inspect", tmp_path / "m.pt")
    assert code == 0, err
    assert "\x1b" not in out
