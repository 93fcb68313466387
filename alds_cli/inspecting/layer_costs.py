"""What the layers of a network cost before and after its compression: MACs and time."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from alds_cli.latency import LayerTime, Timed, layer_times
from alds_cli.latency.fastest_form import with_fastest_form
from alds_cli.network.networks import Network
from alds_cli.network.opening import answering, timed_inputs
from alds_cli.numerics.fold import pair_macs
from alds_cli.records import Latency, LayerSpec, Plan, ProgressCallback
from alds_cli.runtime.devices import as_latency, device_name, time_networks
from alds_cli.tracing.trace import Trace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayerMacs:
    """Multiply-accumulates of a layer for one sample; None where nothing shows its calls."""

    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Times:
    """Times of a network before and after, in turns, and of its layers, each alone.

    Attributes:
        before: of a forward pass of the dense network that its pairs stand for.
        after: of the network; the same measurement, if nothing was changed.
        layers: by name; layers that are not called have none.
        device: the name of what they were measured on.
    """

    before: Latency
    after: Latency
    layers: Mapping[str, LayerTime]
    device: str


def layer_macs(spec: LayerSpec, plan: Plan, before: Trace, after: Trace) -> LayerMacs:
    """Return the MACs of a layer before and after.

    Args:
        spec: the layer as it was.
        plan: what became of it.
        before: a forward pass of the dense network.
        after: one of the network itself.
    """
    was, now = before.calls.get(spec.name), after.calls.get(spec.name)
    choice = plan.decomposed.get(spec.name)
    old = was.macs if was is not None and before.macs is not None else None
    if choice is not None:
        # A pair's halves need not be called, so that the layer's calls tell its MACs.
        return LayerMacs(old, None if was is None else pair_macs(spec, was.shapes, choice))
    return LayerMacs(old, now.macs if now is not None and after.macs is not None else None)


def measured_times(
    network: Network,
    dense: Network,
    names: Sequence[str],
    traces: tuple[Trace, Trace],
    *,
    batch_size: int,
    device: torch.device,
    progress: ProgressCallback | None,
) -> Times:
    """Time a network beside the dense one that its pairs stand for, and all of its layers.

    An optimised network runs in its own form, and then the dense one in its fastest form too.

    Args:
        network: the network; it is left unchanged.
        dense: the dense network, or `network` itself if nothing was changed.
        names: the layers.
        traces: forward passes of the dense network and of the network.
        batch_size: samples in a forward pass.
        device: where to compute.
        progress: called with the task `time`.

    Raises:
        OptionError: what the network takes is not known, or the batch is too large.
        DataError: it does not take this.
    """
    inputs = timed_inputs(network)
    if network.inference is not None and dense is not network:
        dense = with_fastest_form(dense, inputs, batch_size=batch_size, device=device)
        logger.warning("the original is timed in its fastest form too, as the network is")
    old = new = _timed(dense, traces[0])
    modules = {"before": old.module}
    if dense is not network:
        new = _timed(network, traces[1])
        modules["after"] = new.module
    seconds = time_networks(modules, inputs, batch_size=batch_size, device=device)
    whole = [as_latency(own, batch_size, device) for own in seconds.values()]
    layers = layer_times(old, new, names, batch_size=batch_size, device=device, progress=progress)
    return Times(whole[0], whole[-1], layers, device_name(device))


def _timed(network: Network, seen: Trace) -> Timed:
    """Return a copy of a network in the form in which it answers."""
    module = answering(replace(network, module=copy.deepcopy(network.module)))
    form = network.inference
    return Timed(module, seen, channels_last=form is not None and form.channels_last)
