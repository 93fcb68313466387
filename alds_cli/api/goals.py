"""What is asked of a compressed network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch

from alds_cli.compression import COUNTS, SIZES, TIMES, parse_quantity, parse_ratio
from alds_cli.errors import OptionError
from alds_cli.numerics.devices import pick_device

TARGETS = ("params", "macs", "bytes", "latency")
"""What a ratio can be a fraction of."""

_UNLIMITED = 2**62
"""No network comes near it, and arithmetic with whole numbers of 64 bits ends beyond."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio of a target, absolute limits, or both.

    Attributes:
        ratio: the fraction of the target to remove; None where only limits count.
        target: one of `TARGETS`.
        limits: the most that is allowed, by target; latency in nanoseconds.
        never_slower: no layer may become one that measures slower.
        batch_size: samples in a forward pass whose time counts.
        device: where that time is measured; None is CUDA where present.
    """

    ratio: Fraction | None
    target: str
    limits: Mapping[str, int]
    never_slower: bool = False
    batch_size: int = 1
    device: str | None = None

    @property
    def resources(self) -> tuple[str, ...]:
        """The targets that are limited in any way, in the order of `TARGETS`."""
        limited = {*self.limits, *([self.target] if self.ratio is not None else [])}
        return tuple(name for name in TARGETS if name in limited)

    @property
    def timed(self) -> bool:
        """Whether anything has to be measured."""
        return self.never_slower or "latency" in self.resources

    def where(self) -> torch.device:
        """The device to measure on.

        Raises:
            OptionError: there is no such device here.
        """
        return pick_device(self.device)


def parse_goal(
    ratio: float | str | Fraction | None,
    target: str,
    *,
    max_params: str | int | None = None,
    max_macs: str | int | None = None,
    max_size: str | int | None = None,
    max_latency: str | int | None = None,
    never_slower: bool = False,
    batch_size: int = 1,
    device: str | None = None,
) -> Goal:
    """Options as a goal.

    Raises:
        OptionError: a value makes no sense.
    """
    if target not in TARGETS:
        raise OptionError(f"unknown target '{target}'", tip=f"choose from {', '.join(TARGETS)}")
    if batch_size < 1:
        raise OptionError(f"a batch of {batch_size} images cannot be timed")
    given = {
        "params": (max_params, COUNTS, "--max-params"),
        "macs": (max_macs, COUNTS, "--max-macs"),
        "bytes": (max_size, SIZES, "--max-size"),
        "latency": (max_latency, TIMES, "--max-latency"),
    }
    limits = {
        name: min(parse_quantity(value, units, option), _UNLIMITED)
        for name, (value, units, option) in given.items()
        if value is not None
    }
    asked = None if ratio is None else parse_ratio(ratio)
    return Goal(asked, target, limits, never_slower, batch_size, device)
