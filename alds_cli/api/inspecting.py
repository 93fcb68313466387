"""What is inside a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from alds_cli.api.models import AS_IT_IS, Model, Source, open_network, trace_network
from alds_cli.loading import Network, skeleton
from alds_cli.numerics.costs import pair_params
from alds_cli.numerics.counting import count_parameters
from alds_cli.records import LayerReport, LayerSpec, Plan
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
    plan = network.plan
    found = find_layers(network.module, trace)
    params = count_parameters(network.module)
    before, specs = params, found
    if plan.decomposed or plan.pruned:
        dense = skeleton(network.document().architecture, network.module.state_dict())
        before, specs = count_parameters(dense), find_layers(dense)
    layers = [_report(spec, plan, found.get(name)) for name, spec in specs.items()]
    return Inspection(network, layers, params, before, trace.macs)


def _report(spec: LayerSpec, plan: Plan, current: LayerSpec | None) -> LayerReport:
    choice, kept = plan.decomposed.get(spec.name), plan.pruned.get(spec.name)
    if choice is not None:
        size = pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)
        after = spec.params - prod(spec.weight_shape) + size
        error = None
    elif kept is not None and current is not None:
        after, error = current.params, None
    else:
        after, error = spec.params, 0.0
    reason = spec.reason or (current.reason if current is not None else None)
    return LayerReport(
        spec.name,
        spec.weight_shape,
        spec.params,
        after,
        choice=choice,
        error=error,
        reason=reason if after == spec.params else None,
        kept=kept,
    )
