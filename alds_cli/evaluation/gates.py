"""Gates: bounds that an evaluated network has to keep, judged in view of chance.

The mathematics, and how many images tell which drop, are told in `docs/ci.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from alds_cli.datasets import Samples, TokenBlocks
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation.paired import Drop
from alds_cli.options.evaluate_options import EvaluateOptions
from alds_cli.records import FloatArray, Footprint, Gate
from alds_cli.runtime.devices import median_at_least
from alds_cli.text import parse_limits


def require_told(texts: bool, *, drop: bool, rise: bool) -> None:
    """Refuse a bound on what samples do not tell.

    Args:
        texts: whether they are texts, rather than images.
        drop: whether a drop in points is bounded.
        rise: whether a rise of the loss per token is.

    Raises:
        OptionError: points are bounded on texts, or nats on images.
    """
    if texts and drop:
        raise OptionError(
            "--max-drop bounds points of top-1, mean IoU or agreement, and text has none",
            tip="--max-loss-rise 0.05 bounds the rise of the loss, in nats per token",
        )
    if rise and not texts:
        raise OptionError(
            "--max-loss-rise bounds the rise of the loss per token, and images have no tokens",
            tip="--max-drop 0.5 bounds the fall of top-1, mean IoU or agreement, in points",
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds that are asked for.

    Attributes:
        limits: the most that is allowed, by resource; latency in nanoseconds.
        drop: the most points that the quality may fall below the baseline's; None allows any.
        confidence: how sure one has to be of an excess, in (0, 1).
        rise: the most nats per token that the loss on texts may rise above the baseline's; None
            allows any.
    """

    limits: Mapping[str, int]
    drop: float | None
    confidence: float
    rise: float | None = None

    @classmethod
    def of(cls, options: EvaluateOptions) -> Bounds:
        """Return what the options ask for, before anything is measured.

        Raises:
            OptionError: a bound makes no sense, or what it needs is not asked for.
        """
        limits = parse_limits(
            max_params=options.max_params,
            max_macs=options.max_macs,
            max_size=options.max_size,
            max_latency=options.max_latency,
        )
        relative = {"drop": options.max_drop, "rise of the loss": options.max_loss_rise}
        asked = [name for name, bound in relative.items() if bound is not None]
        if asked and options.baseline is None:
            raise OptionError(
                f"a {asked[0]} is measured against another network, and none is named",
                tip="--baseline MODEL, usually the original",
            )
        if "latency" in limits and not options.latency:
            raise OptionError(
                "--max-latency needs what --no-latency leaves out", tip="leave out --no-latency"
            )
        if options.max_drop is not None and not 0 <= options.max_drop <= 100:
            raise OptionError(f"a drop of {options.max_drop:g} points cannot be allowed")
        if options.max_loss_rise is not None and not 0 <= options.max_loss_rise < math.inf:
            raise OptionError(f"a rise of {options.max_loss_rise:g} nats cannot be allowed")
        if not 0 < options.confidence < 100:
            raise OptionError(f"a confidence of {options.confidence:g} % does not exist")
        return cls(limits, options.max_drop, options.confidence / 100, options.max_loss_rise)

    def require_told_by(self, samples: Samples) -> None:
        """Refuse a bound on what samples do not tell: points on texts, and nats on images.

        Raises:
            OptionError: there is one.
            DataError: there is but one text, and the rise of a loss is bounded.
        """
        texts = isinstance(samples, TokenBlocks)
        require_told(texts, drop=self.drop is not None, rise=self.rise is not None)
        if texts and self.rise is not None and len(samples) < 2:
            raise DataError(
                f"{samples.name} is one text, which does not tell how sure a rise of the loss is",
                tip="name more text, or give a smaller --block-length",
            )

    def require_known(self, cost: Footprint) -> None:
        """Make sure, before images are looked at, that a network's cost can be compared.

        Raises:
            DataError: a bound is on what is not known of the network.
        """
        if "bytes" in self.limits and cost.bytes is None:
            raise DataError(
                "the network does not come from a file, so that it has no size in bytes",
                tip="name its file, or bound its parameters",
            )
        if "macs" in self.limits and cost.macs is None:
            raise DataError(
                "the MACs of this network cannot be counted", tip="leave out --max-macs"
            )

    def judged(
        self, cost: Footprint, seconds: FloatArray | None, of: str, drop: Drop | None
    ) -> tuple[Gate, ...]:
        """Return a gate for every bound.

        Args:
            cost: what the network takes.
            seconds: the times of its forward passes, if they were measured.
            of: what may drop, a key of `DROP_MEASURES`.
            drop: how far it did, or by how much a loss rose, if there is a baseline.
        """
        return tuple(self._gates(cost, seconds, of, drop))

    def _gates(
        self, cost: Footprint, seconds: FloatArray | None, of: str, drop: Drop | None
    ) -> Iterator[Gate]:
        name, allowed = ("loss_rise", self.rise) if of == "loss" else ("drop", self.drop)
        if allowed is not None and drop is not None:
            judged = drop.at_least(self.confidence)
            yield Gate(
                name,
                of,
                drop.points,
                judged,
                allowed,
                judged <= allowed,
                100 * self.confidence,
                drop.found_from(allowed, self.confidence),
            )
        for name, amount in (("params", cost.params), ("macs", cost.macs), ("bytes", cost.bytes)):
            if name in self.limits and amount is not None:
                bound = self.limits[name]
                yield Gate(name, None, amount, amount, bound, amount <= bound)
        if "latency" in self.limits and seconds is not None and cost.latency is not None:
            allowed = self.limits["latency"] / 1e6
            judged = 1e3 * median_at_least(seconds, self.confidence)
            yield Gate(
                "latency",
                None,
                cost.latency.median_ms,
                judged,
                allowed,
                judged <= allowed,
                100 * self.confidence,
            )
