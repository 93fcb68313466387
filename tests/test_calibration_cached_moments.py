"""Moments of inputs in the cache and in several passes: the same bits, and never another's."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_networks import digits_network
from torch import nn

from alds_cli import api
from alds_cli.calibration import (
    calibration_batches,
    gather_responses,
    moment_cache,
    moment_passes,
)
from alds_cli.calibration.identity import network_digest
from alds_cli.calibration.input_moments import gather_input_moments
from alds_cli.checkpoint import moment_files
from alds_cli.datasets import Batches, opened
from alds_cli.records import Preprocessing
from alds_cli.surgery import find_layers


def write_digits(path, *, seed=0, labels=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (40, 8, 8, 1), generator=generator, dtype=torch.uint8)
    save_file({"images": pixels, "labels": torch.full((40,), labels)}, path)
    return f"tensors:{path}"


@pytest.fixture
def data(tmp_path):
    return write_digits(tmp_path / "digits.safetensors")


@pytest.fixture
def reads(monkeypatch):
    """A list that grows by one with every pass over images."""
    passes = []
    whole = Batches.__iter__

    def counted(batches):
        passes.append(len(batches))
        return whole(batches)

    monkeypatch.setattr(Batches, "__iter__", counted)
    return passes


def batches(data, *, samples=24, seed=0, mean=0.1, size=8):
    prepared = Preprocessing((mean,), (0.3,))
    return calibration_batches(
        opened(data, split="train"), prepared, samples=samples, seed=seed, batch_size=size
    )


def gathered(network, images, **asked):
    return gather_input_moments(network, find_layers(network), images, cache=True, **asked)


def require_same(found, expected):
    assert list(found) == list(expected)
    for name, own in expected.items():
        assert found[name].count == own.count
        assert found[name].absorber == own.absorber
        assert torch.equal(found[name].mean, own.mean)
        assert torch.equal(found[name].moments, own.moments)


def stored(folder):
    return sorted(folder.glob("moments-v*/*.safetensors"))


def test_a_second_compression_runs_no_images_and_gives_the_same_bytes(model, data, tmp_path, reads):
    asked = {"data": data, "samples": 24}
    plans = [("alds-data", "0.6", "exact"), ("balf", "0.4", "lagrangian"), ("pca", "0.3", None)]
    cold = []
    for method, ratio, solver in plans:
        path = tmp_path / f"cold-{method}.safetensors"
        api.compress(
            model, ratio=ratio, method=method, solver=solver, output=path, cache=False, **asked
        )
        cold.append(path.read_bytes())
    for method in ("alds-data", "pca"):
        api.compress(model, ratio="0.5", method=method, dry_run=True, **asked)
    count = len(reads)
    assert count == 5
    for (method, ratio, solver), expected in zip(plans, cold, strict=True):
        path = tmp_path / f"warm-{method}.safetensors"
        api.compress(model, ratio=ratio, method=method, solver=solver, output=path, **asked)
        assert path.read_bytes() == expected
    assert len(reads) == count


@pytest.mark.parametrize("kind", ["digits", "tall", "uncalled"])
def test_responses_are_kept_likewise(kind, data, reads):
    torch.manual_seed(0)
    tall = nn.Sequential(nn.Conv2d(1, 12, 3, groups=1), nn.Conv2d(12, 60, 1, groups=4, bias=False))
    network = {"digits": digits_network(), "tall": tall, "uncalled": Uncalled()}[kind]
    specs = {name: replace(spec, reason=None) for name, spec in find_layers(network).items()}
    expected = gather_responses(network, specs, batches(data))
    some = dict(list(specs.items())[1:])
    gather_responses(network, some, batches(data), cache=True)
    for passes in (2, 2):
        found = gather_responses(network, specs, batches(data), cache=True)
        assert len(reads) == 1 + passes
        assert list(found) == list(expected)
        for name, own in expected.items():
            assert (found[name].count, found[name].absorber) == (own.count, own.absorber)
            assert torch.equal(found[name].mean, own.mean)
            assert torch.equal(found[name].moments, own.moments)
            assert (found[name].frame is None) == (own.frame is None)
            assert own.frame is None or torch.equal(found[name].frame, own.frame)


def test_two_at_a_time_gather_once(data, reads, monkeypatch):
    network = digits_network()
    expected = gather_input_moments(network, find_layers(network), batches(data))
    both = threading.Barrier(2, timeout=60)
    claim = moment_cache.claimed

    def claimed(*args, **named):
        both.wait()  # neither has found anything yet
        return claim(*args, **named)

    monkeypatch.setattr(moment_cache, "claimed", claimed)
    count = len(reads)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(gathered, network, batches(data)) for _ in range(2)]
    for run in runs:
        require_same(run.result(), expected)
    assert len(reads) == count + 1


def test_without_the_cache_nothing_is_kept(model, data, cache_folder_of_the_test):
    asked = {"method": "alds-data", "data": data, "ratio": "0.5", "dry_run": True}
    api.compress(model, cache=False, **asked)
    assert not cache_folder_of_the_test.exists()
    api.compress(model, **asked)
    assert stored(cache_folder_of_the_test)
    assert not list(cache_folder_of_the_test.glob("*.lock"))


def test_only_what_is_missing_is_gathered(data, reads, cache_folder_of_the_test):
    network = digits_network()
    specs = find_layers(network)
    some = dict(list(specs.items())[1:])
    expected = gather_input_moments(network, specs, batches(data))
    gather_input_moments(network, some, batches(data), cache=True)
    before = {path: path.stat().st_mtime_ns for path in stored(cache_folder_of_the_test)}
    assert len(before) == len(some)
    require_same(gathered(network, batches(data)), expected)
    after = {path: path.stat().st_mtime_ns for path in stored(cache_folder_of_the_test)}
    assert len(after) == len(specs)
    assert before.items() <= after.items()
    count = len(reads)
    require_same(gathered(network, batches(data)), expected)
    assert len(reads) == count


class Uncalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.never = nn.Linear(64, 4), nn.Linear(4, 4)

    def forward(self, image):
        return self.used(image.flatten(1))


def test_layers_that_are_never_called_are_known_to_be(data, reads):
    for _ in range(2):
        assert list(gathered(Uncalled(), batches(data))) == ["used"]
        torch.manual_seed(0)
    network = Uncalled()
    gathered(network, batches(data))
    count = len(reads)
    assert list(gathered(network, batches(data))) == ["used"]
    assert len(reads) == count


def test_the_images_and_their_preparation_count_but_not_their_labels(data, tmp_path, reads):
    network = digits_network()
    gathered(network, batches(data))
    count = len(reads)
    gathered(network, batches(write_digits(tmp_path / "labelled.safetensors", labels=3)))
    assert len(reads) == count
    others = [
        batches(data, seed=1),
        batches(data, samples=23),
        batches(data, mean=0.2),
        batches(data, size=7),
        batches(write_digits(tmp_path / "others.safetensors", seed=1)),
    ]
    for number, images in enumerate(others, start=1):
        expected = gather_input_moments(network, find_layers(network), images)
        require_same(gathered(network, images), expected)
        assert len(reads) == count + 2 * number


def rewritten(path, change):
    """Change a file of moments; the head still fits what it says."""
    with safe_open(path, "pt") as file:
        head = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, head)


DAMAGES = {
    "empty": lambda path, _: path.write_bytes(b""),
    "cut": lambda path, _: path.write_bytes(path.read_bytes()[:-9]),
    "another number": lambda path, _: rewritten(path, lambda t: t["mean"][0, :1].add_(1e-9)),
    "no number": lambda path, _: rewritten(path, lambda t: t["covariance"].fill_(torch.nan)),
    "other type": lambda path, _: rewritten(path, lambda t: t.update(mean=t["mean"].float())),
    "other shape": lambda path, _: rewritten(path, lambda t: t.update(mean=t["mean"][:, :-1] * 1)),
    "no covariance": lambda path, _: rewritten(path, lambda t: t.pop("covariance")),
    "more": lambda path, _: rewritten(path, lambda t: t.update(more=torch.ones(1))),
    "no head": lambda path, _: save_file(load_file(path), path),
    "another layer": lambda path, other: path.write_bytes(other.read_bytes()),
    "a folder": lambda path, _: (path.unlink(), path.mkdir()),
}


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_not_trusted(damage, data, cache_folder_of_the_test, caplog):
    network = digits_network()
    expected = gather_input_moments(network, find_layers(network), batches(data))
    gathered(network, batches(data))
    files = stored(cache_folder_of_the_test)
    DAMAGES[damage](files[0], files[1])
    require_same(gathered(network, batches(data)), expected)
    assert "gathered anew" in caplog.text


def test_another_networks_file_is_not_trusted(data, cache_folder_of_the_test, caplog):
    gathered(digits_network(1), batches(data))
    (other,) = cache_folder_of_the_test.glob("moments-v*")
    network = digits_network()
    expected = gather_input_moments(network, find_layers(network), batches(data))
    gathered(network, batches(data))
    (own,) = set(cache_folder_of_the_test.glob("moments-v*")) - {other}
    for path in other.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    require_same(gathered(network, batches(data)), expected)
    assert "belong to something else" in caplog.text


def test_a_file_where_the_cache_should_be_is_a_warning(data, cache_folder_of_the_test, caplog):
    cache_folder_of_the_test.write_text("in the way")
    network = digits_network()
    expected = gather_input_moments(network, find_layers(network), batches(data))
    require_same(gathered(network, batches(data)), expected)
    assert "not cached" in caplog.text


@pytest.mark.parametrize("cache", [False, True])
def test_several_passes_give_the_same_bits(cache, data, monkeypatch, reads, tmp_path):
    network = digits_network()
    specs = find_layers(network)
    expected = gather_input_moments(network, specs, batches(data))
    monkeypatch.setattr(moment_passes, "AT_ONCE", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    events = []
    count, names = len(reads), sorted(path.name for path in tmp_path.iterdir())
    found = gather_input_moments(network, specs, batches(data), progress=events.append, cache=cache)
    require_same(found, expected)
    assert len(reads) == count + len(expected)
    total = 3 * len(expected)
    assert [(event.done, event.total) for event in events] == [
        (done, total) for done in range(1, total + 1)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    once = iter(list(batches(data)))
    require_same(gather_input_moments(network, specs, once), expected)


def test_moments_that_no_file_can_hold_stay_in_memory(data, monkeypatch, caplog, tmp_path):
    network = digits_network()
    expected = gather_input_moments(network, find_layers(network), batches(data))
    monkeypatch.setattr(moment_passes, "AT_ONCE", 1)
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setattr(moment_passes, "_temporary_folder", lambda: nullcontext(in_the_way))
    require_same(gather_input_moments(network, find_layers(network), batches(data)), expected)
    assert "held in memory" in caplog.text


def test_what_was_not_used_for_longest_is_removed(data, monkeypatch, cache_folder_of_the_test):
    networks = [digits_network(seed) for seed in range(3)]
    for number, network in enumerate(networks):
        gathered(network, batches(data))
        for folder in cache_folder_of_the_test.glob("moments-v*"):
            stat = folder.stat()
            os.utime(folder, ns=(0, stat.st_mtime_ns - 10**9 * (3 - number)))
    sizes = [
        sum(file.stat().st_size for file in folder.iterdir())
        for folder in cache_folder_of_the_test.glob("moments-v*")
    ]
    mapped = gathered(networks[0], batches(data))  # used last
    moment_files.trim_cached_moments(2 * max(sizes))
    left = {folder.name for folder in cache_folder_of_the_test.glob("moments-v*")}
    assert len(left) == 2
    gathered(networks[0], batches(data))
    gathered(networks[2], batches(data))
    assert {folder.name for folder in cache_folder_of_the_test.glob("moments-v*")} == left
    moment_files.trim_cached_moments(0)
    assert not stored(cache_folder_of_the_test)
    require_same(mapped, gather_input_moments(networks[0], find_layers(networks[0]), batches(data)))
    monkeypatch.setattr(moment_cache, "MOST_KEPT", 8)
    gathered(networks[0], batches(data))
    assert not stored(cache_folder_of_the_test)


@pytest.mark.parametrize("opaque", [torch.Generator(), iter([1]), itertools.count()])
def test_a_network_with_what_cannot_be_read_is_not_cached(
    opaque, data, cache_folder_of_the_test, caplog
):
    network = Uncalled()
    network.opaque = opaque
    caplog.set_level("INFO")
    assert network_digest(network) is None
    gathered(network, batches(data))
    assert not cache_folder_of_the_test.exists()
    assert "cannot be told from others" in caplog.text
