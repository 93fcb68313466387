"""The standard streams of a command, and its run between them.

Results go to standard output, everything else to standard error. A terminal shows that PyTorch is
being loaded, until anything else is written.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import re
import select
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from alds_cli.cli import app, error_forms
from alds_cli.cli.plain_signs import PLAIN
from alds_cli.cli.spinner import Spinner
from alds_cli.cli.truth import TRUE
from alds_cli.errors import CheckpointError, OptionError, OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_STDIN, _STDOUT, _STDERR = 0, 1, 2


class ReaderGoneError(Exception):
    """The reader of standard output has closed it.

    This is no OSError, because libraries catch those and handle a broken pipe in their own ways.
    """


class Streams:
    """The standard streams of one command.

    Args:
        closed: the file descriptors of the streams that the command was started without.
    """

    def __init__(self, closed: frozenset[int]) -> None:
        self._closed = closed
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._raw = _Results(os.dup(_STDOUT), closed=_STDOUT in closed)
        self.results = io.TextIOWrapper(io.BufferedWriter(self._raw), encoding, errors=PLAIN)
        self._diverted = False
        self.spinner = Spinner()
        self.error_form: error_forms.Asked = None

    @property
    def begun(self) -> bool:
        """Whether anything has been written to standard output, or would have been."""
        with suppress(OutputError, ReaderGoneError):
            self.results.flush()
        return self._raw.begun

    def require_output(self) -> None:
        """Make sure, before the work starts, that there is an output for its results.

        Raises:
            OutputError: standard output is closed.
        """
        if _STDOUT in self._closed:
            raise OutputError("standard output is closed", tip="> /dev/null if it is not needed")

    def names_output(self, path: str) -> bool:
        """Return whether a path is another name of standard output, as /dev/stdout is."""
        if _STDOUT in self._closed:
            return False
        with suppress(OSError, ValueError):
            return os.path.samestat(os.stat(path), os.fstat(self._raw.fileno()))  # noqa: PTH116
        return False

    @property
    def path(self) -> Path:
        """Return a path of the real output that stays valid after it is diverted."""
        return Path(f"/dev/fd/{self._raw.fileno()}")

    def divert(self) -> None:
        """Send what other code prints to standard error from now on.

        That includes the user's code and libraries, whether written in Python or not. Only the
        command itself can still write results to the real output.
        """
        if not self._diverted:
            self.results.flush()
            from alds_cli.checkpoint import files  # noqa: PLC0415 - its room imports torch

            files.carry_output(self.results.buffer)
            sys.stdout = sys.stderr
            os.dup2(_STDERR, _STDOUT)
            self._diverted = True

    def close(self) -> None:
        """Restore standard output; whatever could not be written so far is lost."""
        with suppress(Exception):
            self.results.flush()
        if self._diverted:
            from alds_cli.checkpoint import files  # noqa: PLC0415 - its room imports torch

            files.carry_output(None)
            sys.stderr.flush()
            os.dup2(self._raw.fileno(), _STDOUT)
        self._raw.give_up()
        self.results.close()


_current: list[Streams] = []
"""The streams of the running command, if there is one."""


def current() -> Streams | None:
    """Return the streams of the running command; None if none runs."""
    return _current[-1] if _current else None


def _stop_spinner() -> None:
    if own := current():
        own.spinner.stop()


def output_name(name: str | Path | None) -> str | None:
    """Return `-` for a file name that means standard output, and other names as they are."""
    running = current()
    if name is None or running is None or not running.names_output(str(name)):
        return None if name is None else str(name)
    return "-"


def output_path(path: str | Path | None) -> Path | None:
    """Return the path of the real output for a file name that means standard output."""
    running = current()
    if path is None or running is None or not running.names_output(str(path)):
        return None if path is None else Path(path)
    return running.path


def folder_beside(output: str | Path | None) -> Path:
    """Return the folder in which a result will be, or else the one for temporary files."""
    return Path(tempfile.gettempdir() if output in {None, "-"} else Path(str(output)).parent)


@contextmanager
def standard_streams() -> Iterator[Streams]:
    """Set up the standard streams for one command, and restore them when it ends."""
    before = sys.stdin, sys.stdout, sys.stderr
    closed = _fill_gaps()
    streams = Streams(closed)
    if _STDIN in closed:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()))
    sys.stdout = streams.results
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Notes(_STDERR, "wb", closefd=False)),
        getattr(before[2], "encoding", None) or "utf-8",
        errors=PLAIN,
        line_buffering=True,
    )
    _current.append(streams)
    try:
        yield streams
    finally:
        streams.spinner.stop()
        _current.pop()
        streams.close()
        sys.stdin, sys.stdout, sys.stderr = before


def _fill_gaps() -> frozenset[int]:
    """Open the null device for each closed standard stream, and return their descriptors.

    Otherwise the next file that is opened would take the descriptor, and receive what is printed.
    """
    closed = set()
    for number in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            closed.add(number)
    return frozenset(closed)


class _Results(io.FileIO):
    """Standard output, whose failures are reported as errors in the use of the command."""

    def __init__(self, number: int, *, closed: bool) -> None:
        super().__init__(number, "wb")
        self._lacking = closed
        self._given_up = False
        self.begun = False

    def give_up(self) -> None:
        """Stop writing."""
        self._given_up = True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all data or raise; only the first failure is reported."""
        _stop_spinner()
        self.begun = True
        whole = memoryview(data).cast("B")
        try:
            left = whole
            while left and not self._given_up:
                self._refuse_closed()
                written = super().write(left)
                if written is None:  # a non-blocking output that is not ready
                    select.select([], [self], [])
                else:
                    left = left[written:]
        except BrokenPipeError as error:
            self._given_up = True
            raise ReaderGoneError from error
        except OSError as error:
            self._given_up = True
            reason = error.strerror or error
            raise OutputError(f"cannot write to standard output: {reason}") from error
        return len(whole)

    def _refuse_closed(self) -> None:
        if self._lacking:
            self._given_up = True
            raise OutputError("cannot write to standard output: it is closed")


class _Notes(io.FileIO):
    """Standard error, whose failures are ignored so that the work goes on."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the data if possible."""
        _stop_spinner()
        with suppress(OSError):
            super().write(data)
        return len(memoryview(data).cast("B"))


class _ClosedInput(io.RawIOBase):
    """The standard input of a command that was started without one."""

    def readable(self) -> bool:
        """Return True, so that readers call `readinto` and get its error."""
        return True

    def readinto(self, _: object, /) -> int:
        """Raise an error, because there is nothing to read."""
        raise CheckpointError(
            "standard input is closed", tip="name a file, or send one: < model.pt"
        )


def answered() -> int:
    """Run the command that the arguments name, and return its exit code."""
    with warnings.catch_warnings(), _unswept(), standard_streams() as streams:
        streams.error_form = error_forms.form_in(sys.argv[1:])
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
    atexit.unregister(_end)
    atexit.register(_end)
    try:
        yield
    finally:
        gc.unfreeze()
        (gc.enable if enabled else gc.disable)()


def _end() -> None:
    """Let Python end without a last look for garbage, and without what libraries say of that.

    Those made with nanobind tell on standard error what of theirs nobody has freed.
    """
    gc.freeze()
    with suppress(OSError, ValueError):
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)


_WITHOUT_TORCH = {"schema", "config", "-h", "--help", "--version"}


def _loads_torch(arguments: list[str]) -> bool:
    """Whether a command loads PyTorch, and is to say so."""
    quiet = any(own == "--quiet" or re.match(r"-\w*q", own) for own in arguments)
    return not (quiet or app.follows() or _quiet_by_variable(arguments)) and _loads(arguments)


def _quiet_by_variable(arguments: list[str]) -> bool:
    """Whether the environment asks for `--quiet`, judged before options are understood."""
    command = next((own for own in arguments if not own.startswith("-")), "")
    names = (f"ALDS_{command.upper()}_QUIET", "ALDS_QUIET")
    stated = next((os.environ[name] for name in names if name in os.environ), "")
    return stated.lower() in TRUE


def _loads(arguments: list[str]) -> bool:
    return bool(arguments) and _WITHOUT_TORCH.isdisjoint(arguments)


_SHARED = {"evaluate", "retrain", "train"}
"""The commands that several processes carry out together."""


def _require_shared(arguments: list[str]) -> None:
    """Refuse a command that the processes of a job would each carry out by themselves.

    Raises:
        OptionError: there are several, and the command does not share its work.
    """
    if app.processes() > 1 and _SHARED.isdisjoint(arguments) and _loads(arguments):
        raise OptionError(
            f"{app.processes()} processes were started together, and this command works in one",
            tip="start it without torchrun, which is for " + ", ".join(sorted(_SHARED)),
        )


def _answer(streams: Streams) -> int:
    try:
        code = _carried_out()
        streams.results.flush()
        app.stop_at_once()  # all is done
    except ReaderGoneError:
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:  # noqa: BLE001 - the outermost handler
        code = app.told(error)
        _tell_programs(error, streams)
    return code


def _tell_programs(error: Exception, streams: Streams) -> None:
    """Write an error to standard output too, if programs are to read it there."""
    if streams.error_form is None or app.follows():
        return
    with suppress(OutputError, ReaderGoneError):
        text = error_forms.error_text(error, streams.error_form, alone=not streams.begun)
        streams.results.write(text)
        streams.results.flush()


def _carried_out() -> int:
    _require_shared(sys.argv[1:])
    # Imported after signals and streams are set up: it takes longer than many a command.
    from alds_cli.cli import verbs  # noqa: PLC0415

    stated = verbs.stated_for_run()
    named = [name for own in stated.commands.values() for name in own] if stated else []
    if stated is not None and stated.is_quiet(sys.argv[1:]):
        _stop_spinner()
    if not _times_networks([*sys.argv[1:], *named]):
        # Idle OpenMP threads that spin take cores from other processes on a CI machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return verbs.run(stated)


def _times_networks(words: list[str]) -> bool:
    """Return whether the command measures how long networks take, by its arguments and defaults.

    In that case OpenMP's threads must wait as they do by default: when they sleep instead, a
    small network takes twice as long. This is decided before OpenMP is loaded.
    """
    commands = {"evaluate", "optimize", "retrain"}
    options = ("latency", "never-slower", "never_slower", "efficiency", "optimized")
    return not commands.isdisjoint(words) or any(name in word for word in words for name in options)
