"""How good a network is, and how fast."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import length_hint

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import Batch, check_labels
from alds_cli.errors import DataError, OptionError, first_line
from alds_cli.numerics.counting import evaluation_mode
from alds_cli.records import Evaluation, Latency, ProgressCallback, ProgressEvent

__all__ = ["evaluate", "measure_latency", "pick_device"]

_log = logging.getLogger(__name__)

_HALVES = (torch.float16, torch.bfloat16)
_SECONDS_PER_MODULE = 2.0
_RUNS = (10, 1000)


def pick_device(name: str | None = None) -> torch.device:
    """The device of that name; without one, CUDA where it is present, else the CPU.

    Raises:
        OptionError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise OptionError(
            f"there is no device '{name}' on this machine",
            tip="use cpu, or cuda where PyTorch finds a GPU",
        ) from error
    if device.type == "meta":
        raise OptionError("the device 'meta' cannot compute", tip="use cpu or cuda")
    return device


@dataclass(slots=True)
class _Tally:
    """Sums over the images seen so far."""

    images: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0
    undefined: int = 0
    classes: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (n, classes) in float64 and labels (n,), both on the CPU."""
        self.classes = logits.shape[1]
        check_labels(labels, self.classes)
        # argmax would take NaN for the largest logit and could so be right by accident.
        defined = ~logits.isnan().any(dim=1)
        self.images += len(labels)
        self.undefined += int((~defined).sum())
        self.top1 += int(((logits.argmax(dim=1) == labels) & defined).sum())
        best = logits.topk(min(5, self.classes), dim=1).indices
        self.top5 += int(((best == labels[:, None]).any(dim=1) & defined).sum())
        self.loss += float(F.cross_entropy(logits, labels, reduction="sum"))

    def evaluation(self) -> Evaluation:
        """The sums as percentages and a mean."""
        return Evaluation(
            top1=100 * self.top1 / self.images,
            top5=100 * self.top5 / self.images if self.classes > 5 else None,
            loss=self.loss / self.images,
            images=self.images,
        )


def evaluate(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Top-1, top-5 and mean cross-entropy of a network on labelled images.

    The network is left as it was found: a copy is made where it has to move to `device`,
    or where it is in half precision and the CPU does the work, which it then does in
    float32. An image whose logits hold a NaN counts as wrong, and the loss becomes NaN.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes).
        batches: inputs and labels; `alds_cli.datasets.Batches` as a rule.
        device: where to compute; None is `pick_device()`.
        progress: told after each batch, task "evaluate", in batches.

    Raises:
        DataError: there are no images, the network does not take them, it does not give
            one row of logits for each, or a label is outside its classes.
    """
    tally = _Tally()
    total = length_hint(batches)
    with _ready(module, device or pick_device()) as run, torch.inference_mode():
        for done, (inputs, labels) in enumerate(batches, start=1):
            tally.add(_logits(run, inputs, len(labels)), labels)
            if progress is not None:
                figures = {"top1": tally.evaluation().top1, "loss": tally.evaluation().loss}
                progress(ProgressEvent("evaluate", done, total, figures))
    if tally.images == 0:
        raise DataError("there are no images to evaluate", tip="name a set with images")
    if tally.undefined:
        _log.warning(
            "the network's output is NaN on %d of %d images; they count as wrong",
            tally.undefined,
            tally.images,
        )
    return tally.evaluation()


def _logits(run: Callable[[Tensor], object], inputs: Tensor, labels: int) -> Tensor:
    """The network's output (n, classes) in float64 on the CPU."""
    output = _accepted(run, inputs)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != labels:
        shape = (
            f"a tensor of shape {tuple(output.shape)}"
            if isinstance(output, Tensor)
            else f"a {type(output).__name__}"
        )
        raise DataError(
            f"the network gives {shape} for {labels} images, not ({labels}, classes)",
            tip="only networks that classify images can be evaluated",
        )
    return output.cpu().to(torch.float64)  # not every device knows float64


def _accepted(run: Callable[[Tensor], object], inputs: Tensor) -> object:
    """The network's output; its refusal of the inputs becomes a `DataError`."""
    try:
        return run(inputs)
    except torch.OutOfMemoryError as error:
        raise DataError(
            f"a batch of {len(inputs)} images does not fit into memory",
            tip="use a smaller --batch-size",
        ) from error
    except (RuntimeError, ValueError, AssertionError) as error:
        # A network refuses a wrong size in whatever way its author chose.
        raise DataError(
            f"the network does not take inputs of shape {tuple(inputs.shape)}: {first_line(error)}",
            tip="give the images the size it was trained with: --preprocess, --resize, --crop",
        ) from error


@contextmanager
def _ready(module: nn.Module, device: torch.device) -> Iterator[Callable[[Tensor], object]]:
    """A function that runs the network on inputs from the CPU, on `device` in eval mode."""
    tensors = [*module.parameters(), *module.buffers()]
    widen = device.type == "cpu" and any(tensor.dtype in _HALVES for tensor in tensors)
    if widen or any(tensor.device != torch.empty(0, device=device).device for tensor in tensors):
        module = copy.deepcopy(module).to(device)
        if widen:
            module.float()
    floats = [tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()]
    dtype = floats[0] if floats else torch.float32

    def run(inputs: Tensor) -> object:
        return module(inputs.to(device, dtype))

    with evaluation_mode(module):
        yield run


def measure_latency(
    modules: Mapping[str, nn.Module],
    input_shape: tuple[int, ...],
    *,
    batch_size: int = 1,
    device: torch.device | None = None,
    runs: int | None = None,
    warmup: int = 3,
) -> dict[str, Latency]:
    """Time of one forward pass of each network, measured in turns (A B A B …).

    Taking turns lets every network see the same clock speed and the same neighbours, so
    that the medians may be compared. The networks are left as they were found.

    Args:
        modules: networks by name.
        input_shape: shape of one sample, e.g. (3, 224, 224).
        batch_size: samples in one forward pass.
        device: where to compute; None is `pick_device()`.
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
    device = device or pick_device()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((batch_size, *input_shape), generator=generator).to(device)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        ready = {name: stack.enter_context(_ready(m, device)) for name, m in modules.items()}
        for run in ready.values():
            _accepted(run, inputs)
        for _ in range(warmup):
            _round(ready, inputs, device)
        if runs is None:
            runs = _affordable_runs(sum(_round(ready, inputs, device).values()) / len(ready))
        rounds = [_round(ready, inputs, device) for _ in range(runs)]
    return {name: _latency([times[name] for times in rounds], batch_size, device) for name in ready}


def _affordable_runs(seconds_per_run: float) -> int:
    least, most = _RUNS
    return min(most, max(least, int(_SECONDS_PER_MODULE / max(seconds_per_run, 1e-9))))


def _round(
    ready: Mapping[str, Callable[[Tensor], object]], inputs: Tensor, device: torch.device
) -> dict[str, float]:
    """Seconds of one pass of each network."""
    return {name: _seconds(run, inputs, device) for name, run in ready.items()}


def _seconds(run: Callable[[Tensor], object], inputs: Tensor, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run(inputs)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _latency(seconds: list[float], batch_size: int, device: torch.device) -> Latency:
    lower, median, upper = np.percentile(np.asarray(seconds) * 1e3, [25, 50, 75]).tolist()
    return Latency(median, lower, upper, len(seconds), batch_size, str(device))
