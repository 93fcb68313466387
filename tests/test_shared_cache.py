"""The cache and outputs that several processes share, and caches that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from itertools import cycle, islice

import pytest
from forked_commands import barrier_of, begin, run_forked

TABLES = ("--method", "alds")
MORE_TABLES = ("--method", "alds+")


@pytest.fixture
def images(digits):
    """Images for the methods that keep moments in the cache, and the options of a quick one."""
    data = f"tensors:{digits / 'data.safetensors'}"
    return ("--method", "alds-data", "--data", data)


def compress(model, how, output, ratio="0.5"):
    return ("compress", model, "--ratio", ratio, *how, "-o", output)


@pytest.mark.slow
def test_twenty_commands_at_once_share_the_cache_and_their_outputs(
    model, images, tmp_path, cache_folder_of_the_test
):
    """Some need tables that others do not, and two of them give one file different contents."""
    asked = [
        compress(model, TABLES, "tables.pt"),
        compress(model, MORE_TABLES, "more.pt"),
        compress(model, images, "data.pt"),
        compress(model, TABLES, "either.pt"),
        compress(model, TABLES, "either.pt", ratio="0.3"),
    ]
    alone, together = tmp_path / "alone", tmp_path / "together"
    admitted = {}
    for number, arguments in enumerate(asked):
        folder = alone / str(number)
        folder.mkdir(parents=True)
        code, printed = run_forked(arguments, folder, ALDS_CACHE_DIR=str(folder / "cache"))
        assert code == 0, printed
        admitted.setdefault(arguments[-1], []).append((folder / arguments[-1]).read_bytes())
    assert len(set(admitted["either.pt"])) == 2

    together.mkdir()
    barrier, either, seen = barrier_of(20), together / "either.pt", set()
    commands = [
        begin(arguments, together, together / f"{number}.log", barrier=barrier)
        for number, arguments in enumerate(islice(cycle(asked), 20))
    ]
    while any(command.is_alive() for command in commands):
        if either.exists():
            seen.add(either.read_bytes())
        commands[-1].join(timeout=0.005)
    printed = "".join(path.read_text() for path in together.glob("*.log"))
    assert [command.exitcode for command in commands] == [0] * 20, printed
    assert "warning: " not in printed
    for name, contents in admitted.items():
        assert (together / name).read_bytes() in contents
    assert seen <= set(admitted["either.pt"])
    left = [path.name for path in (*together.iterdir(), *cache_folder_of_the_test.rglob("*"))]
    assert {name for name in left if name.endswith((".partial", ".lock"))} == set()
    assert sum(name.startswith("table-") for name in left) == 1

    code, printed = run_forked((*asked[0], "-v"), together)
    assert code == 0
    assert "warning: " not in printed
    assert (together / "tables.pt").read_bytes() == admitted["tables.pt"][0]


def require_one_warning(run, arguments, output, reason):
    """The command does its work, and says once that nothing is kept, and why."""
    code, _, err = run(*arguments)
    assert code == 0, err
    assert err.count("warning: ") == 1, err
    assert "warning: results are not cached" in err
    assert reason in err
    assert output.stat().st_size > 1000
    assert list(output.parent.glob(".*")) == []


@pytest.mark.parametrize("below", ["", "cache"])
def test_a_file_where_the_cache_should_be_is_one_warning(
    below, run, model, images, tmp_path, monkeypatch
):
    place, output = tmp_path / "place", tmp_path / "small.pt"
    place.touch()
    monkeypatch.setenv("ALDS_CACHE_DIR", str(place / below))
    tuned = (*compress(model, images, output), "--tune-steps", "1")
    require_one_warning(run, tuned, output, f"cannot make the folder {place / below}")


@contextmanager
def mounted(folder, options):
    """Mount a file system in memory, or skip the test where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("needs the right to mount file systems")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's file systems")


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [("ro", "Read-only file system"), ("size=8k", "No space left"), ("nr_inodes=1", "No space")],
)
def test_a_cache_that_takes_nothing_is_one_warning(
    options, reason, run, model, images, tmp_path, monkeypatch
):
    cache, output = tmp_path / "cache", tmp_path / "small.pt"
    monkeypatch.setenv("ALDS_CACHE_DIR", str(cache))
    tuned = (*compress(model, images, output), "--tune-steps", "1")
    with mounted(cache, options):
        require_one_warning(run, tuned, output, reason)


@needs_linux
@pytest.mark.slow
def test_a_cache_that_can_only_be_read_is_used(run, model, images, tmp_path, monkeypatch):
    cache, output = tmp_path / "cache", tmp_path / "small.pt"
    monkeypatch.setenv("ALDS_CACHE_DIR", str(cache))
    asked = (*compress(model, images, output), "-v")
    with mounted(cache, "size=64m"):
        run(*asked)
        expected = output.read_bytes()
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
        code, _, err = run(*asked)
    assert code == 0
    assert "moments of the inputs of 6 layers come from the cache" in err
    assert "warning: " not in err
    assert output.read_bytes() == expected
