"""Run alds in forks of a process that has imported what takes long; for `equal_bytes.py`.

Reads a job a line in JSON, and answers each with the exit code. Only other people's libraries are
imported beforehand, alds itself in every fork, so that one command knows nothing of another.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from typing import IO, Any

LIBRARIES = ("numpy", "scipy.linalg", "torch", "torchvision", "pydantic", "rich.table", "typer")


def become(job: dict[str, Any]) -> None:
    """Take on a job's folder, environment, streams and arguments."""
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    for number, (path, flags) in enumerate(
        (
            (job["stdin"], os.O_RDONLY),
            (job["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        )
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["alds", *job["arguments"]]


def serve(jobs: IO[str], answers: IO[str]) -> None:
    """Answer all jobs; in a fork, return as soon as it has become its job."""
    while line := jobs.readline():
        pid = os.fork()
        if not pid:
            become(json.loads(line))
            return
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()
    raise SystemExit


def main() -> None:
    """Import, serve, and in a fork be the command."""
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    # Copies: the streams themselves are the commands' own, and nothing may be left in them.
    jobs = os.fdopen(os.dup(0), closefd=True)
    answers = os.fdopen(os.dup(1), "w", closefd=True)
    serve(jobs, answers)
    from alds_cli.cli.app import main as alds  # noqa: PLC0415 - anew in every fork

    alds()


if __name__ == "__main__":
    main()
