"""The grid of a sweep: its ratios, its runs, and the order in which they are made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.run_folder import RunKey
from alds_cli.errors import OptionError
from alds_cli.options.readers import parse_alpha

_DIGITS = 4
"""Decimal places of a ratio, unless neighbours are too close to be told apart by them."""

_SHARE = Fraction(1, 100)
"""A ratio is rounded by less than this share of its distance to the next."""

_MOST_STEPS = 1000

_MOST_DIGITS = 190
"""The most decimal places that a ratio may have."""

_MOST_RUNS = 100_000


def geometric_ratios(alpha: str | float | Fraction, steps: int) -> list[str]:
    """Return the ratios 1 − αⁱ for i = 1 … steps; each keeps the share α of the last one's rest.

    They are decimals with four places, or with more if rounding would otherwise move a ratio
    by a hundredth of the distance to its neighbour. So they ascend strictly and stay below 1.

    Raises:
        OptionError: α is not in (0, 1), there are no steps or too many, or the ratios come so
            close to 1 that they would need too many decimals.
    """
    share = parse_alpha(alpha)
    if not 1 <= steps <= _MOST_STEPS:
        raise OptionError(
            f"a sweep has 1 to {_MOST_STEPS} steps, not {steps}", tip="--alpha 0.8 --steps 12"
        )
    # The last ratios are the closest to each other and so need the most digits.
    places = -steps * _log10(share) - _log10(1 - share) - _log10(_SHARE)
    if places > _MOST_DIGITS:
        raise OptionError(
            f"{steps} steps of alpha {alpha} lead so near to 1 that ratios cannot be told apart",
            tip="fewer --steps, or an --alpha further from 0 and 1",
        )
    return [written(_rounded(share, step)) for step in range(1, steps + 1)]


def _log10(value: Fraction) -> float:
    """Return the logarithm of a positive fraction that may be too small for a float."""
    return math.log10(value.numerator) - math.log10(value.denominator)


def _rounded(share: Fraction, step: int) -> Fraction:
    """Return 1 − αⁱ, rounded to as many decimals as needed."""
    left = share**step
    gap = left * (1 - share)
    digits = _DIGITS
    while Fraction(1, 10**digits) > gap * _SHARE:
        digits += 1
    return Fraction(round((1 - left) * 10**digits), 10**digits)


def written(ratio: Fraction) -> str:
    """Format a ratio in (0, 1) exactly: `0.488`, or `1/3` if it is not a finite decimal."""
    twos = fives = 0
    rest = ratio.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{ratio.numerator}/{ratio.denominator}"
    digits = max(twos, fives)
    return f"0.{int(ratio * 10**digits):0{digits}d}"


def planned_runs(
    methods: Mapping[str, bool],
    ratios: Sequence[str],
    *,
    repeats: int,
    retrain_epochs: Sequence[int],
) -> list[RunKey]:
    """Plan all runs of a sweep, in the order in which they are made.

    The order lets an incomplete sweep be evaluated: an amount of retraining is complete before
    the next begins, so is each repeat, and within a repeat all methods finish a ratio before
    the next ratio begins. A deterministic method without retraining is run only once, whatever
    the number of repeats.

    Args:
        methods: for each method's name, whether its runs depend on the seed.
        ratios: the ratios, as `written`.
        repeats: number of runs that differ only in their seed.
        retrain_epochs: amounts of retraining in epochs, 0 for none.

    Raises:
        OptionError: a list is empty or names something twice, a number is negative, or there
            are too many runs.
    """
    for what, given in (
        ("method", list(methods)),
        ("ratio", ratios),
        ("amount of retraining", retrain_epochs),
    ):
        _require_distinct(what, given)
    if repeats < 1:
        raise OptionError(f"a sweep repeats its runs at least once, not {repeats} times")
    runs = len(methods) * len(ratios) * len(retrain_epochs) * repeats
    if runs > _MOST_RUNS:
        raise OptionError(
            f"a sweep has at most {_MOST_RUNS:,} runs, not {runs:,}",
            tip="fewer ratios or repeats",
        )
    if any(epochs < 0 for epochs in retrain_epochs):
        raise OptionError(f"{min(retrain_epochs)} epochs of retraining make no sense")
    return [
        RunKey(method, ratio, repeat, epochs)
        for epochs in retrain_epochs
        for repeat in range(repeats)
        for ratio in ratios
        for method, seeded in methods.items()
        if repeat == 0 or seeded or epochs > 0
    ]


def _require_distinct(what: str, given: Sequence[object]) -> None:
    if not given:
        raise OptionError(f"a sweep needs at least one {what}")
    for number, value in enumerate(given):
        if value in given[:number]:
            raise OptionError(f"the {what} {value} is given twice", tip="name each once")


def agreed(folder: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the settings of a sweep's folder with those of the sweep that continues it.

    A setting of None, known or asked, has not been needed yet.

    Args:
        folder: the folder of the sweep, for the message.
        known: the settings in the folder, as plain JSON.
        asked: the settings of the present sweep, as plain JSON.

    Raises:
        OptionError: some setting differs; the message lists all that do.
    """
    merged = {key: value for key, value in known.items() if value is not None}
    differences: list[str] = []
    for key, value in asked.items():
        if value is None:
            continue
        if key in merged:
            differences += _differences(key, merged[key], value)
        else:
            merged[key] = value
    if differences:
        raise OptionError(
            f"the sweep in {folder} was begun differently: " + "; ".join(differences),
            tip="begin another one with -o, or ask for the same as before",
        )
    return {key: merged.get(key) for key in {**known, **asked}}


def _differences(name: str, known: object, asked: object) -> Iterator[str]:
    """Yield a description of every difference; names within objects are dotted."""
    if isinstance(known, Mapping) and isinstance(asked, Mapping):
        for key in {**known, **asked}:
            yield from _differences(f"{name}.{key}", known.get(key), asked.get(key))
    elif known != asked:
        yield f"{name} {_shown(known)}, not {_shown(asked)}"


def _shown(value: object) -> str:
    """Format a value, and shorten long ones such as hashes."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
