"""What a worker of a Ray cluster does for a sweep, and what it sends back."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.errors import AldsError, RunFolderError
from alds_cli.records import SweepRecord
from alds_cli.sweeping.work_queue import Watcher, attempt

PATIENCE = 20.0
"""Seconds to wait for the board, on which no run depends, where its machine is busy."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that a user can cause, in a form that travels whatever arguments its class takes."""

    kind: type[AldsError]
    message: str
    tip: str | None

    def error(self) -> AldsError:
        """Return the error as it was."""
        made = self.kind.__new__(self.kind)
        AldsError.__init__(made, self.message, tip=self.tip)
        return made


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker made of a run.

    Attributes:
        made: whether it made it; None if a process outside the cluster is making it.
        record: the record, if the run is finished.
        refusal: the error that ended it.
        notes: the warnings of the run.
    """

    made: bool | None
    record: SweepRecord | None = None
    refusal: Refusal | None = None
    notes: tuple[str, ...] = ()


class Board:
    """What workers have begun; an actor of the cluster."""

    def __init__(self) -> None:
        self._begun: list[RunKey] = []

    def begin(self, key: RunKey) -> None:
        """Note that a worker begins a run."""
        self._begun.append(key)

    def begun(self, known: int) -> list[RunKey]:
        """Return what was begun, but for the first few runs, which are known."""
        return self._begun[known:]


class _Signs(Watcher):
    """Notes on the board which run begins; called in a worker."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def started(self, key: RunKey) -> None:
        """Note it, before anything that may come of it."""
        ray: Any = import_module("ray")
        with suppress(ray.exceptions.RayError):
            ray.get(self._board.begin.remote(key), timeout=PATIENCE)


def worked_off(
    make: Callable[[RunKey], SweepRecord], folder: RunFolder, key: RunKey, board: Any, place: Path
) -> Outcome:
    """Make a run; it is called in a worker.

    Args:
        make: makes it.
        folder: the folder of the sweep, by its full path.
        key: the run.
        board: where to note that it begins.
        place: the folder that relative names of files refer to.
    """
    notes: list[str] = []
    try:
        if not folder.exists():
            raise RunFolderError(
                f"{folder.path} is not there on {platform.node()}, where Ray made a worker",
                tip="keep the sweep, and its images, on a file system that all nodes share",
            )
        with _noting(notes), _standing_in(place):
            made = attempt(folder, key, make, _Signs(board))
        record = None if made is None else folder.record(key)
    except AldsError as error:
        return Outcome(None, None, Refusal(type(error), error.message, error.tip), tuple(notes))
    return Outcome(made, record, None, tuple(notes))


@contextmanager
def _standing_in(place: Path) -> Iterator[None]:
    """Make a folder the current one; where it is missing, only full names can be meant."""
    with chdir(place if place.is_dir() else Path.cwd()):
        yield


class _Notes(logging.Handler):
    """Keeps warnings for the process that shows them."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self._notes.append(record.getMessage())


@contextmanager
def _noting(notes: list[str]) -> Iterator[None]:
    ours, handler = logging.getLogger("alds_cli"), _Notes(notes)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
