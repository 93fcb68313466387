"""Buffers that are there in a form that a network does not have them in."""

from __future__ import annotations

import pytest
import torch

from alds_cli import architectures
from alds_cli.errors import ArchitectureError
from alds_cli.network.loading import load_network
from alds_cli.records import Architecture


def saved(path, **changed):
    tensors = architectures.build(Architecture("digits_cnn", {})).state_dict()
    for name, change in changed.items():
        key = f"features.1.{name}"
        tensors[key] = change(tensors[key])
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_buffers_of_few_bits_are_judged_like_others(dtype, tmp_path):
    path = saved(tmp_path / "model.pt", running_var=lambda tensor: tensor.to(dtype))
    found = load_network(path).module.state_dict()["features.1.running_var"]
    assert found.dtype == dtype
    assert bool((found.float() == 1).all())


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 0)])
@pytest.mark.parametrize("arch", [None, Architecture("digits_cnn", {})])
def test_buffers_that_may_be_lacking_must_fit_where_they_are_there(arch, shape, tmp_path):
    path = saved(tmp_path / "model.pt", num_batches_tracked=lambda _: torch.zeros(shape))
    with pytest.raises(ArchitectureError, match=r"features\.1\.num_batches_tracked is"):
        load_network(path, arch=arch)
