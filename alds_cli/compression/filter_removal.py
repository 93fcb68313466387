"""Carrying out a plan that removes filters: a smaller network, and a report of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.allocation.channel_pruning import PruningCost
from alds_cli.compression.targets import Resource, channel_terms
from alds_cli.compression.traced_model import NOT_CHOSEN
from alds_cli.errors import PlanError
from alds_cli.numerics.eigenvalues import norm_nbytes, spectral_norm
from alds_cli.numerics.grams import in_units, unit_exponent
from alds_cli.records import (
    Kept,
    LayerReport,
    LayerSpec,
    Plan,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import weight_at
from alds_cli.surgery.channels import Channels, Member
from alds_cli.surgery.equivalence import same_function
from alds_cli.surgery.layers import LEFT_OUT
from alds_cli.surgery.pruning import prune_network, require_prunable
from alds_cli.tracing.trace import LayerCall

FIXED = "the network's code fixes its channels"
"""The reason reported for a layer none of whose channels can be removed."""


def require_removable(module: nn.Module, channels: Channels, pruned: Mapping[str, Kept]) -> None:
    """Check that a plan, which may have been edited, removes whole channels that may be removed.

    Raises:
        PlanError: the plan does not fit the network, leaves parts of a removed channel, or takes
            parts of one that stays.
    """
    require_prunable(module, pruned)
    whole = channels.without(channels.removed_by(pruned))
    if differing := [name for name in {**pruned, **whole} if pruned.get(name) != whole.get(name)]:
        raise PlanError(
            "the plan does not remove whole channels, from the layer that makes them and all "
            f"that take them: see {', '.join(sorted(differing)[:5])}",
            tip="let `--method ft` write a plan (--plan-out) and change that",
        )


def carry_out_pruning(
    module: nn.Module,
    channels: Channels,
    specs: Mapping[str, LayerSpec],
    plan: Plan,
    input_shape: tuple[int, ...],
    *,
    progress: ProgressCallback | None = None,
) -> list[LayerReport]:
    """Remove the plan's filters for good, in place.

    Args:
        module: the network; it is changed.
        channels: its channels that may be removed.
        specs: its layers, by name.
        plan: the filters to remove.
        input_shape: the shape of one sample, on which the result is tested.
        progress: called after every layer that was measured, with the task `prune`.

    Returns:
        A report for every layer, and for every normalisation that lost features. The error is the
        true ‖W − Ŵ‖₂ / ‖W‖₂ where Ŵ has zeros in place of the removed outputs and inputs. For a
        normalisation only the removed features are reported.

    Raises:
        PlanError: the plan does not fit the network (which is then unchanged), or the smaller
            network computes something else.
    """
    require_removable(module, channels, plan.pruned)
    errors = _errors(module, channels, plan.pruned, progress)
    with same_function(module, plan.pruned, input_shape):
        prune_network(module, plan.pruned)
    return pruning_reports(channels, specs, plan, errors)


def pruning_reports(
    channels: Channels,
    specs: Mapping[str, LayerSpec],
    plan: Plan,
    errors: Mapping[str, float] | None = None,
) -> list[LayerReport]:
    """Report on every layer and on every normalisation that loses features.

    Together the reports account for all parameters that are left.

    Args:
        channels: the channels of the dense network.
        specs: its layers, by name.
        plan: the filters to remove.
        errors: the measured errors, by module; None before the plan is carried out.
    """
    movable = {
        name
        for group in channels.groups
        for table in (group.outputs, group.inputs, group.features)
        for name in table
    }
    reports = [
        _report(spec.name, spec.weight_shape, channels, plan, errors)
        if spec.name in plan.pruned
        else _kept(spec, NOT_CHOSEN if spec.name in movable else FIXED)
        for spec in specs.values()
    ]
    norms = [
        _report(name, (channels.members[name].outputs,), channels, plan, errors)
        for name in plan.pruned
        if name not in specs
    ]
    return [*reports, *norms]


def _kept(spec: LayerSpec, reason: str) -> LayerReport:
    # Any other reason in a spec explains why the layer cannot become a pair.
    told = LEFT_OUT if spec.reason == LEFT_OUT else reason
    return LayerReport(spec.name, spec.weight_shape, spec.params, spec.params, reason=told)


def _report(
    name: str,
    shape: tuple[int, ...],
    channels: Channels,
    plan: Plan,
    errors: Mapping[str, float] | None,
) -> LayerReport:
    member, kept = channels.members[name], plan.pruned[name]
    return LayerReport(
        name,
        shape,
        _params(member, Kept()),
        _params(member, kept),
        error=None if errors is None else errors.get(name, 0.0),
        error_bound=None,
        kept=kept,
    )


def _params(member: Member, kept: Kept) -> int:
    outputs, inputs = member.left(kept)
    connections = outputs * inputs if member.role == "dense" else outputs
    return connections * member.per_connection + outputs * member.per_output


@dataclass(slots=True)
class _ErrorJob:
    """A pool job that computes the error of one dense layer."""

    weight: Tensor
    kept: Kept
    error: float = 0.0

    @property
    def nbytes(self) -> int:
        """The approximate bytes of the difference and of its norm."""
        return norm_nbytes(self.weight)

    def __call__(self, spawn: Spawn) -> None:
        """Measure the error."""
        del spawn
        unit = unit_exponent(self.weight)
        norm = spectral_norm(self.weight.flatten(1), unit)
        if norm > 0:
            self.error = spectral_norm(_lost(self.weight, self.kept).flatten(1), unit) / norm


def _lost(weight: Tensor, kept: Kept) -> Tensor:
    """Return W − Ŵ: the weight (f, c, κ…) with zeros where outputs and inputs are kept."""
    lost = weight.clone()
    rows = range(weight.shape[0]) if kept.outputs is None else kept.outputs
    columns = range(weight.shape[1]) if kept.inputs is None else kept.inputs
    lost[torch.tensor(rows)[:, None], torch.tensor(columns)] = 0
    return lost


def _errors(
    module: nn.Module,
    channels: Channels,
    pruned: Mapping[str, Kept],
    progress: ProgressCallback | None,
) -> dict[str, float]:
    with torch.no_grad():
        errors = {
            name: _depthwise_error(weight_at(module, name), kept)
            for name, kept in pruned.items()
            if channels.members[name].role == "depthwise"
        }
        names = [name for name in pruned if channels.members[name].role == "dense"]
        jobs = [_ErrorJob(weight_at(module, name).cpu(), pruned[name]) for name in names]

        total = len(errors) + len(names)

        def measured(index: int) -> None:
            errors[names[index]] = jobs[index].error
            if progress is not None:
                progress(ProgressEvent("prune", len(errors), total))

        run_jobs(jobs, on_done=measured)
    return errors


def _depthwise_error(weight: Tensor, kept: Kept) -> float:
    """Return the largest norm of a removed channel's block over the largest of all blocks."""
    flat = in_units(weight, unit_exponent(weight)).flatten(1)
    norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
    stays: Iterable[int] = range(len(norms)) if kept.outputs is None else kept.outputs
    lost = norms.index_fill(0, torch.tensor(stays, device=norms.device), 0.0)
    return float(lost.max() / norms.max()) if norms.any() else 0.0


def cost_of(channels: Channels, resource: Resource, calls: Mapping[str, LayerCall]) -> PruningCost:
    """Return the cost of the network as a function of the number of channels left in each group.

    Args:
        channels: the channels of the network.
        resource: parameters, MACs or bytes.
        calls: how a forward pass called the network's layers; other layers cost no MACs.
    """
    columns = {group.name: index for index, group in enumerate(channels.groups)}
    terms = list(channel_terms(channels, resource.name, calls))
    outputs = np.zeros((len(terms), len(columns)), np.int64)
    inputs = np.zeros_like(outputs)
    rows = {name: [r for r, term in enumerate(terms) if term[0] == name] for name, *_ in terms}
    for group in channels.groups:
        for table, places in (
            (outputs, group.outputs),
            (outputs, group.features),
            (inputs, group.inputs),
        ):
            for name, indices in places.items():
                for row in rows.get(name, ()):
                    if table is outputs or terms[row][2]:
                        table[row, columns[group.name]] += indices.shape[1]
    sizes = np.array([group.size for group in channels.groups], dtype=np.int64)
    members = [channels.members[name] for name, *_ in terms]
    both = [taken for _, _, taken in terms]
    weights = np.array([weight for _, weight, _ in terms], dtype=np.int64)
    made = np.array([member.outputs for member in members], dtype=np.int64)
    taken = np.array([m.inputs if b else 1 for m, b in zip(members, both, strict=True)], np.int64)
    return PruningCost(
        resource.fixed + sum(resource.kept.values()) - int((weights * made * taken).sum()),
        weights,
        outputs,
        made - outputs @ sizes,
        inputs,
        taken - inputs @ sizes,
    )
