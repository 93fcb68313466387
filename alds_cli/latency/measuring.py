"""Measuring the time of one layer and of the pairs that may replace it."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.checkpoint.latencies import LayerTimes, PairTime
from alds_cli.latency.configurations import Configuration, Filler
from alds_cli.records import Choice, FloatArray
from alds_cli.runtime.devices import in_turns, paired

Measure = Callable[[Configuration, Sequence[Choice], float], Mapping[Choice | None, FloatArray]]
"""`measure(configuration, choices, seconds)` times the layer (key None) and the pairs of the
choices in turns, for about `seconds` in all. It returns the seconds of each in every round."""

_ROUNDS = (7, 15)
"""The least and the greatest number of rounds. With eleven rounds or more, two disturbed ones
do not change the confidence bound."""

_ABREAST = 16
"""The most pairs in one turn, few enough that a turn is short compared with the time allowed."""

_WEIGHTS = 1 << 24
"""The most weights that the pairs of one turn may have together, or the layer's if it has more."""

_HOPELESS = 1.05
"""When a pair takes more than this times the layer's time, higher ranks are not measured. A rank
that suits the processor badly may be slower than the next higher ones, but seldom by more."""


class RealMeasure:
    """Measures on a device, with random weights and inputs; see `Measure`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._filler = Filler(device)
        self._last: tuple[Configuration, nn.Module, Tensor] | None = None

    def __call__(
        self, configuration: Configuration, choices: Sequence[Choice], seconds: float
    ) -> Mapping[Choice | None, FloatArray]:
        """See `Measure`."""
        layer, inputs = self._layer_and_inputs(configuration)
        pairs = {choice: self._placed(configuration, choice) for choice in choices}
        least, most = _ROUNDS

        def rounds(one: float) -> int:
            return min(most, max(least, int(seconds / max(one, 1e-9))))

        runs: dict[Choice | None, Callable[[], object]] = {None: partial(layer, inputs)}
        runs |= {choice: partial(pair, inputs) for choice, pair in pairs.items()}
        with torch.inference_mode():
            return in_turns(runs, self._device, rounds=rounds, warmup=2)

    def _layer_and_inputs(self, configuration: Configuration) -> tuple[nn.Module, Tensor]:
        """Make the layer and its input, once for all turns of a configuration."""
        if self._last is None or self._last[0] != configuration:
            self._last = None  # frees the old layer before the new one is made
            layer = configuration.laid_out(self._filler.fill(configuration.layer()))
            self._last = configuration, layer, configuration.inputs(self._filler)
        return self._last[1:]

    def _placed(self, configuration: Configuration, choice: Choice) -> nn.Module:
        """Make the pair of a choice."""
        return configuration.laid_out(self._filler.fill(configuration.pair(choice)))


@dataclass(frozen=True, slots=True)
class MeasuredLayer:
    """The times of a layer and its pairs, and how far the layer's own times scatter in a turn.

    `scatter` is the interquartile range as a fraction of the median.
    """

    times: LayerTimes
    scatter: float


def measure_layer(
    configuration: Configuration,
    choices: Iterable[Choice],
    measure: Measure,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> MeasuredLayer:
    """Measure the layer and its pairs, leaving out pairs that cannot be faster.

    For each (scheme, k) the smallest rank is measured first; if it is slower than the layer,
    that (scheme, k) is given up. The other ranks follow in an order that halves the gaps
    between them, and when one is slower, all higher ranks are given up. If the time runs out,
    it has thus been spent evenly. Every turn includes the layer itself, and a pair's time is
    recorded as a fraction of the layer's, which does not change with the clock frequency.

    Args:
        configuration: the layer.
        choices: the choices to measure.
        measure: see `Measure`.
        seconds: no turn is begun after this time.
        clock: returns seconds, to measure that time with.
        now: returns seconds since 1970, to date the times.

    Returns:
        The times; a choice that was not measured has None.
    """
    start = clock()
    found: dict[Choice, PairTime | None] = dict.fromkeys(choices)
    ladders = _ladders(found)
    alone = measure(configuration, [], 0.0)[None]  # also warms up
    turns: list[FloatArray] = []
    while pending := [ladder for ladder in ladders if ladder.pending]:
        left = seconds - (clock() - start)
        if left <= 0:
            break
        affordable = int(left / (_ROUNDS[0] * float(np.median(alone))))
        abreast = pending[: max(1, min(affordable, _fitting(configuration, pending)))]
        # Ladders that have just had a turn go to the end of the queue.
        ladders = [ladder for ladder in ladders if ladder not in abreast] + abreast
        share = left * len(abreast) / sum(len(ladder.pending) for ladder in pending)
        turn = {ladder.pending.popleft(): ladder for ladder in abreast}
        times = measure(configuration, list(turn), share)
        turns.append(times[None])
        for choice, ladder in turn.items():
            compared = paired(times[choice], times[None])
            found[choice] = PairTime(compared.median, compared.at_most)
            if compared.median > _HOPELESS:
                ladder.give_up_above(choice.j)
    dense = float(np.median(np.concatenate(turns or [alone])))
    scatter = float(np.median([_scatter(turn) for turn in turns or [alone]]))
    return MeasuredLayer(LayerTimes(dense * 1e9, found, now()), scatter)


def _fitting(configuration: Configuration, ladders: Sequence[_Ladder]) -> int:
    """Count the ladders, from the front, whose next pairs fit into one turn's memory together."""
    weights = accumulate(configuration.weights(ladder.pending[0]) for ladder in ladders)
    allowed = max(_WEIGHTS, configuration.weights())
    return min(_ABREAST, sum(total <= allowed for total in weights))


def _scatter(seconds: FloatArray) -> float:
    """Return the interquartile range as a fraction of the median."""
    lower, median, upper = np.percentile(seconds, [25, 50, 75]).tolist()
    return float((upper - lower) / median)


@dataclass(slots=True, eq=False)
class _Ladder:
    """The choices of one (scheme, k) that are still to be measured, in order of measurement."""

    pending: deque[Choice]

    @classmethod
    def of(cls, ranks: Sequence[Choice]) -> _Ladder:
        """Order the choices: the lowest rank first, then those that halve the gaps."""
        order, gaps = deque([ranks[0]]), deque([(1, len(ranks))])
        while gaps:
            low, high = gaps.popleft()
            if low < high:
                middle = (low + high) // 2
                order.append(ranks[middle])
                gaps += [(low, middle), (middle + 1, high)]
        return cls(order)

    def give_up_above(self, rank: int) -> None:
        """Drop the choices of this rank and of higher ones."""
        self.pending = deque(choice for choice in self.pending if choice.j < rank)


def _ladders(choices: Iterable[Choice]) -> list[_Ladder]:
    """Make a ladder for each (scheme, k), fewest slices first since those are the fastest."""
    ranks: dict[tuple[int, int], list[Choice]] = defaultdict(list)
    for choice in sorted(choices):
        ranks[choice.k, choice.scheme].append(choice)
    return [_Ladder.of(ranks[key]) for key in sorted(ranks)]
