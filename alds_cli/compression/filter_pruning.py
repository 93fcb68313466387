"""The compression strategy that removes filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.allocation import InfeasibleError, Spending
from alds_cli.allocation.channel_pruning import PrunableGroup, PruningProblem
from alds_cli.calibration import SENSITIVITIES
from alds_cli.compression.filter_removal import (
    carry_out_pruning,
    cost_of,
    pruning_reports,
    require_removable,
)
from alds_cli.compression.refusals import out_of_reach
from alds_cli.compression.targets import Budget, Offered
from alds_cli.compression.traced_model import TracedModel, batches_for
from alds_cli.errors import BudgetError, ContractError, OptionError
from alds_cli.methods import method_named
from alds_cli.numerics.grams import in_units, unit_exponent
from alds_cli.profiling import layer_weights_hash
from alds_cli.records import (
    ArgumentValue,
    Candidate,
    FloatArray,
    IntArray,
    LayerReport,
    LayerSpec,
    Plan,
)
from alds_cli.runtime.devices import pick_device
from alds_cli.surgery import weight_at
from alds_cli.surgery.channels import ChannelGroup, Channels
from alds_cli.surgery.channels.find import find_channels
from alds_cli.surgery.layers import LEFT_OUT
from alds_cli.tracing.trace import LayerCall


class FilterPruningStrategy:
    """The strategy that removes filters, and the inputs of the layers that follow them.

    Args:
        traced: the network and what is asked of it.

    Raises:
        OptionError: the shape of the network's input is not known, or the method lacks images.
        ContractError: the network's code cannot be followed.
    """

    def __init__(self, traced: TracedModel) -> None:
        network, options = traced.network, traced.options
        if network.input_shape is None:
            raise OptionError(
                "removing filters takes a forward pass on one image, and the shape of such an "
                "input is not known",
                tip="--input-shape C,H,W" if network.inputs is None else None,
            )
        self.specs = traced.specs
        self._options = options
        self.method = options.method
        self._network = network
        self._input_shape = network.input_shape
        self._calls = traced.trace.calls
        with traced.clock("profile"):
            self.weights_hash = layer_weights_hash(network.module, self.specs)
            self.channels = prunable_channels(network.module, network.input_shape, self.specs)
        self._sensitivities: Mapping[str, FloatArray] | None = None
        if traced.given is None and SENSITIVITIES in traced.needs:
            with traced.clock("calibrate"):
                self._sensitivities = SENSITIVITIES.gather(
                    network.module,
                    self.channels,
                    batches_for(network, options, traced.method),
                    device=pick_device(options.device),
                    progress=options.progress,
                )

    def planned(
        self, budgets: Sequence[Budget], offered: Offered | None, spending: Spending
    ) -> Plan:
        """Choose the filters to remove."""
        del offered, spending
        return prune_within(
            self._network.module,
            self.channels,
            self._calls,
            budgets,
            method=self._options.method,
            arguments=self._options.method_args,
            seed=self._options.seed,
            multiple=self._options.rank_multiple,
            sensitivities=self._sensitivities,
        )

    def comparison(self, plan: Plan) -> Sequence[Candidate]:
        """Return nothing, since no other method was tried."""
        del plan
        return ()

    def require_fitting(self, plan: Plan) -> None:
        """Check that the plan's filters can be removed."""
        require_removable(self._network.module, self.channels, plan.pruned)

    def outlook(self, plan: Plan) -> list[LayerReport]:
        """Report what the plan leaves of every layer."""
        return pruning_reports(self.channels, self.specs, plan)

    def carry_out(self, module: nn.Module, plan: Plan) -> list[LayerReport]:
        """Remove the plan's filters."""
        return carry_out_pruning(
            module,
            self.channels,
            self.specs,
            plan,
            self._input_shape,
            progress=self._options.progress,
        )


def prunable_channels(
    module: nn.Module, input_shape: tuple[int, ...], specs: Mapping[str, LayerSpec]
) -> Channels:
    """Find the channels that may be removed. A layer that the user left out keeps all its filters.

    Args:
        module: the network.
        input_shape: the shape of one sample, without the batch.
        specs: the network's layers, by name.

    Raises:
        ContractError: the network's code cannot be followed.
    """
    left_out = [name for name, spec in specs.items() if spec.reason == LEFT_OUT]
    return find_channels(module, input_shape, keep=left_out)


def prune_within(
    module: nn.Module,
    channels: Channels,
    calls: Mapping[str, LayerCall],
    budgets: Sequence[Budget],
    *,
    method: str,
    arguments: Mapping[str, ArgumentValue] | None = None,
    seed: int = 0,
    multiple: int = 1,
    sensitivities: Mapping[str, FloatArray] | None = None,
) -> Plan:
    """Choose which filters to remove so that all budgets hold.

    Args:
        module: the network, for its weights.
        channels: its channels that may be removed, from `prunable_channels`.
        calls: how a forward pass called its layers.
        budgets: at least one budget of parameters, MACs or bytes.
        method: a key of `methods.METHODS`; the method must remove filters.
        arguments: the method's arguments, where they differ from the defaults.
        seed: the seed of a method that draws random numbers.
        multiple: the number that filters left are a multiple of, where any are removed.
        sensitivities: the sensitivities of every layer's inputs, from
            `calibration.channel_sensitivities`.

    Raises:
        OptionError: the method removes no filters, an argument makes no sense, or a latency
            is limited.
        RatioUnreachableError: even the fewest filters in every group are too much.
        BudgetError: the same for an absolute limit, or for several budgets together.
    """
    chosen = method_named(method)
    given = dict(arguments or {})
    if chosen.prune is None:
        raise OptionError(f"the method {method} removes no filters")
    if any(budget.resource.name == "latency" for budget in budgets):
        raise OptionError(
            f"the method {method} cannot plan for a latency, because layers with fewer "
            "filters are not timed",
            tip="--target macs comes closest",
        )
    problem = PruningProblem(
        [_in_numbers(module, channels, group, sensitivities) for group in channels.groups],
        [cost_of(channels, budget.resource, calls) for budget in budgets],
        [budget.allowed - budget.margin for budget in budgets],
        seed,
        chosen.settled_arguments(method, given),
        multiple,
    )
    try:
        removal = chosen.prune(problem)
    except InfeasibleError as error:
        raise _refusal(problem, budgets) from error
    return Plan(
        {},
        method=method,
        seed=seed if chosen.seeded else None,
        objective=removal.objective,
        pruned=channels.without(removal.removed),
        arguments=given,
    )


def _in_numbers(
    module: nn.Module,
    channels: Channels,
    group: ChannelGroup,
    sensitivities: Mapping[str, FloatArray] | None,
) -> PrunableGroup:
    """Return a group as a method sees it."""
    squares = np.zeros(group.size)
    producing = {**group.outputs, **_depthwise(channels, group)}
    unit = unit_exponent(*(weight_at(module, name) for name in producing))
    for name, indices in producing.items():
        squares += _filter_squares(weight_at(module, name), unit)[indices].sum(axis=1)
    plain = PrunableGroup(group.name, np.ldexp(np.sqrt(squares), unit))
    if sensitivities is None:
        return plain
    most = np.zeros(group.size)
    for name, indices in group.inputs.items():
        if name in sensitivities:  # a layer that is never called has no sensitivities
            most = np.maximum(most, sensitivities[name][indices].max(axis=1))
    fan_out = max((channels.members[name].outputs for name in group.inputs), default=1)
    return replace(plain, sensitivities=most, fan_out=fan_out)


def _depthwise(channels: Channels, group: ChannelGroup) -> dict[str, IntArray]:
    return {
        name: places
        for name, places in group.features.items()
        if channels.members[name].role == "depthwise"
    }


def _filter_squares(weight: Tensor, unit: int) -> FloatArray:
    """Return every filter's sum of squares, (f,) in float64, of a weight (f, c/g, κ…) / 2**unit."""
    with torch.no_grad():
        flat = in_units(weight, unit).flatten(1)
        norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
    squares: FloatArray = norms.square().cpu().numpy()
    return squares


def _refusal(problem: PruningProblem, budgets: Sequence[Budget]) -> ContractError:
    """Explain which budget the fewest filters in every group exceed alone, else that none was."""
    kept = "any group's last filter"
    if problem.multiple > 1:
        kept = f"any of the last {problem.multiple} filters of a group"
    for cost, budget in zip(problem.costs, budgets, strict=True):
        least = cost(problem.fewest)
        if least > budget.allowed - budget.margin:
            return out_of_reach(budget, least, f"make without taking {kept}")
    return BudgetError(
        "the method found no plan within all limits, although there are some",
        tip="choose another method",
    )
