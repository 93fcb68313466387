"""The runs of a sweep, grouped into points: the repeats of one method at one ratio.

Accuracies are compared as exact fractions. A top-1 accuracy is a number of images divided by
another, and the rounding of its percentage must not decide whether accuracy dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from alds_cli.errors import OptionError, RunFolderError
from alds_cli.methods import METHODS
from alds_cli.records import Evaluation, SweepBaseline, SweepRecord

_ROUNDING = Fraction(1, 10**9)
"""A percentage this close to that of a whole number of images is taken for it (relative)."""


@dataclass(frozen=True, slots=True)
class Point:
    """One method at one ratio after one amount of retraining, with a value for each repeat.

    `ratio` is the fraction that was to be removed, as the user wrote it. `records` are the runs
    that reached it, by repeat, and `unreached` the others. `top1` and `top5` are differences
    from the baseline in points of accuracy, negative if it dropped; `params` and `macs` are the
    shares removed, in per cent; `latency` is in milliseconds; `slowdown` is the latency as a
    multiple of the original's, timed in turns with it. A measure that some repeat lacks is None.
    """

    method: str
    retrain_epochs: int
    ratio: str
    records: tuple[SweepRecord, ...]
    unreached: tuple[SweepRecord, ...]
    top1: tuple[Fraction, ...]
    top5: tuple[Fraction, ...] | None
    params: tuple[Fraction, ...]
    macs: tuple[Fraction, ...] | None
    latency: tuple[float, ...] | None
    slowdown: tuple[float, ...] | None

    @property
    def counts(self) -> bool:
        """Whether there are repeats and all of them reached the ratio."""
        return bool(self.records) and not self.unreached


@dataclass(frozen=True, slots=True)
class Results:
    """The points of a sweep, sorted by amount of retraining, method and ratio."""

    baseline: SweepBaseline
    methods: tuple[str, ...]
    amounts: tuple[int, ...]
    points: tuple[Point, ...]

    def of(self, method: str, retrain_epochs: int) -> tuple[Point, ...]:
        """Return the points of one method after one amount of retraining, by ascending ratio."""
        return tuple(
            point
            for point in self.points
            if point.method == method and point.retrain_epochs == retrain_epochs
        )


def mean(values: Sequence[Fraction]) -> Fraction:
    """Return the exact mean of at least one value."""
    return sum(values, Fraction(0)) / len(values)


def gather(
    baseline: SweepBaseline,
    records: Iterable[SweepRecord],
    methods: Sequence[str] | None = None,
) -> Results:
    """Group runs into points, independently of their order.

    Args:
        baseline: the measures of the original network.
        records: the finished runs.
        methods: the methods to take, in this order; None takes all, in the order of
            `methods.METHODS`.

    Raises:
        RunFolderError: there is no run, or none that reached its ratio.
        OptionError: a method is named twice, or has no runs.
    """
    groups: dict[tuple[str, int, Fraction], list[SweepRecord]] = defaultdict(list)
    for record in records:
        if not record.reached or (record.quality is not None and record.params is not None):
            groups[record.method, record.retrain_epochs, Fraction(record.ratio)].append(record)
    chosen = _choose({method for method, _, _ in groups}, methods)
    points = [
        _point(baseline, groups[key])
        for key in sorted(groups, key=lambda key: (key[1], _place(key[0], chosen), key[2]))
        if key[0] in chosen
    ]
    if not any(point.records for point in points):
        reasons = sorted({run.reason or "" for point in points for run in point.unreached})
        raise RunFolderError(
            "no run reached its ratio" + (f": {reasons[0]}" if any(reasons) else ""),
            tip="sweep smaller ratios, or more methods",
        )
    amounts = sorted({point.retrain_epochs for point in points})
    return Results(baseline, chosen, tuple(amounts), tuple(points))


def base_name(method: str) -> str:
    """Return a method's name without its arguments."""
    return method.partition(":")[0]


def _choose(present: set[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    if not present:
        raise RunFolderError(
            "the sweep has no finished run yet", tip="run the same `alds sweep` to go on with it"
        )
    if wanted is None:
        return tuple(sorted(present, key=_usual_place))
    if len(set(wanted)) < len(wanted):
        raise OptionError("a method is named twice")
    if unknown := [method for method in wanted if method not in present]:
        listed = ", ".join(sorted(present, key=_usual_place))
        raise OptionError(f"the sweep has no runs of '{unknown[0]}'", tip=f"it has {listed}")
    return tuple(wanted)


def _usual_place(method: str) -> tuple[int, str]:
    names = list(METHODS)
    name = base_name(method)
    return names.index(name) if name in names else len(names), method


def _place(method: str, chosen: Sequence[str]) -> int:
    return chosen.index(method) if method in chosen else len(chosen)


def _point(baseline: SweepBaseline, runs: Iterable[SweepRecord]) -> Point:
    ordered = sorted(runs, key=lambda run: (run.repeat, run.ratio, run.seed))
    done = tuple(run for run in ordered if run.reached)
    qualities = [run.quality for run in done if run.quality is not None]
    return Point(
        method=ordered[0].method,
        retrain_epochs=ordered[0].retrain_epochs,
        ratio=ordered[0].ratio,
        records=done,
        unreached=tuple(run for run in ordered if not run.reached),
        top1=tuple(_top1(quality) - _top1(baseline.quality) for quality in qualities),
        top5=_top5(baseline.quality, qualities),
        params=_gone(baseline.params, [run.params for run in done]) or (),
        macs=_gone(baseline.macs, [run.macs for run in done]),
        latency=_latencies(done),
        slowdown=_slowdowns(done),
    )


def _exact(percentage: float, images: int) -> Fraction:
    """Return the fraction that an accuracy was before it was rounded to a float."""
    counted = Fraction(100 * round(percentage * images / 100), images)
    given = Fraction(percentage)
    return counted if abs(counted - given) <= _ROUNDING * 100 else given


def _top1(quality: Evaluation) -> Fraction:
    return _exact(quality.top1, quality.images)


def _top5(before: Evaluation, after: Sequence[Evaluation]) -> tuple[Fraction, ...] | None:
    known = [quality.top5 for quality in after if quality.top5 is not None]
    if before.top5 is None or not after or len(known) < len(after):
        return None
    reference = _exact(before.top5, before.images)
    return tuple(
        _exact(top5, quality.images) - reference for top5, quality in zip(known, after, strict=True)
    )


def _gone(before: int | None, after: Sequence[int | None]) -> tuple[Fraction, ...] | None:
    """Return the share removed by each run, in per cent; None if it is unknown for some run."""
    known = [count for count in after if count is not None]
    if not before or not after or len(known) < len(after):
        return None
    return tuple(Fraction(100 * (before - count), before) for count in known)


def _slowdowns(runs: Sequence[SweepRecord]) -> tuple[float, ...] | None:
    known = [
        run.latency.median_ms / run.latency_before.median_ms
        for run in runs
        if run.latency is not None and run.latency_before is not None
    ]
    return tuple(known) if runs and len(known) == len(runs) else None


def _latencies(runs: Sequence[SweepRecord]) -> tuple[float, ...] | None:
    known = [run.latency.median_ms for run in runs if run.latency is not None]
    return tuple(known) if runs and len(known) == len(runs) else None


def incomplete(results: Results) -> list[str]:
    """List remarks on runs that are missing or did not reach their ratio, a line each."""
    ratios = {Fraction(point.ratio) for point in results.points}
    lines = []
    for epochs in results.amounts:
        for method in results.methods:
            points = results.of(method, epochs)
            where = method if len(results.amounts) == 1 else f"{method} ({_amount(epochs)})"
            if len(points) < len(ratios):
                lines.append(f"{where}: {len(points)} of {len(ratios)} ratios are finished")
            lines += [f"{where}: {line}" for line in _missing_repeats(points)]
            lines += [f"{where}: {line}" for line in _unreached(points)]
    return lines


def repeats(results: Results) -> Mapping[str, int]:
    """Return the largest number of repeats that each method has at one point."""
    return {
        method: max(
            (
                len(point.records) + len(point.unreached)
                for point in results.points
                if point.method == method
            ),
            default=0,
        )
        for method in results.methods
    }


def _amount(epochs: int) -> str:
    return in_epochs(epochs) if epochs else "no retraining"


def _short(point: Point) -> str:
    return f"{float(Fraction(point.ratio)):.4g}"


def _missing_repeats(points: Sequence[Point]) -> list[str]:
    counts = {_short(point): len(point.records) + len(point.unreached) for point in points}
    most = max(counts.values(), default=0)
    short = [f"{ratio} ({count})" for ratio, count in counts.items() if count < most]
    return [f"fewer than {most} repeats at ratio {', '.join(short)}"] if short else []


def _unreached(points: Sequence[Point]) -> list[str]:
    never = [_short(point) for point in points if not point.records]
    partly = [
        f"{_short(point)} ({len(point.unreached)} of {len(point.unreached) + len(point.records)})"
        for point in points
        if point.records and point.unreached
    ]
    lines = [f"cannot reach ratio {', '.join(never)}"] if never else []
    return [*lines, *([f"some repeats cannot reach ratio {', '.join(partly)}"] if partly else [])]


PLACES = 2
"""The number of decimals of accuracies and compression ratios, as in the paper."""


def rounded(value: Fraction, places: int = PLACES) -> int:
    """Round a value to units of its last printed decimal, halves to even."""
    units: int = round(value * 10**places)
    return units


def decimal(value: Fraction | None, places: int = PLACES) -> str:
    """Format a value with `places` decimals, rounded exactly; None gives an empty string."""
    if value is None:
        return ""
    digits = f"{abs(rounded(value, places)):0{places + 1}d}"
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def signed(value: Fraction | None) -> str:
    """Format a value with its sign; a drop that rounds to zero still shows as a drop, -0.00."""
    text = decimal(value)
    return text if not text or text.startswith("-") else f"+{text}"


def short(value: Fraction) -> str:
    """Format a number such as δ with as few decimals as needed, at most six: 0.5, 1."""
    return decimal(value, 6).rstrip("0").rstrip(".")


def in_epochs(count: int) -> str:
    """Format an amount of retraining: `1 epoch`, `3 epochs`."""
    return "1 epoch" if count == 1 else f"{count} epochs"
