"""The tour under examples/ uses the README's commands alone, and works in an empty folder."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pages import ROOT, blocks_of, commands_of
from safetensors.torch import load_file, save_file

import alds_cli

TOUR = ROOT / "examples" / "tour"
SCRIPT, NOTEBOOK = TOUR / "tour.sh", TOUR / "tour.ipynb"
README = blocks_of(ROOT / "README.md")


def cells():
    """The code of the notebook, cell by cell."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    found = notebook["cells"]
    assert len({cell["id"] for cell in found}) == len(found)
    code = [cell for cell in found if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    return ["".join(cell["source"]) for cell in code]


def as_python(cell):
    """Turn the commands of a cell into calls, as a notebook's kernel does."""
    lines = cell.splitlines()
    return "\n".join(f"_shell({own[1:]!r})" if own.startswith("!") else own for own in lines)


def commands_in_script():
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    return [own for own in lines if own.startswith("alds ")]


def test_all_of_it_stands_in_the_readme():
    shown = [block for block in README if block.language in {"sh", "console"}]
    commands = {command for block in shown for command, _ in commands_of(block)}
    code = {block.text.strip() for block in README if block.language == "python"}
    assert len(commands_in_script()) >= 4
    assert set(commands_in_script()) <= commands
    for cell in cells():
        assert cell in code or cell.removeprefix("!") in commands


@pytest.fixture
def run_in_empty_folder(tmp_path, shared):
    """Run a program in a folder with nothing but the files that the tour names."""
    (tmp_path / "resnet20.safetensors").symlink_to(shared / "weights/cifar10_resnet20.safetensors")
    images = load_file(shared / "data" / "cifar10" / "test-dev.safetensors")
    few = {name: own[:200].contiguous() for name, own in images.items()}
    save_file(few, tmp_path / "cifar10-test.safetensors")
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def call(*command):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PATH": programs},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return call


@pytest.mark.slow
def test_the_script_runs(run_in_empty_folder, tmp_path):
    assert SCRIPT.stat().st_mode & stat.S_IXUSR
    out = run_in_empty_folder(SCRIPT)
    assert "200 images on cpu" in out
    assert out.count("verified: ") == 2
    before, after = (
        269_722,
        sum(own.numel() for own in alds_cli.load(tmp_path / "half.pt").parameters()),
    )
    assert after < 0.5 * before


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_order(run_in_empty_folder, tmp_path):
    shell = (
        "import subprocess\ndef _shell(command): subprocess.run(command, shell=True, check=True)"
    )
    shown = "print(type(network).__name__)"
    run_in_empty_folder(sys.executable, "-c", "\n".join([shell, *map(as_python, cells()), shown]))
    network = alds_cli.load(tmp_path / "small.pt")
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert json.loads((tmp_path / "plan.json").read_text())["layers"]
