"""Parts of a set drawn at random: disjoint, complete, and the same for the same seed."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from alds_cli.calibration import draw_sample
from alds_cli.datasets import (
    PARTS,
    TensorImages,
    divided_parts,
    drawn_apart,
    open_dataset,
    part_of,
    tensor_files,
)
from alds_cli.datasets.division import without_part
from alds_cli.errors import DataError

SEEDS = st.integers(0, 2**63 - 1)


def images(count):
    """Images whose label is their number, and whose pixels are it too."""
    numbers = torch.arange(count)
    pixels = numbers.to(torch.uint8)[:, None, None, None].expand(count, 1, 2, 2)
    return TensorImages("set", [pixels.contiguous()], numbers)


@settings(deadline=None)
@given(st.integers(0, 300), st.lists(st.integers(0, 200), max_size=5), SEEDS)
def test_parts_are_disjoint_rising_and_as_large_as_asked(count, sizes, seed):
    parts = drawn_apart(count, sizes, seed)
    left = count
    for part, size in zip(parts, sizes, strict=True):
        assert len(part) == min(size, left)
        left -= len(part)
        assert part.tolist() == sorted(set(part.tolist()))
    drawn = torch.cat(parts).tolist() if parts else []
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(count))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 250), SEEDS)
def test_a_part_does_not_depend_on_those_after_it(count, size, seed):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first, second = drawn_apart(count, (size, count), seed)
    assert torch.equal(first, order[:size].sort().values)
    assert torch.equal(second, order[size:].sort().values)
    assert torch.equal(drawn_apart(count, (size, 3, 9), seed)[0], first)
    assert all(map(torch.equal, draw_sample(count, size, seed), (first, second)))


@settings(deadline=None)
@given(st.integers(3, 500), SEEDS)
def test_a_training_set_is_divided_whole(count, seed):
    whole = images(count)
    parts = divided_parts(whole, seed)
    found = [parts.train, parts.calibration, parts.early_stopping]
    together = torch.cat([part.labels for part in found])
    assert sorted(together.tolist()) == list(range(count))
    few = max(1, round(count / 20))
    assert [len(part) for part in found] == [count - 2 * few, few, few]
    record = parts.record
    assert [record.train, record.calibration, record.early_stopping] == [len(p) for p in found]
    assert (record.seed, record.fingerprint) == (seed, whole.fingerprint())
    for name, part in zip(PARTS, found, strict=True):
        assert torch.equal(part_of(whole, name, seed).labels, part.labels)
        assert part.image(0).unique().item() == int(part.labels[0]) % 256


def test_the_paper_divides_cifar10_into_45000_2500_and_2500():
    parts = divided_parts(
        TensorImages("x", [torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8)], None)
    )
    assert (parts.record.train, parts.record.calibration) == (45_000, 2_500)
    assert parts.record.early_stopping == 2_500


def test_other_seeds_divide_differently():
    whole = images(100)
    drawn = {tuple(part_of(whole, "calibration", seed).labels.tolist()) for seed in range(20)}
    assert len(drawn) == 20


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_are_refused(count):
    with pytest.raises(DataError, match=f"set has {count} image") as caught:
        divided_parts(images(count))
    assert caught.value.tip


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "set#1.safetensors"
    pixels = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 1, 4, 4)
    save_file({"images": pixels.contiguous(), "labels": torch.arange(40) % 10}, path)
    return f"tensors:{path}"


@pytest.mark.parametrize("suffix", ["", ",seed=0", ",seed=7"])
def test_specs_name_parts(stored, suffix):
    whole = open_dataset(stored)
    seed = 7 if "7" in suffix else 0
    for part in PARTS:
        found = open_dataset(f"{stored}#{part}{suffix}")
        assert found.fingerprint() == part_of(whole, part, seed).fingerprint()
        assert found.name == f"{stored}#{part}{suffix}"
        assert tensor_files(found.name) == tensor_files(stored)


@pytest.mark.parametrize(
    "spec",
    ["x:a#tests", "x:a#train,seed=-1", "x:a#train,seed=", "x:a#train/", "#train", "x:a#train,"],
)
def test_other_suffixes_belong_to_the_name(spec):
    assert without_part(spec) == (spec, None, 0)


def test_a_part_of_a_part_is_none():
    assert without_part("x:a#train#calibration") == ("x:a#train", "calibration", 0)


def test_commands_take_parts(run, digits, tmp_path):
    data = f"tensors:{digits / 'data.safetensors'}"
    common = ("evaluate", digits / "model.pt", "--no-latency", "--json", "--data")
    sizes = [json.loads(run(*common, f"{data}#{part}")[1])["images"] for part in PARTS]
    assert sizes == [58, 3, 3]
    code, _, err = run(
        *("compress", digits / "model.pt", "-r", "0.3", "--data", f"{data}#calibration"),
        *("-o", digits / "data.safetensors"),
    )
    assert code == 2
    assert "data.safetensors" in err
    code, out, err = run(*common, f"tensors:{tmp_path}/absent.safetensors#train")
    assert (code, json.loads(out)["error"]) == (2, "DataError")
    assert "absent.safetensors" in err
