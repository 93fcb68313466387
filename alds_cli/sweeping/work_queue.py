"""Making the runs of a sweep, possibly in several processes at once."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.records import SweepBaseline, SweepRecord

_SHORT_PAUSE, _LONG_PAUSE = 0.05, 2.0
"""Seconds between two checks of the runs that others are making: the first, and the longest."""


def work_off(
    folder: RunFolder,
    keys: Sequence[RunKey],
    make: Callable[[RunKey], SweepRecord],
    watcher: Watcher,
) -> int:
    """Make all runs that no other process makes, and wait until all are finished.

    Runs that other processes are making are checked again at the end. If such a process ends
    without finishing its run, the run is made here.

    Args:
        folder: the folder with the records of finished runs.
        keys: the runs, in the order to make them.
        make: makes one run.
        watcher: is notified of every step.

    Returns:
        The number of runs that this process made.
    """
    made = 0
    left = [key for key in keys if not folder.has(key)]
    pause = _SHORT_PAUSE
    while left:
        busy = []
        for key in left:
            mine = attempt(folder, key, make, watcher)
            if mine is None:
                busy.append(key)
            made += mine is True
        if len(busy) == len(left):
            watcher.waiting(busy)
            time.sleep(pause)
            pause = min(2 * pause, _LONG_PAUSE)
        else:
            pause = _SHORT_PAUSE
        left = busy
    return made


Engine = Callable[[RunFolder, Sequence[RunKey], Callable[[RunKey], SweepRecord], "Watcher"], int]
"""What makes the runs of a sweep, as `work_off` does."""


def attempt(
    folder: RunFolder, key: RunKey, make: Callable[[RunKey], SweepRecord], watcher: Watcher
) -> bool | None:
    """Make a run unless it is finished: the unit of work of every engine.

    Args:
        folder: the folder with the records of finished runs.
        key: the run.
        make: makes it.
        watcher: is notified of every step.

    Returns:
        Whether it was made here; None if another process is making it.
    """
    if not folder.has(key):
        with folder.claim(key) as granted:
            if not granted:
                return None
            # Another process may have finished it between the check and the claim.
            if not folder.has(key):
                watcher.started(key)
                record = make(key)
                folder.write(record)
                watcher.finished(record)
                return True
    watcher.found(folder.record(key))
    return False


class Watcher:
    """Receives a notification of every step of a sweep; this base class ignores them."""

    def planned(
        self, baseline: SweepBaseline, keys: Sequence[RunKey], found: Sequence[SweepRecord]
    ) -> None:
        """Receive all runs in their order, and the records of those that are finished."""

    def started(self, key: RunKey) -> None:
        """Note that this process begins a run."""

    def finished(self, record: SweepRecord) -> None:
        """Note that this process finished a run and stored its record."""

    def found(self, record: SweepRecord) -> None:
        """Note that another process has finished a run in the meantime."""

    def waiting(self, keys: Sequence[RunKey]) -> None:
        """Note that other processes are making all the remaining runs."""


RETRAINING = "retrain"
"""The stage of a run whose time is proportional to the number of epochs."""

_ALL = ""
"""The key under which the times of all methods are added up."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """An estimate of the seconds until the end; a lower bound if `at_least` is set."""

    seconds: float
    at_least: bool


class Forecast:
    """Estimates the time that runs will take from the times of finished ones.

    The expected time of an epoch of retraining, and that of the rest of a run, is the mean over
    the finished runs of the same method, or over all runs if there is none. Until a retraining
    is finished, the time of an epoch is taken from the retraining in progress.
    """

    def __init__(self) -> None:
        self._rest: dict[str, float] = defaultdict(float)
        self._runs: Counter[str] = Counter()
        self._retraining: dict[str, float] = defaultdict(float)
        self._epochs: Counter[str] = Counter()
        self._glimpse: float | None = None
        self._mine = 0
        self._others = 0

    def known(self, record: SweepRecord) -> None:
        """Add a run that was finished before this process began."""
        trained = record.seconds.get(RETRAINING)
        for method in (record.method, _ALL):
            self._rest[method] += sum(record.seconds.values()) - (trained or 0.0)
            self._runs[method] += 1
            if trained is not None:
                self._retraining[method] += trained
                self._epochs[method] += record.retrain_epochs

    def finished(self, record: SweepRecord, *, here: bool) -> None:
        """Add a run that this process (`here`) or another one has just finished."""
        self.known(record)
        if here:
            self._mine += 1
        else:
            self._others += 1

    def glimpsed(self, seconds: float) -> None:
        """Set the estimated seconds per epoch of the retraining in progress."""
        self._glimpse = seconds

    def outlook(self, keys: Sequence[RunKey]) -> Outlook | None:
        """Estimate when these runs will be finished, or return None if no run has finished yet.

        It is assumed that this process will make the same share of them as of those before.
        """
        if not keys:
            return Outlook(0.0, at_least=False)
        if not self._runs:
            return None
        together = sum(self._expected(key) for key in keys)
        share = self._mine / (self._mine + self._others) if self._mine else 1.0
        unseen = not self._epochs and self._glimpse is None
        return Outlook(
            together * share, at_least=unseen and any(key.retrain_epochs for key in keys)
        )

    def _expected(self, key: RunKey) -> float:
        """Return the expected seconds of a run."""
        method = key.method if self._runs[key.method] else _ALL
        rest = self._rest[method] / self._runs[method]
        return rest + key.retrain_epochs * self._epoch(key.method)

    def _epoch(self, method: str) -> float:
        """Return the expected seconds of an epoch of retraining."""
        if not self._epochs:
            return self._glimpse or 0.0
        method = method if self._epochs[method] else _ALL
        return self._retraining[method] / self._epochs[method]
