"""The command in processes of its own, which are forked with the slow imports made already."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback

LOADED = [
    "torch",
    "torchvision",
    "alds_cli.api",
    "alds_cli.cli.app",
    "alds_cli.cli.interface",
    "alds_cli.cli.verbs",
    "alds_cli.compression.session",
]
"""What takes longest to import, and computes nothing when it is imported."""


def begin(arguments, folder, output, *, barrier=None, **environment):
    """Start the command in a folder; both of its streams go to a file.

    With a barrier it does not begin before others that wait there, too.
    """
    context = _context()
    environment = {"ALDS_CACHE_DIR": os.environ["ALDS_CACHE_DIR"], **environment}
    asked = ([*map(str, arguments)], str(folder), str(output), environment, barrier)
    child = context.Process(target=_alds, args=asked)
    child.start()
    return child


def barrier_of(number):
    """Return a barrier for so many commands."""
    return _context().Barrier(number)


def run_forked(arguments, folder, **environment):
    """Return a command's exit code, and what it wrote to both streams, in order."""
    output = folder / ".printed"
    child = begin(arguments, folder, output, **environment)
    child.join()
    printed = output.read_text(encoding="utf-8")
    output.unlink()
    return child.exitcode, printed


def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def _alds(arguments, folder, output, environment, barrier):
    """The command as the installed script runs it."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["alds", *arguments]
    sys.path.pop(0)
    if barrier is not None:
        barrier.wait()
    from alds_cli.cli.app import main  # noqa: PLC0415 - its server has imported it already

    try:
        main()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise
