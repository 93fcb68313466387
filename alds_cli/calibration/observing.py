"""A network's layers at work on a fixed sample of images.

The network runs in evaluation mode; every call of the layers concerned is shown to an
observer, and what that makes of each batch is merged in the order of the batches. Batches run
side by side with one thread each, so that the result has the same bits however many threads
there are.
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

from alds_cli.datasets import Batch, Batches, LabelledImages
from alds_cli.errors import DataError, OptionError
from alds_cli.inputs import floating_type
from alds_cli.records import Preprocessing, ProgressCallback, ProgressEvent
from alds_cli.runtime.devices import accepted, placed
from alds_cli.runtime.pool import Spawn, run_jobs

T = TypeVar("T")

_SIDE_BY_SIDE = 16
"""Batches that are under way before all before them are merged; bounds what has to be held."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer.

    Attributes:
        name: the layer's dotted name in the network.
        layer: the module, in evaluation mode; its parameters are those of the network.
        inputs: the tensors it was given, in the order of its arguments.
        output: what it returned, before anything else could change it in place.
    """

    name: str
    layer: nn.Module
    inputs: tuple[Tensor, ...]
    output: Tensor


class Observer(Protocol[T]):
    """Turns calls into results, and two results into one.

    Calls come from several threads at a time: neither method may change the observer. Tensors
    are those of the network's own computation; they must not be changed nor kept.
    """

    def look(self, call: Call) -> T:
        """The result of one call; tensors in it should live on the CPU."""
        ...

    def merge(self, before: T, after: T) -> T:
        """The result of both; may reuse the memory of the first."""
        ...


def calibration_batches(
    images: LabelledImages,
    preprocessing: Preprocessing,
    *,
    samples: int,
    seed: int,
    batch_size: int,
    workers: int = 0,
) -> Batches:
    """A sample of the images without replacement, the same for the same seed, in their order.

    A smaller sample of the same seed is part of a larger one.

    Args:
        images: where to draw from; folders are ordered by class, hence at random.
        preprocessing: how images become the network's input.
        samples: how many; all where there are fewer.
        seed: of the draw.
        batch_size: images in a batch.
        workers: threads that decode image files.

    Raises:
        OptionError: the number of samples or the batch size is not positive.
        DataError: the images and the preprocessing do not go together.
    """
    if samples < 1:
        raise OptionError(
            f"a calibration on {samples} images tells nothing", tip="--samples 512 is usual"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    drawn = images.subset(order[:samples].sort().values)
    return Batches(drawn, preprocessing, batch_size=batch_size, workers=workers)


def observe(
    network: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    observer: Observer[T],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, T]:
    """Run the network on every batch and gather what an observer sees of its layers.

    On the CPU batches run in parallel on copies that share the network's parameters; every one
    of torch's threads holds the activations of one batch. Elsewhere they run one by one.

    Args:
        network: from (n, C, H, W); it is left as it was found.
        names: layers, as `surgery.find_layers` names them.
        batches: inputs and labels, `calibration_batches` as a rule.
        observer: what to make of each call.
        device: where to compute; None is the CPU.
        progress: told after every batch that is merged; its task is `calibrate`.

    Returns:
        One result for each layer that was called, in the order of `names`. A packed projection
        of an attention, and its `out_proj`, are used without being called: they are missing.

    Raises:
        DataError: there are no images, or the network does not take them.
    """
    device = device or torch.device("cpu")
    runners = _Runners(placed(network, device), tuple(names), device)
    source = _Source(batches)
    merged = _Merged(observer, length_hint(batches), progress)
    with _whole_attention():
        while not source.exhausted:
            passes = [_Pass(source, runners, observer) for _ in range(_SIDE_BY_SIDE)]
            if device.type == "cpu":
                run_jobs(passes, on_done=lambda index, own=passes: merged.take(own[index]))  # type: ignore[misc]
            else:
                for own in passes:
                    own.run()
                    merged.take(own)
    if not merged.batches:
        raise DataError("there are no images to calibrate with", tip="name a set with images")
    return {name: merged.results[name] for name in names if name in merged.results}


@contextmanager
def _whole_attention() -> Iterator[None]:
    """Keep PyTorch from fused kernels that use layers' weights without calling the layers."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Source:
    """Hands out batches to whoever is ready for one, numbered in their order."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._numbered = enumerate(batches)
        self._lock = threading.Lock()
        self.exhausted = False

    def take(self) -> tuple[int, Tensor] | None:
        """The next batch's number and inputs; None when there is none."""
        with self._lock:
            taken = None if self.exhausted else next(self._numbered, None)
            self.exhausted = taken is None
        return None if taken is None else (taken[0], taken[1][0])


class _Runner:
    """A copy of the network with its parameters, flags of its own, and hooks in its layers."""

    def __init__(self, network: nn.Module, names: Sequence[str], device: torch.device) -> None:
        self._module = sharing_copy(network).eval()
        self._device, self._dtype = device, floating_type(network)
        self._look: Any = None
        parts = dict(self._module.named_modules())
        for name in names:
            if name in parts:
                parts[name].register_forward_hook(self._hook(name), with_kwargs=True)

    def run(self, inputs: Tensor, observer: Observer[T]) -> dict[str, T]:
        """What the observer makes of one batch, by layer."""
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

        self._look = look
        try:
            with torch.no_grad():
                accepted(self._forward, inputs)
        except DataError:
            if failures:  # it is not the network that failed
                raise failures[0] from None
            raise
        return found

    def _forward(self, inputs: Tensor) -> object:
        return self._module(inputs.to(self._device, self._dtype))

    def _hook(self, name: str) -> Any:
        def leave(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
        ) -> None:
            given = tuple(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
            if isinstance(output, Tensor):
                self._look(Call(name, layer, given, output))

        return leave


def sharing_copy(network: nn.Module) -> nn.Module:
    """A copy of the modules that holds the very tensors of the original."""
    held = [*network.parameters(), *network.buffers()]
    held += [v for part in network.modules() for v in vars(part).values() if isinstance(v, Tensor)]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in held})


class _Runners:
    """As many copies of the network as are in use at a time."""

    def __init__(self, network: nn.Module, names: Sequence[str], device: torch.device) -> None:
        self._network, self._names, self._device = network, names, device
        self._free: deque[_Runner] = deque()

    @contextmanager
    def one(self) -> Iterator[_Runner]:
        """A copy that nobody else uses meanwhile."""
        try:
            runner = self._free.pop()
        except IndexError:
            runner = _Runner(self._network, self._names, self._device)
        with ExitStack() as stack:
            stack.callback(self._free.append, runner)
            yield runner


@dataclass(slots=True)
class _Pass:
    """One batch through the network, for the pool; which batch is settled when it starts."""

    source: _Source
    runners: _Runners
    observer: Observer[Any]
    number: int | None = None
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Nothing that the pool's bound is about: activations are not known beforehand."""
        return 0

    def __call__(self, spawn: Spawn) -> None:
        """Run on a worker's thread."""
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
    """The batches' results, merged one after another in their order."""

    def __init__(
        self, observer: Observer[Any], total: int, progress: ProgressCallback | None
    ) -> None:
        self.results: dict[str, Any] = {}
        self.batches = 0
        self._observer, self._total, self._progress = observer, total, progress
        self._early: dict[int, dict[str, Any]] = {}

    def take(self, finished: _Pass) -> None:
        """Merge a batch, and those that waited for it."""
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
