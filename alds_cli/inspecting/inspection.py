"""Inspection of a model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import torch
from torch import nn

from alds_cli.errors import ArchitectureError, OptionError
from alds_cli.inspecting.layer_costs import LayerMacs, Times, layer_macs, measured_times
from alds_cli.inspecting.layer_errors import layer_errors
from alds_cli.network.loading import densified
from alds_cli.network.networks import Network, skeleton
from alds_cli.network.opening import (
    open_network,
    open_read,
    read_file,
    stated_architecture,
    trace_network,
)
from alds_cli.numerics.fold import pair_params
from alds_cli.options.inspect_options import InspectOptions
from alds_cli.records import LayerReport, LayerSpec, Plan
from alds_cli.runtime.devices import pick_device
from alds_cli.surgery import find_layers
from alds_cli.tracing.trace import count_parameters


@dataclass(frozen=True, slots=True)
class Inspection:
    """A network's layers and its costs.

    What was before is the dense network that its pairs stand for. The errors and bounds of a
    network that was compressed or trained are None, since the weights before are gone; kept layers
    may have been tuned.

    Attributes:
        network: the network.
        layers: what became of each layer.
        params: the number of parameters.
        params_before: that of the dense network.
        macs: the multiply-accumulates of one sample; None where no forward pass succeeded.
        macs_before: those of the dense network.
        layer_macs: those of each layer, by name.
        times: of the network and its layers, if they were asked for.
        original: the model that it was compressed from, if that was named.
        versions: of the programs that wrote the artefact; empty for other models.
    """

    network: Network
    layers: Sequence[LayerReport]
    params: int
    params_before: int
    macs: int | None
    macs_before: int | None
    layer_macs: Mapping[str, LayerMacs]
    times: Times | None = None
    original: Network | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An entry of a file: its name, its shape, and PyTorch's name of its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def scalars(self) -> int:
        """The number of numbers that it holds."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a file whose network is not known.

    `reason` says why no network fits, and `tip` what to do about it. `nbytes` is the size of the
    file.
    """

    name: str
    tensors: Sequence[StoredTensor]
    nbytes: int
    reason: str
    tip: str | None


def inspect(options: InspectOptions) -> Inspection | Contents:
    """Look into a model file, an artefact or not.

    Returns:
        The network, or the contents of the file if no network is named and none is recognised.

    Raises:
        ArchitectureError: times are asked for, but the network is not known.
        OptionError: they are, but what the network takes is not known, or the device is not there.
        AldsError: the model cannot be read.
    """
    model, source = options.model, options.source
    if stated_architecture(source) is None and isinstance(model, (str, Path)):
        return _inspect_file(model, options)
    return _inspect_network(open_network(model, source), options)


def _inspect_file(path: str | Path, options: InspectOptions) -> Inspection | Contents:
    checkpoint = read_file(path, options.source)
    try:
        network = open_read(checkpoint, options.source)
    except ArchitectureError as error:
        if checkpoint.document is not None or options.time or options.original is not None:
            raise
        tensors = [
            StoredTensor(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in checkpoint.tensors.items()
        ]
        return Contents(checkpoint.name, tensors, checkpoint.nbytes, error.message, error.tip)
    found = _inspect_network(network, options)
    document = checkpoint.document
    return found if document is None else replace(found, versions=document.versions)


def _inspect_network(network: Network, options: InspectOptions) -> Inspection:
    seen = trace_network(network)
    plan = network.plan
    found = find_layers(network.module, seen)
    params = count_parameters(network.module)
    dense, before, specs, seen_before = network, params, found, seen
    if plan.decomposed or plan.pruned:
        dense = densified(network) if options.time else _hollow(network)
        before, specs = count_parameters(dense.module), find_layers(dense.module)
        if not options.time:
            _give_memory(dense.module)
        seen_before = trace_network(dense)
    changed = bool(dense is not network or network.training)
    error = None if changed else 0.0
    times = None
    if options.time:
        times = measured_times(
            network,
            dense,
            list(specs),
            (seen_before, seen),
            batch_size=options.batch_size,
            device=pick_device(options.device),
            progress=options.progress,
        )
    layers = [_report(spec, plan, found.get(name), error) for name, spec in specs.items()]
    original = None
    if options.original is not None:
        original = open_network(options.original, options.source, multiply_back=True)
        layers = _with_errors(layers, network, original)
    return Inspection(
        network,
        layers,
        params,
        before,
        seen.macs,
        seen_before.macs,
        {name: layer_macs(spec, plan, seen_before, seen) for name, spec in specs.items()},
        times,
        original,
    )


def _with_errors(
    layers: Sequence[LayerReport], network: Network, original: Network
) -> list[LayerReport]:
    """Fill in how far layers are from those of the original.

    Raises:
        OptionError: the original has no such layers.
    """
    errors = layer_errors(original.module, densified(network).module)
    convolved = [layer.name for layer in layers if len(layer.shape) > 1]
    if missing := [name for name in convolved if name not in errors]:
        raise OptionError(
            f"{original.name} is not what {network.name} was made from: it has no layer "
            f"{missing[0]} of that shape"
        )
    return [replace(layer, error=errors.get(layer.name)) for layer in layers]


def _hollow(network: Network) -> Network:
    """Return the dense network that a network's pairs stand for, without any values."""
    module = skeleton(network.document().architecture, network.module.state_dict())
    return replace(network, module=module)


def _give_memory(module: nn.Module) -> None:
    """Give a network without values memory for them, which holds nothing yet.

    A small network can then be traced without the meta device, which takes long to begin.
    """
    state = module.state_dict()
    empty = {name: torch.empty(own.shape, dtype=own.dtype) for name, own in state.items()}
    module.load_state_dict(empty, assign=True)


def _report(
    spec: LayerSpec, plan: Plan, current: LayerSpec | None, error: float | None
) -> LayerReport:
    choice, kept = plan.decomposed.get(spec.name), plan.pruned.get(spec.name)
    if choice is not None:
        size = pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)
        after = spec.params - prod(spec.weight_shape) + size
    elif kept is not None and current is not None:
        after = current.params
    else:
        after = spec.params
    reason = spec.reason or (current.reason if current is not None else None)
    return LayerReport(
        spec.name,
        spec.weight_shape,
        spec.params,
        after,
        choice=choice,
        error=error,
        error_bound=error,
        reason=reason if after == spec.params else None,
        kept=kept,
    )
