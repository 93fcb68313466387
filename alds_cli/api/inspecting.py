"""What is inside a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from alds_cli import architectures
from alds_cli.api.models import AS_IT_IS, Model, Source, open_network, trace_network
from alds_cli.loading import Network
from alds_cli.numerics.costs import pair_params
from alds_cli.numerics.counting import count_parameters
from alds_cli.records import Choice, LayerReport, LayerSpec
from alds_cli.surgery import find_layers


@dataclass(frozen=True, slots=True)
class Inspection:
    """A network's layers and what it costs.

    `params_before` is the size of the dense network that its pairs stand for. Errors of
    the layers are None where they are pairs: the weights they replaced are gone.
    """

    network: Network
    layers: Sequence[LayerReport]
    params: int
    params_before: int
    macs: int | None


def inspect(model: Model, source: Source = AS_IT_IS) -> Inspection:
    """Look into a model file, an artefact or not.

    Args:
        model: the network.
        source: how to read its file.

    Raises:
        AldsError: the model cannot be read.
    """
    network = open_network(model, source)
    trace = trace_network(network)
    choices = network.plan.decomposed
    found = find_layers(network.module, trace)
    if choices:
        dense = architectures.build(network.document().architecture, device="meta")
        specs = find_layers(dense)
    else:
        specs = found
    layers = [_report(spec, choices.get(name), found.get(name)) for name, spec in specs.items()]
    params = count_parameters(network.module)
    saved = sum(layer.params_before - layer.params_after for layer in layers)
    return Inspection(network, layers, params, params + saved, trace.macs)


def _report(spec: LayerSpec, choice: Choice | None, current: LayerSpec | None) -> LayerReport:
    if choice is None:
        reason = spec.reason or (current.reason if current is not None else None)
        return LayerReport(spec.name, spec.weight_shape, spec.params, spec.params, reason=reason)
    size = pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)
    return LayerReport(
        spec.name,
        spec.weight_shape,
        spec.params,
        spec.params - prod(spec.weight_shape) + size,
        choice=choice,
        error=None,
    )
