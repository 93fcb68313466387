"""The pages are true: their commands run, print what is shown, and their links lead somewhere.

The blocks of a page run one after another in one folder, as somebody does who types them; `pages`
tells what marks they may have. A line that is nothing but an `alds` command runs in a process that
is forked with the slow imports made already, all others in a shell that finds the installed `alds`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from forked_commands import run_forked
from pages import (
    MARKS,
    PAGES,
    READ,
    ROOT,
    RUN,
    agrees,
    anchors_of,
    blocks_of,
    commands_of,
    links_of,
    paths_named,
)
from safetensors.torch import load_file, save_file
from small_networks import digits_network

from alds_cli.schemas.evaluation_forms import EvaluateForm
from alds_cli.schemas.published import PUBLISHED
from alds_cli.schemas.results import (
    CompressForm,
    ConfigForm,
    ExportForm,
    RetrainForm,
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

WIDTH = "100"
"""Of the terminal in which the output that pages show was printed."""


@each_page
def test_every_block_says_what_it_is(page):
    for block in blocks_of(page):
        assert block.language in RUN | READ, block.place
        assert block.marks.keys() <= MARKS, block.place
        assert len(block.marks.get("not run", "for no reason at all").split()) > 2, block.place
        assert "printed" not in block.marks or block.language in READ, block.place
        if block.language == "json":
            json.loads(block.text)


@each_page
def test_every_document_keeps_to_its_schema(page):
    for block in blocks_of(page):
        if "schema" in block.marks:
            schema = PUBLISHED[block.marks["schema"]].json_schema()
            jsonschema.Draft202012Validator(schema).validate(json.loads(block.text))


@each_page
def test_every_link_leads_somewhere(page):
    for number, target in links_of(page):
        if target.partition(":")[0] in {"http", "https", "mailto"}:
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path) if path else page
        assert aim.exists(), f"{page.name}:{number}: {target}"
        if anchor:
            assert anchor in anchors_of(aim), f"{page.name}:{number}: {target}"


@each_page
def test_every_path_named_exists(page):
    for number, path in paths_named(page):
        assert list(ROOT.glob(path.rstrip("/"))), f"{page.name}:{number}: {path}"


@pytest.mark.slow
@each_page
def test_every_block_runs(page, follow):
    follow(page)


def test_the_readme_can_be_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_benchmark_is_described():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    scripts = [path for path in (ROOT / "benchmarks").iterdir() if path.suffix in {".py", ".sh"}]
    for script in scripts:
        if script.suffix == ".sh" or "argparse" in script.read_text(encoding="utf-8"):
            assert f"## `{script.name}`" in text


@pytest.mark.parametrize(
    ("command", "form"),
    [
        ("compress", CompressForm),
        ("evaluate", EvaluateForm),
        ("export", ExportForm),
        ("train` and `retrain", RetrainForm),
        ("config show", ConfigForm),
    ],
)
def test_every_field_of_a_result_is_explained(command, form):
    text = (ROOT / "docs" / "scripting.md").read_text(encoding="utf-8")
    section = text.partition(f"## What `{command}` print")[2].partition("\n## ")[0]
    missing = {
        name
        for name in form.model_json_schema(mode="serialization")["properties"]
        if f"`{name}`" not in section
    }
    assert not missing


def test_the_hooks_before_a_commit_run_what_the_tests_of_a_change_run():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    linters = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for program in ("ruff check", "ruff format", "mypy"):
        assert f"entry: .venv/bin/{program}" in hooks
        assert f".venv/bin/{program}" in linters


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("time: load 1.2 s, save 0.1 s", "time: load 12.25 s, save 3 s"),
        ("file   796.88 kB", "file 1,796.2 kB"),
        ("bytes  796,875   −27.18 %", "bytes 796,875 −27.2 %"),
        ("a   b\n─────", "a b\n\n──"),
        ("agrees to 5.2e-07", "agrees to 1e-09"),
        ("first\n…\nlast", "first\nsecond\nthird\nlast"),
        ("…\nlast", "last"),
        ("from … to here", "from there to here"),
    ],
)
def test_what_is_shown_agrees_with(shown, printed):
    assert agrees(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("parameters 188,666", "parameters 188,667"),
        ("time: load 1.2 s", "time: save 1.2 s"),
        ("first", "first\nsecond"),
        ("first\n…\nlast", "first\nsecond"),
        ("from … to here", "from there\nto here"),
    ],
)
def test_what_is_shown_does_not_agree_with(shown, printed):
    assert not agrees(shown, printed)


@pytest.fixture
def follow(tmp_path, request, monkeypatch):
    """Run the blocks of a page, in a folder that Python imports from as it does in a session."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(page):
        blocks = blocks_of(page)
        _lay_out(tmp_path, "".join(block.text for block in blocks), request)
        reader = Reader(tmp_path)
        for block in blocks:
            reader.read(block)

    yield call
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]


def _lay_out(folder, text, request):
    """Put the files into a folder that pages take for granted: a checkpoint, labelled images."""
    torch.save(digits_network().state_dict(), folder / "model.pt")
    generator = torch.Generator().manual_seed(1)
    for name, count in (("train", 64), ("test", 32)):
        images = torch.randint(0, 256, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
        labelled = {"images": images, "labels": torch.arange(count) % 10}
        save_file(labelled, folder / f"{name}.safetensors")
    for own, real in (
        ("resnet20.safetensors", "weights/cifar10_resnet20.safetensors"),
        ("cifar10-test.safetensors", "data/cifar10/test-dev.safetensors"),
    ):
        if own in text:
            (folder / own).symlink_to(request.getfixturevalue("shared") / real)
    if "cifar10-train.safetensors" in text:  # a part of it, as no page shows what training gives
        real = request.getfixturevalue("shared") / "data" / "cifar10" / "train-0.safetensors"
        part = {name: own[:600].contiguous() for name, own in load_file(real).items()}
        save_file(part, folder / "cifar10-train.safetensors")


class Reader:
    """Somebody who follows a page in a folder, block by block."""

    def __init__(self, folder):
        self.folder = folder
        self.names = {"__name__": "__main__"}
        self.printed = ""

    def read(self, block):
        """Do what a block says."""
        if "not run" in block.marks:
            return
        if "file" in block.marks:
            path = self.folder / block.marks["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            self.printed = self._run_python(block)
        elif block.language in RUN:
            self._run_commands(block)
        elif "printed" in block.marks:
            assert agrees(block.text, self.printed), f"{block.place}:\n{self.printed}"

    def _run_python(self, block):
        written = io.StringIO()
        code = compile(block.text, block.place, "exec")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(written):
            exec(code, self.names)
        return written.getvalue()

    def _run_commands(self, block):
        commands = commands_of(block)
        last = {int(code) for code in block.marks.get("exit", "0").split(" or ")}
        admitted = [{0}] * (len(commands) - 1) + [last]
        for (command, shown), codes in zip(commands, admitted, strict=True):
            code, printed = run_command(command, self.folder)
            assert code in codes, f"{block.place}: {command}\n{printed}"
            assert code == 0 or "error: " in printed, f"{block.place}: {command}\n{printed}"
            if shown is not None:
                assert agrees(shown, printed), f"{block.place}: {command}\n{printed}"


def run_command(command, folder):
    """A command's exit code, and what it wrote to both streams, in order."""
    tokens = shlex.shlex(command, posix=True, punctuation_chars=True)
    tokens.whitespace_split = True
    words = list(tokens)
    plain = words[:1] == ["alds"] and not any(set(word) <= set("();<>|&") for word in words)
    if not plain or "$" in command:
        return _run_shell(command, folder)
    return run_forked(shlex.split(command, comments=True)[1:], folder, COLUMNS=WIDTH)


def _run_shell(command, folder):
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": programs, "COLUMNS": WIDTH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
