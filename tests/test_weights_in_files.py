"""Weights that stay in the files they are read from, and those that are put into files."""

from __future__ import annotations

import hashlib

import pytest
import torch
import transformers_folders
from proc_memory import LINUX, own_bytes
from safetensors.torch import save_file
from torch import nn

from alds_cli import api
from alds_cli.architectures.zoo import ZOO
from alds_cli.checkpoint import mapped_files, read_checkpoint
from alds_cli.checkpoint.mapped_files import aside, weights_in_files


@pytest.fixture
def all_large(monkeypatch):
    """Let nearly every weight of a small network count as large."""
    monkeypatch.setattr(mapped_files, "_LARGE", 64)


def contents(path):
    """Return the digest of a file, or of each file in a folder."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {each.relative_to(path): hashlib.sha256(each.read_bytes()).hexdigest() for each in found}


def saved(form, folder):
    """Save a small network, and return its file or folder."""
    if form == "folder":
        return transformers_folders.saved("bert", folder / "model", max_shard_size="20KB")
    torch.manual_seed(0)
    state = ZOO["cifar_resnet20"].factory().state_dict()
    path = folder / f"model.{form}"
    save_file(state, path) if form == "safetensors" else torch.save(state, path)
    return path


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize(
    "form", ["safetensors", "pt", pytest.param("folder", marks=pytest.mark.slow)]
)
def test_the_artefact_is_the_same_and_the_input_stays_as_it_is(form, tmp_path):
    model = saved(form, tmp_path)
    before = contents(model)
    suffix = "" if form == "folder" else f".{form}"
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    api.compress(model, ratio=0.3, output=one, cache=False)
    with weights_in_files(tmp_path):
        api.compress(model, ratio=0.3, output=other, cache=False)
    assert contents(one) == contents(other)
    assert contents(model) == before
    assert not list(tmp_path.glob(".alds-*"))


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_the_result_may_replace_the_model(form, tmp_path):
    model, expected = saved(form, tmp_path), tmp_path / f"expected.{form}"
    api.compress(model, ratio=0.3, output=expected, cache=False)
    with weights_in_files(tmp_path):
        api.compress(model, ratio=0.3, output=model, cache=False)
    assert contents(model).popitem()[1] == contents(expected).popitem()[1]


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_what_is_written_into_a_mapped_tensor_does_not_reach_the_file(form, tmp_path):
    model = saved(form, tmp_path)
    before = contents(model)
    with weights_in_files(tmp_path):
        tensors = read_checkpoint(model).tensors
    for tensor in tensors.values():
        tensor.fill_(3)
    assert all(bool((tensor == 3).all()) for tensor in tensors.values())
    assert contents(model) == before


@LINUX
@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_reading_takes_no_memory_for_large_weights(form, tmp_path):
    weights = {f"{number}.weight": torch.ones(4096, 2048) for number in range(4)}
    size = sum(tensor.nbytes for tensor in weights.values())
    path = tmp_path / f"large.{form}"
    save_file(weights, path) if form == "safetensors" else torch.save(weights, path)
    del weights
    before = own_bytes()
    with weights_in_files(tmp_path):
        tensors = read_checkpoint(path).tensors
    assert all(float(tensor.sum()) == tensor.numel() for tensor in tensors.values())
    assert own_bytes() - before < size / 4


@LINUX
def test_what_is_put_aside_leaves_memory(tmp_path):
    free = torch.full((4096, 2048), 1.0)  # so that no block kept by the heap can take it later
    del free
    before = own_bytes()
    with weights_in_files(tmp_path):
        kept = [aside(torch.full((4096, 2048), float(number))) for number in range(4)]
    assert own_bytes() - before < sum(tensor.nbytes for tensor in kept) / 2
    assert [float(tensor[-1, -1]) for tensor in kept] == [0, 1, 2, 3]
    assert not list(tmp_path.iterdir())


def in_file(tensor):
    """Tell whether a tensor is put into a file."""
    return aside(tensor) is not tensor


def test_smaller_weights_go_into_files_once_there_were_many(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_files, "_MANY", 8 << 20)
    small, tiny = torch.rand(256, 256), torch.rand(64, 64)
    assert not in_file(small)
    with weights_in_files(tmp_path):
        assert not in_file(small)
        assert not in_file(tiny)
        assert in_file(torch.rand(2048, 1024))
        assert in_file(small)
        assert not in_file(tiny)
    assert not in_file(small)
    with weights_in_files(tmp_path):  # which counts anew
        assert not in_file(small)


def test_freed_memory_is_returned_again_and_again_once_there_were_some(tmp_path, monkeypatch):
    times = []
    monkeypatch.setattr(mapped_files, "_SOME", 40 << 20)
    monkeypatch.setattr(mapped_files, "give_back", lambda: times.append(1))
    counted = []
    with weights_in_files(tmp_path):
        for _ in range(100):
            aside(torch.empty(256, 1024))
            counted.append(len(times))
    assert counted[62] == 0
    assert counted[-1] == 2  # at 64 and 96 MiB


@LINUX
def test_small_weights_take_no_memory_once_there_were_many(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_files, "_MANY", 8 << 20)
    with weights_in_files(tmp_path):
        aside(torch.ones(2048, 1024))
        before = own_bytes()
        kept = [aside(torch.full((256, 256), float(number))) for number in range(512)]
        assert own_bytes() - before < sum(tensor.nbytes for tensor in kept) / 2
    assert [float(tensor[-1, -1]) for tensor in kept] == list(range(512))


def test_without_a_place_for_files_weights_stay_in_memory(tmp_path):
    tensor = nn.Parameter(torch.rand(1024, 1024))
    with weights_in_files(tmp_path / "absent"):
        assert aside(tensor) is tensor
