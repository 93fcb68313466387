"""Running a network on a fixed sample of images while an observer watches its layers.

The network runs in evaluation mode. Every call of the layers concerned is shown to an
observer, and the observer's results are merged in the order of the batches. Batches run side
by side with one thread each, so that the result has the same bits whatever the number of
threads.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import length_hint
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from alds_cli.datasets import Batch, Batches, Samples, TokenBatches, batched, drawn_apart
from alds_cli.errors import DataError, OptionError
from alds_cli.records import Preprocessing, ProgressCallback, ProgressEvent
from alds_cli.runtime.devices import accepted, placed
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery.replace import call_projections
from alds_cli.tracing.tokens import Inputs, call, without_padding
from alds_cli.tracing.trace import floating_type

T = TypeVar("T")

_SIDE_BY_SIDE = 16
"""The most batches that are started before the earlier ones are merged; this bounds memory."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer.

    Attributes:
        name: the layer's dotted name in the network.
        layer: the module, in evaluation mode; its parameters are those of the network.
        inputs: the tensors it was given, in the order of its arguments; of texts, without what
            is at padding.
        output: the tensor it returned, before anything else could change it in place, likewise.
    """

    name: str
    layer: nn.Module
    inputs: tuple[Tensor, ...]
    output: Tensor


class Observer(Protocol[T]):
    """Turns calls into results, and merges two results into one.

    Calls come from several threads at a time, so neither method may change the observer. The
    tensors belong to the network's computation and must be neither changed nor kept.
    """

    def look(self, call: Call) -> T:
        """Return the result of one call; tensors in it should be on the CPU."""
        ...

    def merge(self, before: T, after: T) -> T:
        """Merge two results; the memory of the first may be reused."""
        ...


def calibration_batches(
    images: Samples,
    preprocessing: Preprocessing | None,
    *,
    samples: int,
    seed: int,
    batch_size: int,
    workers: int = 0,
) -> Batches | TokenBatches:
    """Draw a sample of images or texts without replacement and batch it in their order.

    The same seed gives the same sample, and a smaller sample is part of a larger one.

    Args:
        images: the images to draw from. They are drawn at random because folders are ordered
            by class.
        preprocessing: turns images into the network's input; texts need none.
        samples: the number to draw; all images if there are fewer.
        seed: seed of the random draw.
        batch_size: images in a batch.
        workers: number of threads that decode image files.

    Raises:
        OptionError: the number of samples or the batch size is not positive.
        DataError: the images and the preprocessing do not go together.
    """
    if samples < 1:
        raise OptionError(
            f"a calibration on {samples} images tells nothing", tip="--samples 512 is usual"
        )
    drawn, _ = draw_sample(len(images), samples, seed)
    return batched(images.subset(drawn), preprocessing, batch_size=batch_size, workers=workers)


def draw_sample(count: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return which of `count` images a calibration draws and which it leaves, both rising."""
    drawn, left = drawn_apart(count, (samples, count), seed)
    return drawn, left


def observe(
    network: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    observer: Observer[T],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, T]:
    """Run the network on every batch and gather an observer's results by layer.

    On the CPU, batches run in parallel on copies that share the network's parameters, and each
    of torch's threads holds the activations of one batch. On other devices they run one by one.

    Args:
        network: takes (n, C, H, W); it is left unchanged.
        names: layers, as `surgery.find_layers` names them.
        batches: inputs and labels, usually from `calibration_batches`.
        observer: makes a result of each call.
        device: where to compute; None means the CPU.
        progress: called after every merged batch, with the task `calibrate`.

    Returns:
        One result for each layer that was called, in the order of `names`. The projections of an
        attention count as called, but for a packed one whose queries, keys and values are not
        made from the same input.

    Raises:
        DataError: there are no images, or the network does not accept them.
    """
    device = device or torch.device("cpu")
    runners = _Runners(placed(network, device), tuple(names), device)
    source = _Source(batches)
    merged = _Merged(observer, length_hint(batches), progress)
    with whole_attention():
        while not source.exhausted:
            passes = [_Pass(source, runners, observer) for _ in range(_SIDE_BY_SIDE)]
            if device.type == "cpu":
                run_jobs(passes, on_done=lambda index, wave=passes: merged.take(wave[index]))  # type: ignore[misc]
            else:
                for one_pass in passes:
                    one_pass.run()
                    merged.take(one_pass)
    if not merged.batches:
        raise DataError("there are no images to calibrate with", tip="name a set with images")
    return {name: merged.results[name] for name in names if name in merged.results}


@contextmanager
def whole_attention() -> Iterator[None]:
    """Keep PyTorch from fused kernels that use layers' weights without calling the layers."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Source:
    """Hands out numbered batches, in order, to several threads."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._numbered = enumerate(batches)
        self._lock = threading.Lock()
        self.exhausted = False

    def take(self) -> tuple[int, Inputs] | None:
        """Return the number and the inputs of the next batch, or None after the last."""
        with self._lock:
            taken = None if self.exhausted else next(self._numbered, None)
            self.exhausted = taken is None
        return None if taken is None else (taken[0], taken[1][0])


class _Runner:
    """A copy of the network that shares its parameters and has hooks on the observed layers."""

    def __init__(self, network: nn.Module, names: Sequence[str], device: torch.device) -> None:
        self._module = calling_copy(network, names)
        self._device, self._dtype = device, floating_type(network)
        self._look: Any = None
        self._inputs: Inputs = torch.empty(0)
        parts = dict(self._module.named_modules())
        for name in names:
            if name in parts:
                parts[name].register_forward_hook(self._hook(name), with_kwargs=True)

    def run(self, inputs: Inputs, observer: Observer[T]) -> dict[str, T]:
        """Run one batch and return the observer's results by layer name."""
        found: dict[str, T] = {}
        failures: list[Exception] = []

        def look(call: Call) -> None:
            try:
                seen = observer.look(call)
                held = found.get(call.name)
                found[call.name] = seen if held is None else observer.merge(held, seen)
            except Exception as error:
                failures.append(error)
                raise

        self._look, self._inputs = look, inputs
        try:
            with torch.no_grad():
                accepted(self._forward, inputs)
        except DataError:
            if failures:  # the observer failed, not the network
                raise failures[0] from None
            raise
        return found

    def _forward(self, inputs: Inputs) -> object:
        return call(self._module, inputs, self._device, self._dtype)

    def _hook(self, name: str) -> Any:
        def leave(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
        ) -> None:
            given = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
            if isinstance(output, Tensor):
                inside = tuple(without_padding(v, layer, self._inputs) for v in given)
                outside = without_padding(output, layer, self._inputs)
                self._look(Call(name, layer, inside, outside))

        return leave


def sharing_copy(network: nn.Module) -> nn.Module:
    """Copy the modules of a network; the copy holds the tensors of the original itself."""
    held = [*network.parameters(), *network.buffers()]
    held += [v for part in network.modules() for v in vars(part).values() if isinstance(v, Tensor)]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in held})


def calling_copy(network: nn.Module, names: Sequence[str]) -> nn.Module:
    """Return a sharing copy in evaluation mode whose attentions call the named projections."""
    module = sharing_copy(network).eval()
    call_projections(module, names)
    return module


class _Runners:
    """A pool of copies of the network, as many as are in use at the same time."""

    def __init__(self, network: nn.Module, names: Sequence[str], device: torch.device) -> None:
        self._network, self._names, self._device = network, names, device
        self._free: deque[_Runner] = deque()

    @contextmanager
    def one(self) -> Iterator[_Runner]:
        """Lend a copy that no other thread uses in the meantime."""
        try:
            runner = self._free.pop()
        except IndexError:
            runner = _Runner(self._network, self._names, self._device)
        with ExitStack() as stack:
            stack.callback(self._free.append, runner)
            yield runner


@dataclass(slots=True)
class _Pass:
    """A job that passes one batch through the network; it takes the next batch when it starts."""

    source: _Source
    runners: _Runners
    observer: Observer[Any]
    number: int | None = None
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Zero: the memory of activations is not known beforehand, so the pool cannot bound it."""
        return 0

    def __call__(self, spawn: Spawn) -> None:
        """Run on a worker thread."""
        del spawn
        self.run()

    def run(self) -> None:
        """Take a batch, if there is one left, and observe it."""
        taken = self.source.take()
        if taken is None:
            return
        self.number, inputs = taken
        with self.runners.one() as runner:
            self.results = runner.run(inputs, self.observer)


class _Merged:
    """The results of all batches, merged in the order of the batches."""

    def __init__(
        self, observer: Observer[Any], total: int, progress: ProgressCallback | None
    ) -> None:
        self.results: dict[str, Any] = {}
        self.batches = 0
        self._observer, self._total, self._progress = observer, total, progress
        self._early: dict[int, dict[str, Any]] = {}

    def take(self, finished: _Pass) -> None:
        """Merge the results of a batch, and of later batches that were waiting for it."""
        if finished.number is None:
            return
        self._early[finished.number] = finished.results
        finished.results = {}
        while (results := self._early.pop(self.batches, None)) is not None:
            with torch.no_grad():
                self._merge(results)
            self.batches += 1
            if self._progress is not None:
                self._progress(ProgressEvent("calibrate", self.batches, self._total))

    def _merge(self, results: dict[str, Any]) -> None:
        for name, seen in results.items():
            held = self.results.get(name)
            self.results[name] = seen if held is None else self._observer.merge(held, seen)
