"""The times of one layer and of what it may become, as many as can matter."""

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
from alds_cli.runtime.timing import in_turns, paired

Measure = Callable[[Configuration, Sequence[Choice], float], Mapping[Choice | None, FloatArray]]
"""`measure(configuration, choices, seconds)`: the layer itself (None) and the pairs, timed in
turns for about so long: seconds of each in each round."""

_ROUNDS = (7, 15)
"""At least and at most. From eleven rounds on two disturbed ones leave the bound alone."""

_ABREAST = 16
"""Pairs in one turn: few enough that a turn is short beside the time allowed."""

_WEIGHTS = 1 << 24
"""So many weights the pairs of one turn may have together, or as many as their layer."""

_HOPELESS = 1.05
"""A pair so much slower than the layer takes the higher ranks with it. Ranks that suit the
processor badly are slower than the next higher ones, though seldom by more."""


class RealMeasure:
    """Measures on a device, with made-up weights and inputs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._filler = Filler(device)
        self._last: tuple[Configuration, nn.Module, Tensor] | None = None

    def __call__(
        self, configuration: Configuration, choices: Sequence[Choice], seconds: float
    ) -> Mapping[Choice | None, FloatArray]:
        """See `Measure`."""
        layer, inputs = self._layer_and_inputs(configuration)
        pairs = {choice: self._filler.fill(configuration.pair(choice)) for choice in choices}
        least, most = _ROUNDS

        def rounds(one: float) -> int:
            return min(most, max(least, int(seconds / max(one, 1e-9))))

        runs: dict[Choice | None, Callable[[], object]] = {None: partial(layer, inputs)}
        runs |= {choice: partial(pair, inputs) for choice, pair in pairs.items()}
        with torch.inference_mode():
            return in_turns(runs, self._device, rounds=rounds, warmup=2)

    def _layer_and_inputs(self, configuration: Configuration) -> tuple[nn.Module, Tensor]:
        """Made once for all turns of a configuration."""
        if self._last is None or self._last[0] != configuration:
            self._last = None  # two of them need not be in memory at once
            layer = self._filler.fill(configuration.layer())
            dtype = getattr(torch, configuration.dtype)
            inputs = self._filler.tensor(configuration.input_shape, dtype)
            self._last = configuration, layer, inputs
        return self._last[1:]


@dataclass(frozen=True, slots=True)
class MeasuredLayer:
    """The times, and how far those of the layer itself scatter in one turn.

    `scatter` is the distance between the quartiles as a fraction of the median.
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
    """Measure the layer and its pairs, without those that cannot be faster.

    Of each (scheme, k) the smallest rank comes first; where it is slower than the layer,
    that (scheme, k) is given up. The other ranks follow in an order that halves the gaps,
    and one that is slower takes all higher ones with it. So the time, if it runs out, has
    been spent evenly. Each turn holds the layer itself: a pair's time is known as a
    fraction of that, which the clock speed of the hour does not change.

    Args:
        configuration: the layer.
        choices: what to offer.
        measure: see `Measure`.
        seconds: no further turns are begun after that.
        clock: seconds, to hold to that.
        now: seconds since 1970, to date the times.

    Returns:
        The times; choices that were not measured have None.
    """
    start = clock()
    found: dict[Choice, PairTime | None] = dict.fromkeys(choices)
    ladders = _ladders(found)
    alone = measure(configuration, [], 0.0)[None]  # warms up, too
    turns: list[FloatArray] = []
    while pending := [ladder for ladder in ladders if ladder.pending]:
        left = seconds - (clock() - start)
        if left <= 0:
            break
        affordable = int(left / (_ROUNDS[0] * float(np.median(alone))))
        abreast = pending[: max(1, min(affordable, _fitting(configuration, pending)))]
        # Those that had their turn come last in the next.
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
    """How many ladders from the front one turn can hold: their pairs are in memory together."""
    weights = accumulate(configuration.weights(ladder.pending[0]) for ladder in ladders)
    allowed = max(_WEIGHTS, configuration.weights())
    return min(_ABREAST, sum(own <= allowed for own in weights))


def _scatter(seconds: FloatArray) -> float:
    lower, median, upper = np.percentile(seconds, [25, 50, 75]).tolist()
    return float((upper - lower) / median)


@dataclass(slots=True, eq=False)
class _Ladder:
    """The ranks of one (scheme, k) that are still to be measured, in order."""

    pending: deque[Choice]

    @classmethod
    def of(cls, ranks: Sequence[Choice]) -> _Ladder:
        """The lowest first, then what halves the gaps."""
        order, gaps = deque([ranks[0]]), deque([(1, len(ranks))])
        while gaps:
            low, high = gaps.popleft()
            if low < high:
                middle = (low + high) // 2
                order.append(ranks[middle])
                gaps += [(low, middle), (middle + 1, high)]
        return cls(order)

    def give_up_above(self, rank: int) -> None:
        """Forget higher ranks."""
        self.pending = deque(choice for choice in self.pending if choice.j < rank)


def _ladders(choices: Iterable[Choice]) -> list[_Ladder]:
    """One for each (scheme, k); few slices come first, as they are the fastest."""
    ranks: dict[tuple[int, int], list[Choice]] = defaultdict(list)
    for choice in sorted(choices):
        ranks[choice.k, choice.scheme].append(choice)
    return [_Ladder.of(ranks[key]) for key in sorted(ranks)]
