"""Runs of single commands in this process, and the conditions that hold for any input."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import tempfile
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

from proc_memory import held

from alds_cli.cli.app import main
from alds_cli.runtime import heap

SECONDS = 10
"""The longest that a command on a small input may take."""

MEMORY = 2 << 30
"""The most bytes that the process may hold during a command beyond those before it."""


class Hang(BaseException):
    """Raised within a command that takes too long."""


@dataclass(frozen=True)
class Outcome:
    code: object
    out: bytes
    err: bytes


def give_back():
    """Give freed memory back, which other tests would not find in pieces large enough."""
    gc.collect()
    heap.give_back()


def forget_peak():
    """Let the most bytes held count from here; other tests of this process held more, perhaps."""
    Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def _limited_time():
    def stop(_number, _frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _streams(folder, standard_input):
    """Replace the three standard streams by files, including their descriptors."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in range(3)]
    objects = sys.stdin, sys.stdout, sys.stderr
    given = folder / "stdin"
    given.write_bytes(standard_input)
    with (
        given.open("rb") as stdin,
        tempfile.TemporaryFile(dir=folder) as out,
        tempfile.TemporaryFile(dir=folder) as err,
    ):
        try:
            for number, file in enumerate((stdin, out, err)):
                os.dup2(file.fileno(), number)
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(  # noqa: SIM115
                2, "w", encoding="utf-8", errors="backslashreplace", closefd=False
            )
            yield out, err
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            sys.stdin, sys.stdout, sys.stderr = objects
            for number, descriptor in enumerate(kept):
                os.dup2(descriptor, number)
                os.close(descriptor)


def run(arguments, *, work, standard_input=b""):
    """Run the command in the folder `work`, with temporary files in one beside it."""
    spool = work.parent / "spool"
    spool.mkdir(exist_ok=True)
    argv, directory, temporary = sys.argv, Path.cwd(), tempfile.tempdir
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    sys.argv = ["alds", *arguments]
    os.chdir(work)
    tempfile.tempdir = str(spool)
    try:
        with _streams(work.parent, standard_input) as (out, err), warnings.catch_warnings():
            warnings.simplefilter("default")  # as the command has them
            code = _exit_code()
            sys.stdout.flush()
            sys.stderr.flush()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read())
    finally:
        sys.argv, tempfile.tempdir = argv, temporary
        os.chdir(directory)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    left = [path.name for path in spool.iterdir()]
    assert not left, f"left in the folder of temporary files: {left}"
    return Outcome(code, *texts)


def _exit_code():
    try:
        with _limited_time():
            main()
    except SystemExit as stop:
        return stop.code or 0
    except Hang:
        return "hangs"
    return 0


def contents(folder):
    """Return every file below a folder, with its size and time of change."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


ALLOWED = {"\n"}


def require_clean(text):
    """Require that no character moves a cursor or colours, hides or reverses text."""
    decoded = text.decode("utf-8")
    raw = {
        character
        for character in set(decoded) - ALLOWED
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    }
    assert not raw, f"printed raw: {raw} in {decoded[:2000]!r}"


def check(arguments, *, work, outputs=(), standard_input=b"", binary=False):
    """Run a command, and check the conditions that hold for any input.

    Args:
        arguments: the command's arguments.
        work: the folder that it runs in.
        outputs: names in `work` that may appear or change if it succeeds.
        standard_input: the content of its standard input.
        binary: whether it writes a file to standard output.
    """
    before = contents(work)
    forget_peak()
    start = held("VmRSS")
    outcome = run(arguments, work=work, standard_input=standard_input)
    shown = outcome.err.decode("utf-8", "replace")
    assert outcome.code in {0, 1, 2}, f"exit code {outcome.code}: {shown[-3000:]}"
    assert "Traceback" not in shown, shown[-3000:]
    assert "internal error" not in shown, shown[-3000:]
    require_clean(outcome.err)
    if not binary:
        require_clean(outcome.out)
    if outcome.code != 0:
        assert shown.strip(), "failed without a word"
        assert not outcome.out.strip() or not binary
    allowed = set(outputs) if outcome.code == 0 else set()
    changed = {
        name
        for name, state in contents(work).items()
        if before.get(name) != state and name.split("/")[0] not in allowed
    }
    assert not changed, f"left behind: {changed} (exit code {outcome.code}: {shown[-500:]})"
    more = held("VmHWM") - start
    assert more < MEMORY, f"{more >> 20} MiB more than before: {arguments}"
    return outcome
