"""Working off the runs of a sweep, beside other processes that do the same."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alds_cli.checkpoint import RunFolder, RunKey
from alds_cli.records import SweepBaseline, SweepRecord

_SHORT_PAUSE, _LONG_PAUSE = 0.05, 2.0
"""Seconds between two looks at what others work on: the first, and the longest."""


def work_off(
    folder: RunFolder,
    keys: Sequence[RunKey],
    make: Callable[[RunKey], SweepRecord],
    watcher: Watcher,
) -> int:
    """Make every run that is not finished and that nobody else is at, until all are finished.

    What others work on is looked at again at the end, until they have finished it or have
    ended without: then it is made here.

    Args:
        folder: where finished runs are.
        keys: the runs, in the order to make them.
        make: makes one.
        watcher: told of every step.

    Returns:
        How many runs this process made.
    """
    made = 0
    left = [key for key in keys if not folder.has(key)]
    pause = _SHORT_PAUSE
    while left:
        busy = []
        for key in left:
            mine = _attempt(folder, key, make, watcher)
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


def _attempt(
    folder: RunFolder, key: RunKey, make: Callable[[RunKey], SweepRecord], watcher: Watcher
) -> bool | None:
    """Whether the run was made here; None where somebody else is still at it."""
    if not folder.has(key):
        with folder.claim(key) as granted:
            if not granted:
                return None
            # Its last holder may have finished it between the look and the claim.
            if not folder.has(key):
                watcher.started(key)
                record = make(key)
                folder.write(record)
                watcher.finished(record)
                return True
    watcher.found(folder.record(key))
    return False


class Watcher:
    """Told of every step of a sweep; by itself it does nothing about it."""

    def planned(
        self, baseline: SweepBaseline, keys: Sequence[RunKey], found: Sequence[SweepRecord]
    ) -> None:
        """All runs in their order, and the records of those finished before."""

    def started(self, key: RunKey) -> None:
        """This process begins a run."""

    def finished(self, record: SweepRecord) -> None:
        """This process finished a run, and its record is kept."""

    def found(self, record: SweepRecord) -> None:
        """Another process finished a run meanwhile."""

    def waiting(self, keys: Sequence[RunKey]) -> None:
        """Other processes work on all that is left."""


RETRAINING = "retrain"
"""The stage of a run that takes as long as there are epochs."""

_ALL = ""
"""Stands for every method together."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Seconds until the end; at least so many where some part has never been seen."""

    seconds: float
    at_least: bool


class Forecast:
    """What runs have taken so far, and what that says of others.

    An epoch of retraining, and all the rest of a run, are expected to take the mean over the
    runs of the same method, and over all where there is none of it yet. Before any retraining
    is finished, what is seen of one on the way has to do.
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
        """A run that was finished before."""
        trained = record.seconds.get(RETRAINING)
        for method in (record.method, _ALL):
            self._rest[method] += sum(record.seconds.values()) - (trained or 0.0)
            self._runs[method] += 1
            if trained is not None:
                self._retraining[method] += trained
                self._epochs[method] += record.retrain_epochs

    def finished(self, record: SweepRecord, *, here: bool) -> None:
        """A run that this process, or another one, has just finished."""
        self.known(record)
        if here:
            self._mine += 1
        else:
            self._others += 1

    def glimpsed(self, seconds: float) -> None:
        """What an epoch of the retraining under way seems to take."""
        self._glimpse = seconds

    def outlook(self, keys: Sequence[RunKey]) -> Outlook | None:
        """When these runs will be finished; None where nothing is known to judge by.

        The processes at work are taken to share them as they shared those before.
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
        method = key.method if self._runs[key.method] else _ALL
        rest = self._rest[method] / self._runs[method]
        return rest + key.retrain_epochs * self._epoch(key.method)

    def _epoch(self, method: str) -> float:
        if not self._epochs:
            return self._glimpse or 0.0
        method = method if self._epochs[method] else _ALL
        return self._retraining[method] / self._epochs[method]
