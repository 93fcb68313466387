"""Devices: where a network computes, how it is prepared to run there, and how long it takes."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import comb
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.errors import DataError, OptionError, first_line
from alds_cli.inputs import InputSpec, as_inputs, example_call
from alds_cli.records import FloatArray, Latency
from alds_cli.runtime.heap import all_blocks_kept
from alds_cli.tracing.tokens import Inputs, call
from alds_cli.tracing.trace import evaluation_mode, floating_type

_HALVES = (torch.float16, torch.bfloat16)


def pick_device(name: str | None = None) -> torch.device:
    """Return the device of that name; without one, CUDA where it is present, else the CPU.

    Raises:
        OptionError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = device_named(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise OptionError(f"there is no device '{name}' on this machine", tip=_TIP) from error
    return device


_TIP = "use cpu, or cuda where PyTorch finds a GPU"


def device_named(name: str) -> torch.device:
    """Return the device of that name, which this machine need not have.

    Raises:
        OptionError: there is none, or it computes nothing.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"there is no device '{name}'", tip=_TIP) from error
    if device.type == "meta":
        raise OptionError("the device 'meta' cannot compute", tip="use cpu or cuda")
    return device


def computing_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the type in which a network of that dtype computes: no half precision on the CPU."""
    return torch.float32 if device.type == "cpu" and dtype in _HALVES else dtype


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the network itself, or a copy if it has to be moved or widened to compute there.

    The CPU does not compute in half precision; a copy for it is in float32.
    """
    tensors = [*module.parameters(), *module.buffers()]
    widen = any(computing_dtype(tensor.dtype, device) != tensor.dtype for tensor in tensors)
    if widen or any(tensor.device != torch.empty(0, device=device).device for tensor in tensors):
        module = copy.deepcopy(module).to(device)
        if widen:
            module.float()
    return module


@contextmanager
def evaluating(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Yield the network on `device` in evaluation mode, and leave it as it was (see `placed`)."""
    module = placed(module, device)
    with evaluation_mode(module):
        yield module


@contextmanager
def ready(module: nn.Module, device: torch.device) -> Iterator[Callable[[Inputs], object]]:
    """Yield a function that runs the network on inputs from the CPU, on `device` in eval mode.

    The network is left as it was (see `placed`).
    """
    with evaluating(module, device) as network:
        dtype = floating_type(network)

        def run(inputs: Inputs) -> object:
            return call(network, inputs, device, dtype)

        yield run


def accepted(run: Callable[[Any], object], inputs: Inputs) -> object:
    """Return the network's output; turn its refusal of the inputs into a `DataError`."""
    with refusals_told(f"of shape {tuple(inputs.shape)}", len(inputs), tip_for(inputs)):
        return run(inputs)


def tip_for(inputs: Inputs) -> str:
    """Return what may be done where a network does not take inputs of a kind."""
    return _OF_IMAGES if isinstance(inputs, Tensor) else _OF_TEXTS


_OF_IMAGES = "give the images the size it was trained with: --preprocess, --resize, --crop"

_OF_TEXTS = "check that the tokenizer is the network's, and --block-length within its context"


@contextmanager
def refusals_told(inputs: str, samples: int, tip: str = _OF_IMAGES) -> Iterator[None]:
    """Turn a network's refusal of its inputs into a `DataError`.

    Args:
        inputs: a description of the inputs, for the message.
        samples: the number of samples at a time.
        tip: what may be done about it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DataError(
            f"a batch of {samples} samples does not fit into memory",
            tip="use a smaller --batch-size",
        ) from error
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        # A network refuses a wrong size in whatever way its author chose.
        raise DataError(
            f"the network does not take inputs {inputs}: {first_line(error)}",
            tip=tip,
        ) from error


def device_name(device: torch.device) -> str:
    """Return the hardware's own name: the model of the GPU or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # only Linux has it
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "cpu"


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
    """Return the seconds of each function in each round, run in turns (A B C A B C …).

    In turns, all functions see the same clock speed and the same neighbours, so that the times
    of one round are comparable.

    Args:
        runs: the functions to time, by name, in the order of the turns.
        device: the device they compute on; it is synchronised before and after each.
        rounds: the number of timed rounds, or a function from the seconds of one round to it.
        warmup: the number of untimed rounds before those.
        clock: returns the time in seconds.

    Returns:
        An array (rounds,) for each function.
    """

    def turn() -> list[float]:
        return [_seconds(run, device, clock) for run in runs.values()]

    with all_blocks_kept():
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
    """Return the seconds of each forward pass of each network, run in turns.

    Args:
        modules: networks by name; they are left as they were.
        inputs: what they take, or the shape of one sample, e.g. (3, 224, 224).
        batch_size: samples in one forward pass.
        device: where to compute.
        runs: timed passes of each network; None takes as many as fit into two seconds per
            network, at least 10 and at most 1000.
        warmup: untimed passes of each network before those.

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
    """Return the median and quartiles of the rounds, in milliseconds."""
    lower, median, upper = np.percentile(seconds * 1e3, [25, 50, 75]).tolist()
    return Latency(median, lower, upper, len(seconds), batch_size, str(device))


@dataclass(frozen=True, slots=True)
class Paired:
    """One time as a fraction of another, round by round: below 1 it is shorter.

    `lower_quartile` and `upper_quartile` show how far the rounds scatter; `at_most` is the upper
    end of the median's 95 % confidence interval.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    at_most: float
    rounds: int


_USUAL = Fraction(19, 20)
"""The confidence of bounds on medians, unless another is asked for."""


def paired(seconds: FloatArray, reference: FloatArray) -> Paired:
    """Compare times of the same rounds, (rounds,) each.

    Whatever slows a whole round, such as a lower clock speed, cancels in the quotient. The
    confidence bound is that of the sign test, which assumes no distribution: the least order
    statistic that the true median exceeds with a probability of at most 5 %.
    """
    ratios = np.sort(seconds / reference)
    lower, median, upper = np.percentile(ratios, [25, 50, 75]).tolist()
    return Paired(median, lower, upper, float(ratios[_median_is_below(len(ratios))]), len(ratios))


def median_at_least(seconds: FloatArray, confidence: float) -> float:
    """Return the order statistic that the true median of times exceeds with a confidence.

    It is the counterpart of `Paired.at_most`, by the same sign test.

    Args:
        seconds: the times (n,), which are taken for independent.
        confidence: in (0, 1). Below one half, what is returned lies above the median, which then
            is less than it with what is left of the confidence.
    """
    times = np.sort(seconds)
    if confidence < 0.5:
        return float(times[_median_is_below(len(times), 1 - Fraction(confidence))])
    return float(times[-1 - _median_is_below(len(times), Fraction(confidence))])


def _median_is_below(count: int, confidence: Fraction = _USUAL) -> int:
    """Return the index of the order statistic that the median is below with a confidence.

    With too few values for such a statement, which are fewer than five for 95 %, it is the
    largest.
    """
    below = 0
    for index in range(count):
        below += comb(count, index)
        if below >= confidence * 2**count:
            return index
    return count - 1


class Clock:
    """Seconds by stage, in the order in which the stages began."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
