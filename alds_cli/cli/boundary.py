"""The one place where errors end, as a line and an exit code."""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from alds_cli.cli.app import stop_at_once
from alds_cli.cli.streams import ReaderGoneError, Streams, standard_streams
from alds_cli.errors import AldsError, first_line

INTERNAL = 70
"""Exit code of errors that no user can cause (EX_SOFTWARE of sysexits.h)."""

TRACEBACK = "ALDS_TRACEBACK"
"""The environment variable that makes such errors print their traceback."""


def answered() -> int:
    """Run the command that the arguments name, and return its exit code."""
    with warnings.catch_warnings(), _unswept(), standard_streams() as streams:
        if _loads_torch(sys.argv[1:]):
            streams.spinner.start()
        return _answer(streams)


@contextmanager
def _unswept() -> Iterator[None]:
    """Let nobody look for garbage until `interface` does: what is imported is none.

    Python would look through all of it again and again, and once more at its end, for a third of
    the time of a short command.
    """
    enabled = gc.isenabled()
    gc.disable()
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.unfreeze()
        (gc.enable if enabled else gc.disable)()


_WITHOUT_TORCH = {"schema", "-h", "--help", "--version"}


def _loads_torch(arguments: list[str]) -> bool:
    """Whether a command loads PyTorch, and is to say so."""
    quiet = any(own == "--quiet" or re.match(r"-\w*q", own) for own in arguments)
    return bool(arguments) and not quiet and _WITHOUT_TORCH.isdisjoint(arguments)


def _answer(streams: Streams) -> int:
    try:
        code = _carried_out()
        streams.results.flush()
        stop_at_once()  # all is done
    except ReaderGoneError:
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:  # noqa: BLE001 - the outermost handler
        return _told(error)
    return code


def _carried_out() -> int:
    if not _times_networks(sys.argv[1:]):
        # Idle OpenMP threads that spin take cores from other processes on a CI machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported after signals and streams are set up: it takes longer than many a command.
    from alds_cli.cli import commands  # noqa: PLC0415

    return commands.run()


def _times_networks(arguments: list[str]) -> bool:
    """Return whether the command measures how long networks take.

    In that case OpenMP's threads must wait as they do by default: when they sleep instead, a
    small network takes twice as long. This is decided before OpenMP is loaded.
    """
    return not {"evaluate", "retrain", "--never-slower"}.isdisjoint(arguments) or any(
        "latency" in argument for argument in arguments
    )


def _told(error: Exception) -> int:
    """Print what went wrong, and return the exit code."""
    from alds_cli.cli import interface  # noqa: PLC0415 - needed for errors only

    if isinstance(error, AldsError):
        interface.explain(error.message, error.tip)
        return error.exit_code
    if _lacks_memory(error):
        interface.explain(
            "there is not enough memory", "close other programs, or use a larger machine"
        )
        return 2
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        interface.explain(f"{where}{error.strerror or first_line(error)}", None)
        return 2
    kind = type(error).__name__
    said = first_line(error)
    interface.explain(
        f"internal error: {kind}" + ("" if said == kind else f": {said}"),
        f"please report this; {TRACEBACK}=1 in the environment shows where it happened",
    )
    if os.environ.get(TRACEBACK) or not {"-v", "--verbose"}.isdisjoint(sys.argv[1:]):
        interface.show_traceback(error)
    return INTERNAL


def _lacks_memory(error: Exception) -> bool:
    """Return whether memory ran out, which PyTorch reports in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
