"""The search for the smallest network that loses at most so much of its quality on images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from alds_cli.checkpoint import write_plan
from alds_cli.compression.carried_out import CarriedOut
from alds_cli.compression.drop_measures import Measure, measure_for, settled_measure
from alds_cli.compression.low_rank import require_able
from alds_cli.compression.run import CompressionRun, planned
from alds_cli.compression.session import CompressionResult, Session, require_files
from alds_cli.compression.targets import parse_target
from alds_cli.datasets import is_text, opened
from alds_cli.errors import ContractError, DropUnreachableError, OptionError, RatioUnreachableError
from alds_cli.methods import method_named
from alds_cli.options.compress_options import CompressOptions
from alds_cli.records import DROP_MEASURES, DropPoint, DropSearch

_log = logging.getLogger(__name__)

EVALUATIONS = 12
"""The most networks that are made and measured, without the original."""

_STEPS = 1000
"""Ratios are multiples of one part in so many."""

_NEAR = 10
"""The interval between a ratio within the drop and one beyond it is halved down to so many."""

_LEAPS = (15, 25, 35)
"""How many steps beyond the best ratio a better one is looked for then. The drop does not rise
evenly, so a larger ratio may lose less than a smaller one."""


def compress_within_drop(options: CompressOptions) -> CompressionResult:
    """Write the smallest network found whose quality falls by at most `options.max_drop` points.

    Ratios are tried from one profile and one set of statistics. Each gives a network that is
    verified and measured on images. A target and limits hold as without a drop.

    Args:
        options: what was asked, without a ratio or a plan.

    Raises:
        DropUnreachableError: no smaller network that was tried loses so little.
        ContractError: a limit cannot be met.
        OptionError: options make no sense together, or no images are left to measure on.
        DataError: the images cannot be used, or not with this network.
    """
    _require_searchable(options)
    limited = parse_target(options, None)
    require_able(options.method, parse_target(options, Fraction(1, _STEPS)).planned_for)
    (output,), (plan_output,) = require_files(options, [None])
    session = Session(_with_open_images(options))
    search = _Search(session, measure_for(session), output or "artefact.pt")
    if limited.resources:
        search.require_limits()
    search.halve()
    search.leap()
    best = search.chosen()
    if plan_output is not None:
        write_plan(best.run.plan, Path(plan_output))
    target = None if options.dry_run else output
    network, report = best.run.written(best.done, target)
    report = replace(report, drop=search.report(), seconds=search.seconds())
    return CompressionResult(network, best.run.plan, report, target)


def _with_open_images(options: CompressOptions) -> CompressOptions:
    """Open the images once, for the method and for the measuring, which both need some."""
    assert options.data is not None  # noqa: S101 - checked before
    images = opened(options.data, split="train", download=options.download)
    settled_measure(options.drop_of, images)
    samples, tunes = options.samples, options.tune_steps or options.tune_minutes
    draws = tunes or options.refit or method_named(options.method).needs
    if samples >= len(images) > 1 and draws:
        samples = len(images) // 2
        _log.warning(
            "%d of the %d images make the network, and the others judge it (--samples)",
            samples,
            len(images),
        )
    return replace(options, data=images, samples=samples)


def _require_searchable(options: CompressOptions) -> None:
    if is_text(options.data):
        raise OptionError(
            "--max-drop bounds points of top-1, mean IoU or agreement, and text has none",
            tip="name a ratio; `alds evaluate --baseline MODEL --max-loss-rise 0.05` tells how far "
            "the loss of its result has risen",
        )
    if options.ratio not in (None, [None]) or options.plan is not None:
        given = "a plan" if options.plan is not None else "a ratio"
        raise OptionError(
            f"{given} says how small the result is, and so does --max-drop",
            tip="give one of them; --max-params, --max-macs, --max-size and --max-latency go with "
            "--max-drop",
        )
    if options.data is None:
        raise OptionError(
            "a drop is measured on images, and none are named",
            tip="--data tensors:FILE, imagefolder:DIR or cifar10:DIR",
        )


@dataclass(frozen=True, slots=True)
class _Tried:
    """A run, the network that it made, and the drop of that."""

    run: CompressionRun
    done: CarriedOut
    point: DropPoint


class _Search:
    """The search over ratios, which are whole numbers of steps here.

    Args:
        session: the network, its tables and how to plan.
        measure: measures the drop.
        output: the artefact's file name, which determines its format.
    """

    def __init__(self, session: Session, measure: Measure, output: str) -> None:
        self._session, self._measure, self._output = session, measure, output
        options = session.options
        assert options.max_drop is not None  # noqa: S101 - that is why there is a search
        self._allowed = options.max_drop
        self._points: list[DropPoint] = []
        self._clocks: list[Mapping[str, float]] = []
        self._best: _Tried | None = None
        self._least = 0
        self._failed: set[int] = set()
        self._unreachable = _STEPS

    @property
    def _beyond(self) -> int:
        """The least ratio above the best one that loses too much or cannot be had."""
        return min([self._unreachable, *(step for step in self._failed if step > self._least)])

    @property
    def _over(self) -> bool:
        return len(self._points) >= EVALUATIONS

    def require_limits(self) -> None:
        """Try what the limits alone ask for: larger networks are of no use.

        Raises:
            DropUnreachableError: it loses too much already.
            ContractError: a limit cannot be met.
        """
        tried = self._carried_out(None)
        if tried.point.drop > self._allowed:
            raise DropUnreachableError(
                f"the network within the limits loses {self._points_lost(tried.point)}, more than "
                f"the {self._allowed:g} allowed",
                tip="loosen a limit, or allow a larger --max-drop",
            )
        self._best = tried
        self._least = int(tried.point.ratio * _STEPS)

    def _points_lost(self, point: DropPoint) -> str:
        return f"{point.drop:.2f} points of {DROP_MEASURES[self._measure.of]}"

    def halve(self) -> None:
        """Halve the interval between the best ratio and one beyond the drop."""
        while self._beyond - self._least > _NEAR and not self._over:
            self._try((self._least + self._beyond) // 2)

    def leap(self) -> None:
        """Look for better ratios beyond one that loses too much, then halve what is left."""
        leaps = list(_LEAPS)
        while leaps and not self._over:
            step = self._least + leaps.pop(0)
            if step < self._unreachable and step not in self._failed and self._try(step):
                leaps = list(_LEAPS)
        while self._beyond - self._least > 1 and not self._over:
            self._try((self._least + self._beyond) // 2)

    def _try(self, step: int) -> bool:
        """Measure the network at a ratio, and return whether it loses little enough."""
        try:
            tried = self._carried_out(Fraction(step, _STEPS))
        except RatioUnreachableError as error:
            self._unreachable = min(step, max(self._least, int(error.largest * _STEPS)) + 1)
            return False
        except ContractError:
            self._unreachable = step
            return False
        if tried.point.drop > self._allowed:
            self._failed.add(step)
            return False
        self._best, self._least = tried, step
        return True

    def _carried_out(self, ratio: Fraction | None) -> _Tried:
        """Make a network and measure its drop.

        Raises:
            ContractError: no plan reaches the ratio and the limits.
        """
        target = parse_target(self._session.options, ratio)
        run = planned(self._session, target, self._output, None)
        done = run.carry_out(last=False)
        drop, low, high = self._measure.drop(done.network.module)
        removed = 1 - done.params / self._session.params if ratio is None else float(ratio)
        point = DropPoint(removed, done.params, drop, low, high)
        self._points.append(point)
        self._clocks.append(run.seconds)
        return _Tried(run, done, point)

    def chosen(self) -> _Tried:
        """Return the smallest network that loses little enough.

        Raises:
            DropUnreachableError: none does.
        """
        if self._best is not None:
            return self._best
        if not self._points:
            raise ContractError("no smaller network can be made of this one")
        least = min(self._points, key=lambda point: point.drop)
        raise DropUnreachableError(
            f"no smaller network was found that loses at most {self._allowed:g} points of "
            f"{DROP_MEASURES[self._measure.of]}: at a ratio of {least.ratio:g} it loses "
            f"{least.drop:.2f}",
            tip=f"--max-drop {max(least.drop, 0) + 0.005:.2f}, or a method that looks at images: "
            "--method alds-data",
        )

    def report(self) -> DropSearch:
        """Return what was measured, in the order of the ratios."""
        assert self._best is not None  # noqa: S101 - there is nothing to report otherwise
        return DropSearch(
            of=self._measure.of,
            allowed=self._allowed,
            images=self._measure.images,
            before=self._measure.before,
            chosen=self._best.point,
            tried=sorted(self._points, key=lambda point: point.ratio),
        )

    def seconds(self) -> dict[str, float]:
        """Return the seconds of all stages of all networks."""
        total = dict(self._session.clock.seconds)
        for clock in [*self._clocks, self._measure.clock.seconds]:
            for stage, taken in clock.items():
                total[stage] = total.get(stage, 0.0) + taken
        return total
