"""Sweeps that several processes share, and sweeps whose processes are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_cases import without_times

from alds_cli import api
from alds_cli.checkpoint.run_folder import RunFolder

PROGRAM = Path(__file__).with_name("sweep_processes.py")

# Two ratios: once by alds, twice by the random solver, and both twice after retraining.
RUNS = 2 * (1 + 2 + 2 * 2)


def swept(folder, kills, seed):
    """What the program did."""
    done = subprocess.run(
        [sys.executable, PROGRAM, folder, str(kills), str(seed)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def reported(folder):
    """The files of a sweep's report, byte for byte."""
    output = folder / "report"
    api.report(folder, output=output, plots=False)
    return {path.name: path.read_bytes() for path in output.iterdir()}


def check(folder, told):
    """All three sweeps hold the same; nobody failed, and nothing was made twice."""
    assert set(told["codes"]) == {0}
    assert told["made"]["undisturbed"] == [RUNS]
    assert len(told["made"]["crowd"]) == 2
    assert sum(told["made"]["crowd"]) == RUNS
    expected, report = without_times(folder / "undisturbed"), reported(folder / "undisturbed")
    assert len(expected) == RUNS
    for name in ("killed", "crowd"):
        assert without_times(folder / name) == expected
        assert reported(folder / name) == report
        same = [RunFolder(folder / other) for other in ("undisturbed", name)]
        assert same[0].baseline() == same[1].baseline()
        assert same[0].settings() == same[1].settings()
    assert list((folder / "crowd" / "claims").iterdir()) == []
    reached = [entry["record"]["reached"] for entry in expected.values()]
    assert reached.count(False) == RUNS // 2


@pytest.mark.slow
def test_killed_and_shared_sweeps_hold_what_an_undisturbed_one_holds(tmp_path):
    check(tmp_path, swept(tmp_path, kills=1, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_sweeps_survive_many_kills(tmp_path, seed):
    check(tmp_path, swept(tmp_path, kills=10, seed=seed))
