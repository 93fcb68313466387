"""The project under examples/ is one that somebody can copy: its files are sound, and they run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_networks import digits_network

from alds_cli.cli.stated_defaults import stated_defaults
from alds_cli.cli.verbs import declared_options

PROJECT = Path(__file__).resolve().parents[1] / "examples" / "gated-project"

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project, with a small model and its images."""
    copy = tmp_path / "project"
    shutil.copytree(PROJECT, copy)
    monkeypatch.chdir(copy)
    torch.save(digits_network().state_dict(), "model.pt")
    images = torch.randint(0, 256, (32, 8, 8, 1), dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(32) % 10}, "test.safetensors")
    return copy


def workflow():
    text = (PROJECT / ".github" / "workflows" / "gate.yml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    return {"on" if key is True else key: value for key, value in found.items()}  # YAML 1.1


def hook():
    text = (PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (repository,) = yaml.safe_load(text)["repos"]
    assert repository["repo"] == "local"
    (found,) = repository["hooks"]
    return found


def commands_of_workflow():
    steps = workflow()["jobs"]["gate"]["steps"]
    return [own["run"] for own in steps if own.get("run", "").startswith("alds ")]


def commands_of_make(folder):
    done = subprocess.run(
        ["make", "--dry-run", "gate"], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_the_defaults_name_options_that_there_are():
    found = stated_defaults(declared_options(), {}, PROJECT)
    assert found.file == PROJECT / "pyproject.toml"
    assert found.commands["evaluate"]["max_drop"].value == "0.1"
    assert found.commands["compress"]["ratio"].value == "0.3"


def test_the_workflow_has_what_github_asks_for():
    found = workflow()
    assert {"name", "on", "permissions", "jobs"} <= found.keys()
    assert found["on"].keys() <= {"push", "pull_request"}
    for job in found["jobs"].values():
        assert job["runs-on"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
    last = found["jobs"]["gate"]["steps"][-1]
    assert last["if"] == "always()"
    assert f"--junit {last['with']['path']}" in commands_of_workflow()[-1]


def test_the_hook_has_what_pre_commit_asks_for():
    found = hook()
    assert {"id", "name", "entry", "language", "files"} <= found.keys()
    assert found["pass_filenames"] is False  # evaluate takes one model
    assert re.search(found["files"], "small.pt")
    assert not re.search(found["files"], "docs/small.pt.md")


@needs_make
def test_make_compresses_what_is_older_and_then_asks(project):
    commands = commands_of_make(project)
    assert [line.split()[:2] for line in commands] == [["alds", "compress"], ["alds", "evaluate"]]
    (project / "small.pt").touch()
    assert commands_of_make(project) == commands[1:]


def all_commands(folder):
    made = commands_of_make(folder) if shutil.which("make") else []
    return [*made, *commands_of_workflow(), hook()["entry"]]


def test_every_command_of_the_examples_runs_and_ends_with_0(run, project):
    for line in all_commands(project):
        code, _, err = run(*shlex.split(line)[1:])
        assert code == 0, f"{line}\n{err}"
    assert (project / "small.pt").stat().st_size > 1000
    cases = ET.parse(project / "gates.xml").getroot().findall("*/testcase")
    assert [case.attrib["name"] for case in cases] == ["drop of top-1", "MACs", "bytes"]


def test_a_worse_model_fails_in_all_of_them(run, project, monkeypatch):
    run("compress", "model.pt", "-o", "small.pt", "-q")
    monkeypatch.setenv("ALDS_MAX_SIZE", "1kB")
    gates = [line for line in all_commands(project) if line.startswith("alds evaluate")]
    assert len(gates) >= 2
    for line in gates:
        (project / "gates.xml").unlink(missing_ok=True)
        code, out, err = run(*shlex.split(line)[1:])
        assert code == 1, line
        assert "1 of 3 gates failed: the file has" in err
        if "--format github" in line:
            assert "\n::error title=small.pt%3A bytes::the file has" in out
        if "--junit" in line:
            failures = ET.parse(project / "gates.xml").getroot().findall("*/testcase/failure")
            assert len(failures) == 1


@needs_make
@pytest.mark.slow
def test_make_itself_fails_where_a_gate_does(project):
    (project / "small.pt").write_bytes((project / "model.pt").read_bytes())
    alds = f"env ALDS_MAX_PARAMS=10 {sys.executable} -m alds_cli"
    done = subprocess.run(
        ["make", "gate", f"ALDS={alds}"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2  # that of make, whatever the command's
    assert "1 of 4 gates failed" in done.stderr
