"""The cost of a network in every resource that a budget may limit, computed when first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from torch import nn

from alds_cli.checkpoint import artefact_size
from alds_cli.compression.filter_removal import pruned_amount
from alds_cli.compression.latency_model import LatencyModel
from alds_cli.compression.targets import (
    Budget,
    Resource,
    Target,
    file_bytes,
    multiply_accumulates,
    nanoseconds,
    parameters,
)
from alds_cli.errors import OptionError
from alds_cli.inputs import inputs_tip
from alds_cli.network.networks import Network
from alds_cli.numerics.costs import pair_params
from alds_cli.records import (
    Choice,
    IntArray,
    LayerSpec,
    Plan,
)
from alds_cli.surgery import prune_network, reshape_network, weight_at
from alds_cli.surgery.channels import Channels
from alds_cli.tracing.trace import Trace, count_parameters, meta_copy


class CostModel:
    """The cost of one network, before and after a plan.

    Args:
        network: the network before anything is decomposed; it is not changed.
        specs: its layers that may be decomposed, by name.
        before: a recorded forward pass of the network.
        target: what the user asks of the compressed network.
        weights_hash: the hash of the layers' weights, which an artefact records.
        channels: the channels that can be removed; None where layers become pairs.
        naming: a plan without choices that names the method and its settings, as the artefact will.
        output: the artefact's file name, which determines its format.
        measuring: makes the latency model; called only where times count.
    """

    def __init__(
        self,
        network: Network,
        specs: Mapping[str, LayerSpec],
        before: Trace,
        target: Target,
        *,
        weights_hash: str,
        channels: Channels | None,
        naming: Plan,
        output: str,
        measuring: Callable[[], LatencyModel],
    ) -> None:
        self._network = network
        self._specs = specs
        self._before = before
        self._target = target
        self._weights_hash = weights_hash
        self._channels = channels
        self._naming = naming
        self._output = output
        self._params = count_parameters(network.module)
        self._measuring = measuring
        self._sized: tuple[Plan, int] | None = None

    @cached_property
    def latency_model(self) -> LatencyModel:
        """The measured times, made when first needed."""
        return self._measuring()

    def budgets(self) -> list[Budget]:
        """Return the budgets of the target, the tighter one where a resource has ratio and limit.

        Raises:
            OptionError: MACs or times are limited, but no forward pass is possible.
        """
        found: list[Budget] = []
        for name in self._target.resources:
            resource = self.resource(name)
            limit = self._target.limits.get(name)
            if self._target.ratio is not None and self._target.resource == name:
                asked = Budget.of_ratio(resource, self._target.ratio)
                found.append(
                    asked if limit is None or asked.allowed <= limit else Budget(resource, limit)
                )
            elif limit is not None:
                found.append(Budget(resource, limit))
        return found

    def resource(self, name: str) -> Resource:
        """Return the resource of this name, one of `targets.TARGETS`."""
        return {
            "params": lambda: self._parameters,
            "macs": lambda: self._macs,
            "bytes": lambda: self._bytes,
            "latency": lambda: self._latency,
        }[name]()

    def spending(self, name: str, spec: LayerSpec, choices: IntArray) -> IntArray:
        """Return how much of a resource the choices (n, 3) of a layer cost, as (n,).

        Raises:
            OptionError: MACs are asked for, but no forward pass is possible.
        """
        return self.resource(name).prices(spec, choices)

    @cached_property
    def _skeleton(self) -> nn.Module:
        """A copy on the meta device, kept because the network may be taken apart later."""
        return meta_copy(self._network.module)

    @cached_property
    def _parameters(self) -> Resource:
        return parameters(self._specs, self._params)

    @cached_property
    def _macs(self) -> Resource:
        macs = self._before.macs
        if macs is None:
            reason = self._before.failure or "the network runs, but not while they are counted"
            raise OptionError(
                f"the network's MACs are not known: {reason}",
                tip=inputs_tip(self._network.inputs),
            )
        return multiply_accumulates(self._specs, macs, self._before.calls)

    @cached_property
    def _bytes(self) -> Resource:
        all_kept = self.size_after(Plan({}))
        sizes = {name: weight_at(self._skeleton, name).itemsize for name in self._specs}
        before = self._network.nbytes or all_kept
        pairs = {
            name: Choice(0, 1, 1)
            for name, spec in self._specs.items()
            if pair_params(spec.weight_shape, 0, 1, 1, spec.groups) < spec.weight_params
        }
        # The bytes of names and entries are derived from the smallest network there is, so that
        # its size is predicted exactly; for other plans it is close, and they are made to fit.
        bare = file_bytes(self._specs, before, all_kept, sizes, 0)
        smallest = Plan(dict(pairs))
        beside = self.size_after(replace(self._naming, choices=pairs)) - self.after(bare, smallest)
        per_pair, rest = divmod(max(0, beside), max(1, len(pairs)))
        return file_bytes(self._specs, before, all_kept + rest, sizes, per_pair)

    def after(self, resource: Resource, plan: Plan) -> int:
        """Return the network's cost after a plan, as the sum of its layers' prices."""
        if plan.pruned and self._channels is not None:
            return pruned_amount(self._channels, resource, self._before.calls, plan.pruned)
        spent = resource.fixed
        for name, spec in self._specs.items():
            choice = plan.choices.get(name)
            row = (choice.scheme, choice.k, choice.j) if choice is not None else (0, 0, 0)
            spent += int(resource.prices(spec, np.array([row]))[0])
        return spent

    def size_after(self, plan: Plan) -> int:
        """Return the bytes of the artefact that holds the network after a plan.

        Raises:
            ArchitectureError: it is not known how to build the network.
        """
        if self._sized is None or self._sized[0] is not plan:
            skeleton = meta_copy(self._skeleton)
            reshape_network(skeleton, plan.decomposed)
            prune_network(skeleton, plan.pruned)
            document = self._network.compressed_by(
                plan, self._weights_hash, self._params
            ).document()
            self._sized = plan, artefact_size(skeleton.state_dict(), document, self._output)
        return self._sized[1]

    @cached_property
    def _latency(self) -> Resource:
        times = self.latency_model.measured
        return nanoseconds(
            self.latency_model.network_ns,
            {name: layer.dense_ns for name, layer in times.items()},
            {name: layer.pairs for name, layer in times.items()},
        )
