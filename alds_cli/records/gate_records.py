"""What is recorded of the gates of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from alds_cli.forms import Count, Finite, Percent, Term


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound that a network has to keep, and what was measured.

    Attributes:
        name: `drop` (in points), `loss_rise` (in nats per token), `params`, `macs`, `bytes` or
            `latency` (in milliseconds).
        of: what may drop or rise, a key of `DROP_MEASURES`; None for the other gates.
        figure: what was measured.
        judged: what is compared with the bound: the figure itself, or where chance moves it, the
            end of its one-sided confidence interval.
        bound: the most that is allowed.
        passed: whether `judged` is not above it.
        confidence: of the interval, in per cent; None where nothing is left to chance.
        found_from: the least true drop or rise that fails in 95 of 100 samples of as many images
            or texts; None for the other gates.
    """

    name: Term
    of: Term | None
    figure: Count | Finite
    judged: Count | Finite
    bound: Count | Finite
    passed: bool
    confidence: Percent | None = None
    found_from: Finite | None = None
