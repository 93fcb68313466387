"""The standard streams: results on the real output, all else that anybody prints beside it."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from alds_cli.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class ReaderGoneError(Exception):
    """The reader of standard output has seen enough.

    No OSError, because libraries make of a broken pipe what they like.
    """


class Streams:
    """The standard streams of one command.

    Args:
        closed: the numbers of those that the command was started without.
    """

    def __init__(self, closed: frozenset[int]) -> None:
        self._closed = closed
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._raw = _Results(os.dup(_STDOUT), closed=_STDOUT in closed)
        self.results = io.TextIOWrapper(
            io.BufferedWriter(self._raw), encoding, errors="backslashreplace"
        )
        self._diverted = False

    def require_output(self) -> None:
        """Find out before the work starts that there is an output for its results.

        Raises:
            OutputError: there is none.
        """
        if _STDOUT in self._closed:
            raise OutputError("standard output is closed", tip="> /dev/null if it does not count")

    def names_output(self, path: str) -> bool:
        """Whether a path is another name of standard output, as /dev/stdout is."""
        if _STDOUT in self._closed:
            return False
        with suppress(OSError, ValueError):
            return os.path.samestat(os.stat(path), os.fstat(self._raw.fileno()))  # noqa: PTH116
        return False

    @property
    def path(self) -> Path:
        """A name of the real output that holds after it was diverted."""
        return Path(f"/dev/fd/{self._raw.fileno()}")

    def divert(self) -> None:
        """From now on whatever prints without being asked prints to standard error.

        That is code of the user's and of libraries, Python or not. The results' way to the
        real output is known to the command alone.
        """
        if not self._diverted:
            self.results.flush()
            from alds_cli.checkpoint import files  # noqa: PLC0415 - its room imports torch

            files.carry_output(self.results.buffer)
            sys.stdout = sys.stderr
            os.dup2(_STDERR, _STDOUT)
            self._diverted = True

    def close(self) -> None:
        """Give standard output back; what could not be written by now is lost."""
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
"""The streams of the command that runs, if any does."""


def current() -> Streams | None:
    """The streams of the command that runs; None where its parts are used without it."""
    return _current[-1] if _current else None


def output_name(name: str | Path | None) -> str | None:
    """What a file is to be called whose name is another one of standard output: `-`."""
    own = current()
    if name is None or own is None or not own.names_output(str(name)):
        return None if name is None else str(name)
    return "-"


def output_path(path: str | Path | None) -> Path | None:
    """Where standard output really is, for a file whose name is another one of it."""
    own = current()
    if path is None or own is None or not own.names_output(str(path)):
        return None if path is None else Path(path)
    return own.path


@contextmanager
def standard_streams() -> Iterator[Streams]:
    """The standard streams for one command; all is as it was before when it ends."""
    before = sys.stdin, sys.stdout, sys.stderr
    closed = _fill_gaps()
    streams = Streams(closed)
    if _STDIN in closed:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()))
    sys.stdout = streams.results
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Notes(_STDERR, "wb", closefd=False)),
        getattr(before[2], "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    _current.append(streams)
    try:
        yield streams
    finally:
        _current.pop()
        streams.close()
        sys.stdin, sys.stdout, sys.stderr = before


def _fill_gaps() -> frozenset[int]:
    """Open the null device where a standard stream is closed; the numbers of those.

    Or the next file that is opened takes the number, and what is printed goes into it.
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
    """Standard output, whose failures are errors of the user's and not of a file's."""

    def __init__(self, number: int, *, closed: bool) -> None:
        super().__init__(number, "wb")
        self._lacking = closed
        self._given_up = False

    def give_up(self) -> None:
        """Write nothing any more."""
        self._given_up = True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it or raise; only the first failure is told."""
        whole = memoryview(data).cast("B")
        try:
            left = whole
            while left and not self._given_up:
                self._refuse_closed()
                written = super().write(left)
                if written is None:  # the output does not block, and takes nothing now
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
    """Standard error: where nobody can be told anything, the work goes on all the same."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, if that can be done."""
        with suppress(OSError):
            super().write(data)
        return len(memoryview(data).cast("B"))


class _ClosedInput(io.RawIOBase):
    """A standard input that the command was started without."""

    def readable(self) -> bool:
        """Say yes, or nobody would come and be told."""
        return True

    def readinto(self, _: object, /) -> int:
        """Refuse."""
        raise CheckpointError(
            "standard input is closed", tip="name a file, or send one: < model.pt"
        )
