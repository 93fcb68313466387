"""Inspection of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from alds_cli.errors import ArchitectureError
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
from alds_cli.options.model_source import Source
from alds_cli.records import LayerReport, LayerSpec, Plan
from alds_cli.surgery import find_layers
from alds_cli.tracing.trace import count_parameters


@dataclass(frozen=True, slots=True)
class Inspection:
    """A network's layers and its costs.

    `params_before` is the number of parameters of the dense network that its pairs stand for. The
    errors and bounds of a network that was compressed or trained are None, since the weights before
    are gone; kept layers may have been tuned.
    """

    network: Network
    layers: Sequence[LayerReport]
    params: int
    params_before: int
    macs: int | None


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
        AldsError: the model cannot be read.
    """
    model, source = options.model, options.source
    if stated_architecture(source) is None and isinstance(model, (str, Path)):
        return _inspect_file(model, source)
    return _inspect_network(open_network(model, source))


def _inspect_file(path: str | Path, source: Source) -> Inspection | Contents:
    checkpoint = read_file(path, source)
    try:
        network = open_read(checkpoint, source)
    except ArchitectureError as error:
        if checkpoint.document is not None:
            raise
        tensors = [
            StoredTensor(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in checkpoint.tensors.items()
        ]
        return Contents(checkpoint.name, tensors, checkpoint.nbytes, error.message, error.tip)
    return _inspect_network(network)


def _inspect_network(network: Network) -> Inspection:
    trace = trace_network(network)
    plan = network.plan
    found = find_layers(network.module, trace)
    params = count_parameters(network.module)
    before, specs = params, found
    if plan.decomposed or plan.pruned:
        dense = skeleton(network.document().architecture, network.module.state_dict())
        before, specs = count_parameters(dense), find_layers(dense)
    changed = bool(plan.decomposed or plan.pruned or network.training)
    error = None if changed else 0.0
    layers = [_report(spec, plan, found.get(name), error) for name, spec in specs.items()]
    return Inspection(network, layers, params, before, trace.macs)


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
