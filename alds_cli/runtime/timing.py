"""Times that may be compared: everything takes its turn, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import comb
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from alds_cli.errors import OptionError
from alds_cli.inputs import (
    InputSpec,
    as_inputs,
    example_call,
    floating_type,
)
from alds_cli.records import FloatArray, Latency
from alds_cli.runtime.devices import evaluating, refusals_told

Key = TypeVar("Key")

_SECONDS_PER_NETWORK = 2.0
_RUNS = (10, 1000)


def in_turns(
    runs: Mapping[Key, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int | Callable[[float], int],
    warmup: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, FloatArray]:
    """Seconds of each function in each round, taken in turns (A B C A B C …).

    Taking turns lets all of them see the same clock speed and the same neighbours, so that
    the times of one round may be compared.

    Args:
        runs: what to time, by name; the order is that of the turns.
        device: what they compute on; it is waited for before and after each.
        rounds: timed rounds, or a function from the seconds of one round to their number.
        warmup: rounds before that, not timed.
        clock: seconds.

    Returns:
        An array (rounds,) for each.
    """

    def turn() -> list[float]:
        return [_seconds(run, device, clock) for run in runs.values()]

    for _ in range(warmup):
        turn()
    if callable(rounds):
        rounds = rounds(sum(turn()))
    table = np.array([turn() for _ in range(rounds)])
    return {key: table[:, at] for at, key in enumerate(runs)}


def _seconds(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    _wait(device)
    start = clock()
    run()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_networks(
    modules: Mapping[str, nn.Module],
    inputs: InputSpec | tuple[int, ...],
    *,
    batch_size: int,
    device: torch.device,
    runs: int | None = None,
    warmup: int = 3,
) -> dict[str, FloatArray]:
    """Seconds of each forward pass of each network, taken in turns.

    Args:
        modules: networks by name; they are left as they were found.
        inputs: what they take, or the shape of one sample, e.g. (3, 224, 224).
        batch_size: samples in one forward pass.
        device: where to compute.
        runs: timed passes of each; None takes as many as go into two seconds a network,
            at least 10 and at most 1000.
        warmup: passes of each before that, not timed.

    Raises:
        OptionError: a number makes no sense.
        DataError: a network does not take inputs of this shape.
    """
    if batch_size < 1 or warmup < 0 or (runs is not None and runs < 1):
        raise OptionError(
            f"latency of {runs} runs after {warmup} of {batch_size} images cannot be measured",
            tip="batch size and runs are at least 1, warm-up runs at least 0",
        )
    if not modules:
        return {}
    spec = as_inputs(inputs)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        functions: dict[str, Callable[[], object]] = {}
        for name, module in modules.items():
            network = stack.enter_context(evaluating(module, device))
            call = example_call(
                spec, dtype=floating_type(network), device=device, batch_size=batch_size
            )
            functions[name] = partial(call, network)
        for function in functions.values():
            with refusals_told(f"{spec} in batches of {batch_size}", batch_size):
                function()

        def passes(seconds: float) -> int:
            return _affordable_runs(seconds / len(functions))

        return in_turns(
            functions,
            device,
            rounds=passes if runs is None else runs,
            warmup=warmup,
        )


def _affordable_runs(seconds_per_run: float) -> int:
    least, most = _RUNS
    return min(most, max(least, int(_SECONDS_PER_NETWORK / max(seconds_per_run, 1e-9))))


def as_latency(seconds: FloatArray, batch_size: int, device: torch.device) -> Latency:
    """Median and quartiles of the rounds, in milliseconds."""
    lower, median, upper = np.percentile(seconds * 1e3, [25, 50, 75]).tolist()
    return Latency(median, lower, upper, len(seconds), batch_size, str(device))


@dataclass(frozen=True, slots=True)
class Paired:
    """One thing's time as a fraction of another's, round by round: below 1 it is faster.

    `lower_quartile` and `upper_quartile` tell how far the rounds scatter; `at_most` is the
    upper end of the median's 95 % confidence interval.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    at_most: float
    rounds: int


def paired(seconds: FloatArray, reference: FloatArray) -> Paired:
    """Compare times taken in the same rounds, (rounds,) each.

    What slows a whole round, such as a lower clock speed, cancels in the quotient. The
    confidence bound is that of the sign test, which assumes no distribution: the least
    order statistic that the true median exceeds with a probability of at most 5 %.
    """
    ratios = np.sort(seconds / reference)
    lower, median, upper = np.percentile(ratios, [25, 50, 75]).tolist()
    return Paired(median, lower, upper, float(ratios[_median_is_below(len(ratios))]), len(ratios))


def _median_is_below(count: int) -> int:
    """Index of the order statistic that the median exceeds in at most 5 % of samples.

    The largest of all where there are fewer than five values, too few for any such claim.
    """
    below = 0
    for index in range(count):
        below += comb(count, index)
        if 20 * below >= 19 * 2**count:
            return index
    return count - 1


class Clock:
    """Seconds by stage, in the order in which the stages began."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block as (more of) a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
