"""The progress of a sweep: a live display on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alds_cli.checkpoint.run_folder import RunKey
from alds_cli.cli.interface import Interface, line
from alds_cli.records import (
    ProgressCallback,
    ProgressEvent,
    SweepBaseline,
    SweepRecord,
)
from alds_cli.sweeping import RETRAINING, Forecast, Watcher
from alds_cli.text import signed, visible

_LONGEST_NAME = 28
"""The most columns that the names of methods take."""

_SIGNS = {"done": "■", "some": "▪", "now": "▶", "out": "×", "open": "·"}
_STYLES = {"done": "green", "some": "green", "now": "bold yellow", "out": "red", "open": "dim"}
_MEANINGS = {
    "done": "done",
    "some": "some done",
    "now": "running",
    "out": "out of reach",
    "open": "to do",
}


_UNKNOWN = "–:––:––"
"""A time that is not known yet."""


@contextmanager
def watching(
    interface: Interface, folder: Path
) -> Iterator[tuple[Watcher, ProgressCallback | None]]:
    """Yield a watcher of the sweep's runs, and a callback for the progress within a run.

    On an interruption from the keyboard, a message says what is kept.
    """
    tally = _Tally()
    try:
        if interface.quiet:
            yield tally, None
        elif interface.notes.is_terminal:
            display = _Display(tally)
            with Live(display, console=interface.notes, transient=True, refresh_per_second=4):
                yield display, display.advanced
        else:
            yield _Lines(tally, interface), None
    except KeyboardInterrupt:
        interface.say(tally.farewell(folder))
        raise


class _Tally(Watcher):
    """The runs that are planned and finished, and an estimate of the remaining time."""

    def __init__(self) -> None:
        self.top1 = 0.0
        self.keys: list[RunKey] = []
        self.places: dict[str, dict[str, list[RunKey]]] = {}
        self.records: dict[RunKey, SweepRecord] = {}
        self.running: list[RunKey] = []
        self.waits = False
        self._forecast = Forecast()
        self._last = time.monotonic()

    def planned(
        self, baseline: SweepBaseline, keys: Sequence[RunKey], found: Sequence[SweepRecord]
    ) -> None:
        """Take stock."""
        self.top1 = baseline.quality.top1
        self.keys = list(keys)
        self.places = {}
        for key in keys:
            self.places.setdefault(key.method, {}).setdefault(key.ratio, []).append(key)
        for record in found:
            self.records[RunKey.of(record)] = record
            self._forecast.known(record)
        self._last = time.monotonic()

    def started(self, key: RunKey) -> None:
        """Begin a run; an engine may make several at once."""
        self.waits = False
        if key not in self.running:
            self.running.append(key)

    def finished(self, record: SweepRecord) -> None:
        """Count a run made by this process."""
        self._count(record, here=True)

    def found(self, record: SweepRecord) -> None:
        """Count a run made by another process."""
        self._count(record, here=False)

    def advanced(self, event: ProgressEvent, seconds: float) -> None:
        """Note how far a part of the current run has come, and in how many seconds."""
        if len(self.running) == 1 and event.task == RETRAINING and event.done:
            whole = seconds * event.total / event.done
            self._forecast.glimpsed(whole / self.running[0].retrain_epochs)

    def waiting(self, keys: Sequence[RunKey]) -> None:
        """Note that no run is left to begin."""
        del keys
        self.running, self.waits = [], True

    def _count(self, record: SweepRecord, *, here: bool) -> None:
        done = RunKey.of(record)
        self.running = [key for key in self.running if key != done]
        self.records[done] = record
        self._forecast.finished(record, here=here)
        self._last = time.monotonic()

    @property
    def unreachable(self) -> int:
        """The number of finished runs that their methods could not do."""
        return sum(not record.reached for record in self.records.values())

    @property
    def left(self) -> int:
        """The number of runs that are not finished."""
        return len(self.keys) - len(self.records)

    def time_left(self) -> str:
        """Format an estimate of the time until the end."""
        outlook = self._forecast.outlook([key for key in self.keys if key not in self.records])
        if outlook is None:
            return _UNKNOWN
        # The runs in progress have been running since the last one finished, side by side.
        together = outlook.seconds / max(1, len(self.running))
        left = max(0.0, together - (time.monotonic() - self._last))
        if not outlook.at_least:
            return _clock(left)
        return f"over {_clock(left)}" if round(left) else _UNKNOWN

    def farewell(self, folder: Path) -> str:
        """Return the message for an interruption: what is kept."""
        if not self.keys:
            return "interrupted before the first run"
        return (
            f"interrupted: {len(self.records)} of {len(self.keys)} runs are kept in {folder}; "
            "the same command continues from there"
        )


class _Lines(Watcher):
    """A line for every finished run, for logs.

    Args:
        tally: told of everything first.
        interface: prints the lines.
    """

    def __init__(self, tally: _Tally, interface: Interface) -> None:
        self._tally = tally
        self._say = interface.say

    def planned(
        self, baseline: SweepBaseline, keys: Sequence[RunKey], found: Sequence[SweepRecord]
    ) -> None:
        """Print how many runs there are."""
        self._tally.planned(baseline, keys, found)
        already = f", {len(found)} of them finished already" if found else ""
        self._say(f"{len(keys)} runs{already}; the original: top-1 {self._tally.top1:.2f} %")

    def started(self, key: RunKey) -> None:
        """Print nothing: lines are for finished runs."""
        self._tally.started(key)

    def finished(self, record: SweepRecord) -> None:
        """Print the run's outcome."""
        self._tally.finished(record)
        self._say(f"{self._position()} {_described(RunKey.of(record))}: {self._outcome(record)}")

    def found(self, record: SweepRecord) -> None:
        """Print that another process made the run."""
        self._tally.found(record)
        self._say(f"{self._position()} {_described(RunKey.of(record))}: made by another process")

    def waiting(self, keys: Sequence[RunKey]) -> None:
        """Print once that other processes are still at work."""
        if not self._tally.waits:
            self._say(_waiting(len(keys)))
        self._tally.waiting(keys)

    def _position(self) -> str:
        return f"[{len(self._tally.records)}/{len(self._tally.keys)}]"

    def _outcome(self, record: SweepRecord) -> str:
        if record.quality is None:
            return f"not reached: {record.reason}"
        top1, seconds = record.quality.top1, sum(record.seconds.values())
        return f"top-1 {top1:.2f} % ({signed(top1 - self._tally.top1, '.2f')}) in {seconds:.1f} s"


class _Display(Watcher):
    """The display of a sweep on a terminal: how far it is, what runs, and the grid.

    Args:
        tally: told of everything first.
    """

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._step: ProgressEvent | None = None
        self._start = self._step_start = time.monotonic()

    def planned(
        self, baseline: SweepBaseline, keys: Sequence[RunKey], found: Sequence[SweepRecord]
    ) -> None:
        """Take stock."""
        self._step = None
        self._tally.planned(baseline, keys, found)

    def started(self, key: RunKey) -> None:
        """Show the run that begins."""
        self._step = None
        self._tally.started(key)

    def finished(self, record: SweepRecord) -> None:
        """Fill in the grid."""
        self._tally.finished(record)

    def found(self, record: SweepRecord) -> None:
        """Fill in the grid."""
        self._tally.found(record)

    def waiting(self, keys: Sequence[RunKey]) -> None:
        """Show that other processes are still at work."""
        self._tally.waiting(keys)

    def advanced(self, event: ProgressEvent) -> None:
        """Show the progress of a part of the run."""
        if self._step is None or self._step.task != event.task:
            self._step_start = time.monotonic()
        self._step = event
        self._tally.advanced(event, time.monotonic() - self._step_start)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the current state, the most important lines first in case the terminal is low."""
        tally = self._tally
        if not tally.keys:
            yield self._line("now", f"reading and evaluating the original{self._within()}")
            return
        yield Group(self._overall(), self._now(), Text(), *self._grid(options.max_width))

    def _overall(self) -> Table:
        """Return the line with the bar, the count and the time."""
        tally = self._tally
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(ratio=1)
        line.add_column(justify="right", no_wrap=True)
        done = len(tally.records)
        out = f", {tally.unreachable} out of reach" if tally.unreachable else ""
        gone = _clock(time.monotonic() - self._start)
        line.add_row(
            ProgressBar(total=len(tally.keys), completed=done),
            f"{done}/{len(tally.keys)} runs{out}  {gone} gone, {tally.time_left()} left",
        )
        return line

    def _now(self) -> Text:
        tally = self._tally
        if len(tally.running) == 1:
            return self._line("now", _described(tally.running[0]) + self._within())
        if tally.running:
            described = "; ".join(map(_described, tally.running))
            return self._line("now", f"{len(tally.running)} runs: {described}")
        if tally.waits:
            return self._line("now", _waiting(tally.left))
        return self._line("now", "")

    def _within(self) -> str:
        """Format how far the current part of the run is."""
        step = self._step
        return "" if step is None else f": {step.task} {step.done}/{step.total}"

    @staticmethod
    def _line(label: str, text: str) -> Text:
        return _unwrapped(line((f"{label}: ", "dim"), text))

    def _grid(self, width: int) -> Iterator[Table | Text]:
        """Yield a row for each method, with a sign for each ratio if they fit."""
        places = self._tally.places
        ratios = sorted({ratio for keys in places.values() for ratio in keys}, key=Fraction)
        names = min(_LONGEST_NAME, max(cell_len(visible(method)) for method in places))
        fits = names + len(ratios) + 14 <= width
        made = Table.grid(padding=(0, 2))
        made.add_column(no_wrap=True, max_width=names, overflow="ellipsis")
        if fits:
            made.add_column(no_wrap=True)
        made.add_column(justify="right", no_wrap=True)
        for method, keys in places.items():
            records = {ratio: self._records(keys.get(ratio, ())) for ratio in ratios}
            states = [self._state(method, ratio, found) for ratio, found in records.items()]
            picture = Text.assemble(*((_SIGNS[state], _STYLES[state]) for state in states))
            every = [record for found in records.values() for record in found]
            done = sum(record is not None for record in every)
            made.add_row(visible(method), *([picture] if fits else []), f"{done}/{len(every)}")
        yield made
        if fits:
            yield self._legend(ratios)

    def _records(self, keys: Sequence[RunKey]) -> list[SweepRecord | None]:
        return [self._tally.records.get(key) for key in keys]

    def _state(self, method: str, ratio: str, records: Sequence[SweepRecord | None]) -> str:
        """Return the state of all runs of a method at a ratio, taken together."""
        if any((key.method, key.ratio) == (method, ratio) for key in self._tally.running):
            return "now"
        finished = [record for record in records if record is not None]
        if not finished:
            return "open"
        if len(finished) < len(records):
            return "some"
        return "done" if any(record.reached for record in finished) else "out"

    @staticmethod
    def _legend(ratios: Sequence[str]) -> Text:
        meanings = "  ".join(f"{_SIGNS[state]} {meaning}" for state, meaning in _MEANINGS.items())
        span = ratios[0] if len(ratios) == 1 else f"{ratios[0]} … {ratios[-1]}"
        return _unwrapped(line(f"ratios {span}   {meanings}", style="dim"))


def _unwrapped(text: Text) -> Text:
    """Keep the text on one row of the terminal, cut off if it does not fit."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _described(key: RunKey) -> str:
    epochs = {0: "", 1: ", 1 epoch"}.get(key.retrain_epochs, f", {key.retrain_epochs} epochs")
    repeat = f", repeat {key.repeat}" if key.repeat else ""
    return f"{key.method} at {key.ratio}{epochs}{repeat}"


def _waiting(runs: int) -> str:
    if runs == 1:
        return "waiting for a run of another process"
    return f"waiting for {runs} runs of other processes"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
