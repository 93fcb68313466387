"""What a terminal shows while PyTorch is being loaded, and that nothing of it stays."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys

import pytest

from alds_cli import api
from alds_cli.cli import streams

pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

SHOWN = b"loading PyTorch"

UNTIL_TORCH = {"UNTIL_TORCH": "1"}
"""Ends a command as soon as it imports PyTorch, and so spares its import."""

SCRIPT = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.write(2, b"<torch>")
            if "UNTIL_TORCH" in os.environ:
                os._exit(0)
sys.meta_path.insert(0, Finder())
from alds_cli.cli.app import main
main()
"""


class Terminal:
    """A process whose standard error, and perhaps output, is a terminal of 80 columns."""

    def __init__(self, folder, line, *, output=subprocess.PIPE, columns=80, **more):
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, columns))
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *line.split()],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=slave if output is None else output,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", **more},
        )
        os.close(slave)
        self.written = b""

    def read(self, until=None):
        """Read until something has been written, or all."""
        while until is None or until not in self.written:
            try:
                piece = os.read(self.master, 4096)
            except OSError:  # the last process with the terminal has ended
                piece = b""
            if not piece:
                break
            self.written += piece
        return self.written

    def end(self):
        """Read the rest: (exit code, bytes on the terminal, those on a pipe)."""
        self.read()
        os.close(self.master)
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, self.written, out or b""


def screen(written):
    """The lines that stay, where all that steers the terminal is a carriage return."""
    lines = []
    for line in written.replace(b"<torch>", b"").replace(b"\r\n", b"\n").split(b"\n"):
        shown = b""
        for piece in line.split(b"\r"):
            shown = piece + shown[len(piece) :]
        lines.append(shown.rstrip())
    return b"\n".join(lines).strip()


def test_it_is_shown_before_torch_is_imported_and_leaves_no_trace(model):
    code, written, out = Terminal(model.parent, f"inspect {model.name}").end()
    assert code == 0
    assert written.index(SHOWN) < written.index(b"<torch>")
    assert screen(written) == b""
    assert b"parameters" in out
    assert SHOWN not in out


@pytest.mark.slow
def test_a_table_on_the_same_terminal_comes_after_it(model):
    code, written, _ = Terminal(model.parent, f"inspect {model.name}", output=None).end()
    assert code == 0
    assert written.rindex(SHOWN) < written.index(b"parameters")
    assert SHOWN not in screen(written)


def test_it_turns():
    """While Python runs, as while modules are imported."""
    script = (
        "import time; from alds_cli.cli.streams import standard_streams\n"
        "with standard_streams() as own:\n    own.spinner.start()\n    time.sleep(1)\n"
    )
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", script], stderr=slave, check=True, env=environment)
    written = os.read(master, 4096)
    os.close(slave)
    os.close(master)
    assert {written[own : own + 1] for own in starts(written)} == {b"|", b"/", b"-", b"\\"}
    assert screen(written) == b""


def starts(written):
    """Where in the text the signs stand."""
    return [own - 2 for own in range(len(written)) if written[own:].startswith(SHOWN)]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("inspect missing.pt", marks=pytest.mark.slow),
        pytest.param("inspect", marks=pytest.mark.slow),
        pytest.param("inspect --nothing", marks=pytest.mark.slow),
        "nothing",
    ],
)
def test_errors_stand_alone(line, tmp_path):
    code, written, _ = Terminal(tmp_path, line).end()
    assert code == 2
    assert screen(written).startswith(b"\x1b[1;31merror: ")
    assert SHOWN in written
    assert SHOWN not in screen(written)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("moment", [SHOWN, b"<torch>"])
def test_signals_wipe_it(model, number, code, moment):
    # A new process ignores what is ignored here, as SIGINT is where tests run in the background.
    before = signal.signal(number, signal.default_int_handler)
    try:
        terminal = Terminal(model.parent, f"inspect {model.name}")
    finally:
        signal.signal(number, before)
    terminal.read(moment)
    terminal.process.send_signal(number)
    found, written, out = terminal.end()
    assert found == code
    assert screen(written) == b""
    assert out == b""


@pytest.mark.parametrize(
    ("line", "more"),
    [
        ("inspect model.pt -q", {}),
        pytest.param("inspect model.pt --quiet", {}, marks=pytest.mark.slow),
        pytest.param("inspect model.pt --json -q", {}, marks=pytest.mark.slow),
        pytest.param("inspect model.pt", {"ALDS_QUIET": "yes"}, marks=pytest.mark.slow),
        pytest.param("inspect model.pt", {"ALDS_INSPECT_QUIET": "1"}, marks=pytest.mark.slow),
        pytest.param("inspect model.pt", {"TERM": "dumb"}, marks=pytest.mark.slow),
        pytest.param("inspect model.pt", {"columns": 12}, marks=pytest.mark.slow),
        ("--version", {}),
        pytest.param("--help", {}, marks=pytest.mark.slow),
        ("inspect --help", {}),
        pytest.param("schema", {}, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_shown(model, line, more):
    code, written, _ = Terminal(model.parent, line, **UNTIL_TORCH, **more).end()
    assert code == 0
    assert written == (b"<torch>" if "model.pt" in line else b"")


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, True),
        ({"ALDS_QUIET": "1"}, False),
        ({"ALDS_QUIET": "0"}, True),
        ({"ALDS_INSPECT_QUIET": "On"}, False),
        ({"ALDS_QUIET": "1", "ALDS_INSPECT_QUIET": "0"}, True),
        ({"ALDS_COMPRESS_QUIET": "1"}, True),
    ],
)
def test_a_variable_keeps_it_away(variables, shown, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert streams._loads_torch(["inspect", "model.pt"]) is shown


@pytest.mark.slow
def test_a_projects_file_wipes_it(model):
    (model.parent / "pyproject.toml").write_text("[tool.alds]\nquiet = true\n")
    code, written, _ = Terminal(model.parent, f"inspect {model.name}").end()
    assert code == 0
    # The file is read while the sign is there already, and PyTorch is loaded without it.
    assert SHOWN not in screen(written[: written.index(b"<torch>")])


def test_nothing_is_shown_in_pipes(model):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "inspect", model],
        capture_output=True,
        check=True,
        env={**os.environ, **UNTIL_TORCH},
    )
    assert (done.stdout, done.stderr) == (b"", b"<torch>")


@pytest.mark.slow
def test_a_terminal_without_colours_gets_none(model):
    _, written, _ = Terminal(model.parent, f"inspect {model.name}", NO_COLOR="1").end()
    assert SHOWN in written
    assert b"\x1b" not in written


@pytest.mark.slow
def test_a_progress_bar_comes_after_it(model):
    line = f"compress {model.name} --ratio 0.5 -o small.pt"
    code, written, _ = Terminal(model.parent, line).end()
    assert code == 0
    assert written.rindex(SHOWN) < written.index(b"\x1b[?25l")


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_looked_for_once_all_is_loaded(run, model, monkeypatch, enabled):
    inspect, found = api.inspect, []

    def noted(**arguments):
        found.append((gc.isenabled(), gc.get_freeze_count() > 0))
        return inspect(**arguments)

    monkeypatch.setattr(api, "inspect", noted)
    if not enabled:
        gc.disable()
    try:
        assert run("inspect", model)[0] == 0
        assert run("inspect", "missing.pt")[0] == 2
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert found == [(True, True)] * 2
    assert gc.get_freeze_count() == 0


def test_what_libraries_say_when_python_ends_is_not_shown(tmp_path):
    """As those made with nanobind do of what nobody has freed; exit code and messages stay."""
    code = (
        "import ctypes, sys\n"
        "from alds_cli.cli.app import main\n"
        "ctypes.pythonapi.Py_AtExit(ctypes.CDLL(None).malloc_stats)\n"  # to standard error
        "if len(sys.argv) > 1:\n    main()\n"
    )
    if not hasattr(ctypes.CDLL(None), "malloc_stats"):
        pytest.skip("the C library has no function that writes to standard error by itself")
    environ = {**os.environ, "ALDS_CACHE_DIR": str(tmp_path / "cache")}

    def ended(*words):
        words = [sys.executable, "-c", code, *words]
        return subprocess.run(words, env=environ, capture_output=True, text=True, check=False)

    assert "bytes" in ended().stderr
    refused = ended("schema", "nothing")
    assert refused.returncode == 2
    assert "there is no document 'nothing'" in refused.stderr
    assert "bytes" not in refused.stderr
