"""Two networks that pass over images side by side, and pause at every layer.

Every batch runs through both networks in threads of its own. A thread that gets to one of the
layers waits there, until all have come. Then the inputs of the layer in both networks are known,
and the layer may be changed before it is called: what follows sees the change. So a network can be
changed layer by layer, each in view of the changes before it, in a single pass over the images.

A thread computes with one BLAS thread, and what was gathered is handed out in the order of the
batches, so that results have the same bits whatever the number of threads. The memory is that of
what all batches hold between two layers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration.observing import calling_copy, whole_attention
from alds_cli.runtime.devices import accepted
from alds_cli.runtime.pool import single_threaded_blas, single_threaded_here
from alds_cli.tracing.tokens import Inputs, call, without_padding
from alds_cli.tracing.trace import floating_type

Visit = Callable[[str, list[Tensor], list[Tensor]], None]
"""Is given a layer's name and its inputs in the first and in the second network, batch by batch; of
texts, without what is at padding."""


class _StoppedError(Exception):
    """Ends the threads that wait after another has failed."""


def in_lockstep(
    first: nn.Module,
    second: nn.Module,
    names: Collection[str],
    batches: Sequence[Inputs],
    visit: Visit,
    *,
    device: torch.device | None = None,
) -> None:
    """Run two networks on the same batches, and pause at layers.

    Args:
        first: a network in evaluation mode.
        second: another one with the same names of layers, which are called in the same order. Its
            parameters and buffers may be changed in place by `visit`.
        names: the layers, each of which is called once in a pass. Where not all batches come to
            the same layer in both networks, they go on without a visit.
        batches: inputs of the networks; all of them are under way at the same time.
        visit: called at each layer before the layer itself is.
        device: the device of both networks; None means the CPU.

    Raises:
        DataError: a network does not accept the inputs.
    """
    device = device or torch.device("cpu")
    with whole_attention(), single_threaded_blas() as threads:
        gate = threading.Semaphore(max(1, threads if device.type == "cpu" else 1))
        meeting = _Meeting(gate)
        passes = [
            [_Pass(network, names, inputs, meeting, device) for inputs in batches]
            for network in (first, second)
        ]
        everyone = [one for of_network in passes for one in of_network]
        meeting.expected = len(everyone)
        for one in everyone:
            one.start()
        try:
            while meeting.gathered():
                waiting = {one.waits_at for one in everyone}
                name = waiting.pop()
                if not waiting and name is not None:
                    visit(name, *([one.taken() for one in own] for own in passes))
                meeting.go_on()
        finally:
            meeting.stop()
            for one in everyone:
                one.join()
    if meeting.failure is not None:
        raise meeting.failure


class _Meeting:
    """Where passes wait for one another."""

    def __init__(self, gate: threading.Semaphore) -> None:
        self.expected = 0
        self.gate = gate
        self.failure: BaseException | None = None
        self._changed = threading.Condition()
        self._waiting, self._round, self._stopped = 0, 0, False

    def gathered(self) -> bool:
        """Wait until every pass that is under way waits; return whether there are any."""
        with self._changed:
            while self._waiting < self.expected and self.failure is None:
                self._changed.wait(timeout=0.2)  # lets Ctrl-C through
            return self.failure is None and self.expected > 0

    def go_on(self) -> None:
        """Let all that wait go on."""
        with self._changed:
            self._waiting = 0
            self._round += 1
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait on a pass's thread until the others have come."""
        self.gate.release()
        try:
            with self._changed:
                mine = self._round
                self._waiting += 1
                self._changed.notify_all()
                while self._round == mine and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    raise _StoppedError
        finally:
            self.gate.acquire()

    def leave(self, failure: BaseException | None) -> None:
        """Take note that a pass has ended."""
        with self._changed:
            self.expected -= 1
            if self.failure is None and not self._stopped:
                self.failure = failure
            self._changed.notify_all()

    def stop(self) -> None:
        """End all that wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class _Pass(threading.Thread):
    """One batch on its way through one network."""

    def __init__(
        self,
        network: nn.Module,
        names: Collection[str],
        inputs: Inputs,
        meeting: _Meeting,
        device: torch.device,
    ) -> None:
        super().__init__(name="alds-pass", daemon=True)
        self.waits_at: str | None = None
        self._given: Tensor | None = None
        self._meeting = meeting
        self._inputs, self._device, self._dtype = inputs, device, floating_type(network)
        self._module = calling_copy(network, list(names))
        parts = dict(self._module.named_modules())
        for name in names:
            parts[name].register_forward_pre_hook(self._hook(name), with_kwargs=True)

    def taken(self) -> Tensor:
        """Return the input of the layer that the batch has come to."""
        assert self._given is not None  # noqa: S101 - it waits at a layer
        given, self._given = self._given, None
        return given

    def run(self) -> None:
        """Run the network."""
        single_threaded_here()
        failure: BaseException | None = None
        self._meeting.gate.acquire()
        try:
            with torch.no_grad():
                accepted(self._forward, self._inputs)
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failure = error
        finally:
            self.waits_at = None
            self._meeting.gate.release()
            self._meeting.leave(failure)

    def _forward(self, inputs: Inputs) -> object:
        return call(self._module, inputs, self._device, self._dtype)

    def _hook(self, name: str) -> Any:
        def arrive(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            self._given = without_padding(next(given), layer, self._inputs)
            self.waits_at = name
            self._meeting.wait()

        return arrive
