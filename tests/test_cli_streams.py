"""Standard streams that are closed, full, left early or pipes by name; signals; others' prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import alds_cli
from alds_cli.cli import verbs

ALDS = Path(sys.executable).with_name("alds")

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
needs_descriptors = pytest.mark.skipif(
    not Path("/dev/fd").exists(), reason="the system names no descriptors"
)


def shell(script, folder, **more):
    """A script of the shell, with the installed command as `$alds`."""
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "alds": str(ALDS), "OMP_NUM_THREADS": "1", **more},
    )


def one_line(error, *parts):
    """Whether it is an error line, perhaps with a tip, that says so."""
    lines = error.decode().splitlines()
    assert lines
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  tip: "))
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def folder(tmp_path, digits):
    (tmp_path / "m.pt").write_bytes((digits / "model.pt").read_bytes())
    return tmp_path


# ---------------------------------------------------------------- output that cannot be written


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize("arguments", ["--version", "--help", "compress --help", "schema"])
def test_full_output_of_help(folder, arguments):
    done = shell(f"$alds {arguments} > /dev/full", folder)
    assert done.returncode == 2
    one_line(done.stderr, "standard output", "No space left")


@pytest.mark.parametrize("arguments", ["--version", "--help"])
def test_closed_output_of_help(folder, arguments):
    done = shell(f"$alds {arguments} >&-", folder)
    assert done.returncode == 2
    one_line(done.stderr, "standard output", "closed")


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize(
    "arguments", ["inspect m.pt", "inspect m.pt --json", "compress m.pt -r .3 -o -"]
)
def test_full_output_of_results(folder, arguments):
    done = shell(f"$alds {arguments} > /dev/full", folder)
    assert done.returncode == 2
    one_line(done.stderr, "standard output", "No space left")
    assert [own.name for own in folder.iterdir()] == ["m.pt"]


@pytest.mark.slow
@needs_full
def test_a_report_that_is_lost_leaves_the_artefact(folder):
    done = shell("$alds compress m.pt -r .3 -o o.pt > /dev/full", folder)
    assert done.returncode == 2
    one_line(done.stderr, "standard output")
    assert alds_cli.load(folder / "o.pt") is not None


def test_closed_output_is_found_before_the_work(folder):
    done = shell("$alds compress m.pt -r .3 -o o.pt >&-", folder)
    assert done.returncode == 2
    one_line(done.stderr, "standard output is closed")
    assert not (folder / "o.pt").exists()


@pytest.mark.slow
def test_closed_error_output_does_not_matter(folder):
    done = shell("$alds compress m.pt -r .3 -o o.pt -v 2>&-", folder)
    assert done.returncode == 0
    assert b"removed" in done.stdout
    assert alds_cli.load(folder / "o.pt") is not None


@pytest.mark.slow
@needs_full
def test_full_error_output_does_not_matter(folder):
    done = shell("$alds inspect m.pt -v 2> /dev/full; echo $?; $alds nothing 2> /dev/full", folder)
    assert done.stdout.endswith(b"\n0\n")
    assert done.returncode == 2


@pytest.mark.slow
def test_all_streams_closed(folder):
    done = shell("$alds inspect m.pt <&- >&- 2>&-; echo $?", folder)
    assert done.stdout == b"2\n"


@pytest.mark.slow
def test_closed_input(folder):
    done = shell("$alds inspect - <&-", folder)
    assert done.returncode == 2
    one_line(done.stderr, "standard input is closed")


@pytest.mark.slow
def test_temporary_files_that_cannot_be_written(folder):
    """Beyond the limit of a file's size, as on a full disk."""
    limit = "trap '' XFSZ; ulimit -f 64; "
    for script in ("$alds inspect - < m.pt", "$alds compress m.pt -r .3 -o - > o.pt"):
        # PyTorch makes its own cache folder among the temporary files, wherever it may.
        inductor = str(folder.parent / "inductor")
        done = shell(limit + script, folder, TMPDIR=str(folder), TORCHINDUCTOR_CACHE_DIR=inductor)
        assert done.returncode == 2
        one_line(done.stderr, str(folder), "File too large")
        left = {own.name for own in folder.iterdir()}
        assert left <= {"m.pt", "o.pt"}
    assert (folder / "o.pt").read_bytes() == b""


@pytest.mark.slow
def test_disk_that_is_full_halfway_through_an_artefact(folder):
    for name in ("o.pt", "o.safetensors"):
        done = shell(
            f"trap '' XFSZ; ulimit -f 64; $alds compress m.pt -r .3 --no-cache -o {name}", folder
        )
        assert done.returncode == 2
        one_line(done.stderr, f"cannot write {name}", "File too large")
        assert [own.name for own in folder.iterdir()] == ["m.pt"]


# ---------------------------------------------------------------- readers that leave


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", ["inspect m.pt", "inspect m.pt --json", "compress m.pt -r .3 -o -", "--help"]
)
def test_reader_that_leaves_early(folder, arguments):
    done = shell(f"$alds {arguments} | true; echo ${{PIPESTATUS[0]}}", folder)
    assert done.stdout == b"141\n"
    assert done.stderr == b""


# ---------------------------------------------------------------- output by other names


@pytest.mark.slow
@needs_descriptors
@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("more", ["", "-q"])
def test_names_of_standard_output(folder, name, more):
    if not Path(name).exists() and name != "-":
        pytest.skip(f"the system has no {name}")
    done = shell(f"$alds compress m.pt -r .3 -o {name} {more} | cat > o.pt", folder)
    assert done.returncode == 0, done.stderr
    shell("$alds compress m.pt -r .3 -o direct.pt", folder)
    assert (folder / "o.pt").read_bytes() == (folder / "direct.pt").read_bytes()
    assert (b"parameters" in done.stderr) == (not more)


@pytest.mark.slow
@needs_descriptors
def test_pipes_by_name(folder):
    script = "$alds compress m.pt -r .3 -o >(cat > o.pt) && wait $! ; sleep 0.5"
    done = shell(script, folder)
    assert done.returncode == 0, done.stderr
    assert b"parameters" in done.stdout
    assert alds_cli.load(folder / "o.pt") is not None


@pytest.mark.slow
@needs_descriptors
def test_plan_on_standard_output(folder):
    done = shell("$alds compress m.pt -r .3 --dry-run --plan-out /dev/stdout | cat", folder)
    assert json.loads(done.stdout)["layers"]
    assert b"parameters" in done.stderr


# ---------------------------------------------------------------- prints of others

PRINTER = """
import os, sys
from torch import nn
print("at import")
os.system("echo of a child")
def make():
    print("from the factory")
    sys.__stdout__.flush()
    os.write(1, b"of the library beneath\\n")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64))
"""


@pytest.mark.parametrize(
    "more", [("-o", "-"), pytest.param(("-o", "o.pt", "--json"), marks=pytest.mark.slow)]
)
def test_prints_of_factories_stay_out_of_results(folder, more):
    (folder / "printer.py").write_text(PRINTER)
    torch.save({"1.weight": torch.randn(64, 64), "1.bias": torch.zeros(64)}, folder / "p.pt")
    arguments = ("--arch", "printer:make", "--input-shape", "64", "-r", "0.3", "-q")
    done = subprocess.run(
        [ALDS, "compress", "p.pt", *arguments, *more],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for text in (b"at import", b"of a child", b"from the factory", b"of the library beneath"):
        assert text in done.stderr
        assert text not in done.stdout
    if "--json" in more:
        assert json.loads(done.stdout)["output"] == "o.pt"
    else:
        assert done.stdout.startswith(b"PK")


def test_streams_are_as_before_when_the_command_is_done(run, digits, capfdbinary):
    before = sys.stdin, sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT)
    assert run("inspect", digits / "model.pt")[0] == 0
    assert (sys.stdin, sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT)) == before
    os.write(1, b"to the output\n")
    assert capfdbinary.readouterr().out == b"to the output\n"


# ---------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
@pytest.mark.parametrize("delay", [0.15, 0.4])
def test_early_signals(folder, number, code, delay):
    """While it imports, and soon after; a machine may be so quick that it is done by then."""
    process = subprocess.Popen(
        [ALDS, "compress", "m.pt", "-r", "0.3", "-o", "o.pt"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    time.sleep(delay)
    process.send_signal(getattr(signal, f"SIG{number}"))
    _, err = process.communicate(timeout=60)
    assert process.returncode in {code, 0}
    assert b"Traceback" not in err
    if process.returncode:
        assert [own.name for own in folder.iterdir()] == ["m.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 0.02, 0.05])
def test_signals_after_the_result(folder, delay):
    """While libraries clear up."""
    process = subprocess.Popen(
        [ALDS, "inspect", "m.pt", "--json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    result = process.stdout.read(1)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode in {130, -signal.SIGINT, 0}
    assert json.loads(result + rest)["params"]
    assert err == b""


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("arguments", ["schema evaluate", "inspect m.pt"])
def test_libraries_print_nothing_at_the_end(folder, arguments):
    """Triton, which exporting and compiling load, tells of objects of its own left over."""
    pytest.importorskip("triton")
    script = "import triton, sys; from alds_cli.cli.app import main; sys.argv[0] = 'alds'; main()"
    done = shell(f'{sys.executable} -c "{script}" {arguments}', folder)
    assert done.returncode == 0
    assert done.stdout
    assert not done.stderr


def test_nothing_is_imported_before_signals_are_answered():
    """Or an early interruption would end in a traceback of that import."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "import alds_cli.cli.app as app; new = set(sys.modules) - before\n"
        "print(sorted(new))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    mine = ["alds_cli", "alds_cli.cli", "alds_cli.cli.app"]
    assert done.stdout.strip() == str(sorted(mine))


@pytest.mark.parametrize(("number", "code"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_signals_in_the_midst_of_writing_leave_nothing(
    run, digits, tmp_path, monkeypatch, number, code
):
    """The signal comes while the temporary file lies beside its target."""
    from alds_cli.checkpoint import writing  # noqa: PLC0415

    dump = writing.dump_torch

    def interrupted(*arguments):
        dump(*arguments)
        signal.raise_signal(getattr(signal, f"SIG{number}"))
        time.sleep(5)

    monkeypatch.setattr(writing, "dump_torch", interrupted)
    usual = signal.default_int_handler if number == "INT" else signal.SIG_DFL
    before = signal.signal(getattr(signal, f"SIG{number}"), usual)  # nohup and & ignore some
    try:
        found, _, err = run("compress", digits / "model.pt", "-r", "0.3", "-o", tmp_path / "o.pt")
    finally:
        signal.signal(getattr(signal, f"SIG{number}"), before)
    assert found == code
    assert err == ""
    assert not list(tmp_path.iterdir())


def test_hang_up_is_ignored_where_it_was_before(run, digits):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGHUP)).start()
        assert run("inspect", digits / "model.pt")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- errors of the tool's own


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RuntimeError("a bug\nin two lines"), 70, "internal error: RuntimeError: a bug"),
        (KeyError(), 70, "internal error: KeyError"),
        (RecursionError("too deep"), 70, "internal error: RecursionError: too deep"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "memory"),
        (OSError(28, "No space left on device", "x\x1b[2J"), 2, r"x\x1b[2J: No space left"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_is_a_line(run, monkeypatch, error, code, told):
    def fail(_):
        raise error

    monkeypatch.delenv("ALDS_TRACEBACK", raising=False)
    monkeypatch.setattr(verbs, "run", fail)
    found, out, err = run("inspect", "m.pt")
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err
    assert "in two lines" not in err


@pytest.mark.parametrize("way", ["environment", "-v"])
def test_errors_of_the_tool_are_told_in_full_on_request(run, monkeypatch, way):
    def fail(_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(verbs, "run", fail)
    monkeypatch.delenv("ALDS_TRACEBACK", raising=False)
    if way == "environment":
        monkeypatch.setenv("ALDS_TRACEBACK", "1")
    code, _, err = run("inspect", "m.pt", *(["-v"] if way == "-v" else []))
    assert code == 70
    assert "Traceback" in err
    assert "in fail" in err


# ---------------------------------------------------------------- outputs that would meet


@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "y.pt", "--plan-out", "y.pt"),
        ("-o", "y.pt", "--plan-out", "./y.pt"),
        ("-o", "y.pt", "--plan-out", "link.pt"),
        ("-o", "plan.json", "--plan", "plan.json"),
        ("-o", "table.safetensors", "--table", "table.safetensors"),
        ("-o", "small.pt", "--plan-out", "m.pt"),
        ("-o", "d.safetensors", "--method", "pca", "--data", "tensors:d.safetensors"),
    ],
)
def test_outputs_that_would_replace_each_other(run, folder, digits, monkeypatch, arguments):
    monkeypatch.chdir(folder)
    (folder / "link.pt").symlink_to("y.pt")
    (folder / "d.safetensors").write_bytes((digits / "data.safetensors").read_bytes())
    assert run("compress", "m.pt", "-r", "0.3", "--dry-run", "--plan-out", "plan.json")[0] == 0
    assert run("profile", "m.pt", "-o", "table.safetensors")[0] == 0
    before = {own.name: own.read_bytes() for own in folder.iterdir() if own.exists()}
    code, _, err = run("compress", "m.pt", "-r", "0.3", *arguments)
    assert code == 2
    assert "cannot write" in err
    assert {own.name: own.read_bytes() for own in folder.iterdir() if own.exists()} == before


def test_an_error_table_does_not_replace_its_network(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = (folder / "m.pt").read_bytes()
    code, _, err = run("profile", "m.pt", "-o", "./m.pt")
    assert code == 2
    assert "cannot write" in err
    assert (folder / "m.pt").read_bytes() == before


def test_a_plan_may_be_written_over_itself(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert run("compress", "m.pt", "-r", "0.3", "--dry-run", "--plan-out", "p.json")[0] == 0
    more = ("--plan", "p.json", "--plan-out", "p.json", "--dry-run")
    assert run("compress", "m.pt", *more)[0] == 0


@pytest.mark.parametrize("method", ["alds-simple:k=0", "messi:starts=0", "l-rank:scheme=9"])
def test_bad_methods_are_found_before_a_sweep_is_begun(run, digits, tmp_path, method):
    data = f"tensors:{digits / 'data.safetensors'}"
    more = ("--data", data, "--methods", method, "-o", tmp_path / "sw")
    assert run("sweep", digits / "model.pt", *more)[0] == 2
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_leaves_no_folder(tmp_path):
    from alds_cli.checkpoint.files import write_files  # noqa: PLC0415
    from alds_cli.errors import OutputError  # noqa: PLC0415

    target = tmp_path / "report"
    with pytest.raises(OutputError):
        write_files(target, {"a.md": b"a", "no/such/folder.md": b"b"})
    assert not target.exists()
