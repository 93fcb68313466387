"""Carrying out a plan of low-rank pairs: factors, true errors, and the pairs in the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.compression.traced_model import layer_reports
from alds_cli.errors import PlanError
from alds_cli.methods import Factorisation, Factors, FactorTask, Method, factorisation_for
from alds_cli.numerics.eigenvalues import operator_norm
from alds_cli.numerics.grams import unit_exponent
from alds_cli.profiling import tabled_norm
from alds_cli.records import (
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import (
    bias_of,
    form_of,
    install_pair,
    layer_at,
    layer_weight,
    require_fitting,
    weight_at,
)

Statistics = Mapping[str, Mapping[str, Any]]
"""Statistics of the layers' behaviour on images, by the name of the statistic, then the layer."""


@dataclass(slots=True)
class PairJob:
    """A pool job that computes the factors of one layer and the true error of what is stored.

    Attributes:
        task: the layer and the input of its factorisation; None once it was released.
        factorisation: makes the factors.
        norm: ‖W‖₂ in the paper's fold, in units of 2**`grams.unit_exponent`; None until computed.
        factors: the result.
        error: ‖W − Ŵ‖₂ / ‖W‖₂ in the paper's fold, with the factors rounded as they are stored.
    """

    task: FactorTask | None
    factorisation: Factorisation
    norm: float | None
    factors: Factors | None = None
    error: float = 0.0

    @property
    def nbytes(self) -> int:
        """The approximate bytes of memory that the factorisation takes."""
        return 0 if self.task is None else self.factorisation.nbytes(self.task)

    def __call__(self, spawn: Spawn) -> None:
        """Compute the factors, then measure their error."""
        del spawn
        task = self.task
        if task is None:
            raise ValueError("the job was let go")
        self.factors = self.factorisation(task)
        unit, groups = unit_exponent(task.weight), task.spec.groups
        if self.norm is None:
            self.norm = operator_norm(task.weight, groups, unit)
        if self.norm > 0:
            form = form_of(task.choice.scheme)
            lost = form.residual(task.weight, self.factors.tensors, task.choice, groups, unit)
            self.error = lost / self.norm

    def let_go(self) -> None:
        """Release the weight and the factors."""
        self.task = self.factors = None


def carry_out(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    plan: Plan,
    *,
    method: Method | None = None,
    statistics: Statistics | None = None,
    progress: ProgressCallback | None = None,
) -> list[LayerReport]:
    """Replace the plan's layers by low-rank pairs, in place.

    Args:
        module: the network; it is changed.
        specs: its layers, by name.
        tables: error tables that cover the plan's choices.
        plan: the choices; layers that it does not name are kept.
        method: the entry of the method that made the plan, which determines how factors are made;
            None makes the usual factors of the choices' schemes.
        statistics: all statistics that the method needs.
        progress: called after every pair, with the task `decompose`.

    Returns:
        A report for every layer.

    Raises:
        PlanError: the plan does not fit the network, which is then unchanged.
    """
    require_makeable(specs, plan, method)
    types = weight_types(module, plan.decomposed)
    jobs = {
        name: _job(module, specs[name], tables, plan, method, statistics or {})
        for name in plan.decomposed
    }
    # The largest layers come first: their memory is free again before other results accumulate.
    names = sorted(jobs, key=lambda name: -jobs[name].nbytes)
    errors: dict[str, float] = {}

    def finished(index: int) -> None:
        name = names[index]
        job = jobs[name]
        if job.factors is None:
            raise ValueError(f"{name} has no factors")
        install_pair(module, name, plan.decomposed[name], job.factors.tensors)
        if job.factors.constant is not None:
            add_constant(module, name, job.factors.absorber, job.factors.constant)
        job.let_go()
        errors[name] = job.error
        if progress is not None:
            progress(ProgressEvent("decompose", len(errors), len(names)))

    with torch.no_grad():
        run_jobs([jobs[name] for name in names], on_done=finished)
    norms = {name: job.norm or 0.0 for name, job in jobs.items()}
    return layer_reports(specs, tables, plan, types, norms, errors, method=method)


def require_makeable(specs: Mapping[str, LayerSpec], plan: Plan, method: Method | None) -> None:
    """Check that every choice fits its layer and that its factors can be made.

    Raises:
        PlanError: a choice does not fit, or its factors cannot be made.
    """
    require_fitting(specs, plan.choices)
    for name, choice in plan.decomposed.items():
        if complaint := factorisation_for(method, choice.scheme).complaint(choice):
            raise PlanError(f"the plan cannot be carried out: {name}: {complaint}")


def weight_types(module: nn.Module, names: Iterable[str]) -> dict[str, torch.dtype]:
    """Return the data types of the named layers' weights."""
    return {name: weight_at(module, name).dtype for name in names}


def _job(
    module: nn.Module,
    spec: LayerSpec,
    tables: ErrorTable,
    plan: Plan,
    method: Method | None,
    statistics: Statistics,
) -> PairJob:
    """Return the job that makes a layer's pair."""
    choice = plan.decomposed[spec.name]
    layer: Any = layer_at(module, spec.name)
    bias = bias_of(layer)
    task = FactorTask(
        spec,
        choice,
        layer_weight(layer),
        None if bias is None else bias.detach(),
        plan.seed or 0,
        plan.arguments,
        {name: of_layers[spec.name] for name, of_layers in statistics.items()},
    )
    factorisation = factorisation_for(method, choice.scheme)
    return PairJob(task, factorisation, tabled_norm(tables.layers[spec.name]))


def add_constant(module: nn.Module, name: str, absorber: str | None, constant: Tensor) -> None:
    """Add a constant to the output of a pair in evaluation mode, at no cost.

    The constant goes into the bias of the pair's second layer or, with the opposite sign, into the
    running mean of the batch normalisation that follows.

    Args:
        module: the network with the pair installed; changed in place. The tensor concerned is
            replaced, not overwritten.
        name: the layer that the pair replaces.
        absorber: the module that takes the constant: this layer, or the normalisation.
        constant: one number for every output channel, (f,).

    Raises:
        ValueError: no module can take the constant.
    """
    if absorber is None:
        raise ValueError(f"nothing after {name} takes a constant")
    part: Any = module.get_submodule(absorber)
    with torch.no_grad():
        if absorber != name:
            part.running_mean = _added(part.running_mean, -constant)
            return
        bias = part.second.bias
        part.second.bias = nn.Parameter(_added(bias, constant), requires_grad=bias.requires_grad)


def _added(tensor: Tensor, constant: Tensor) -> Tensor:
    """Return the sum, computed in float64 and rounded once."""
    return (tensor.to("cpu", torch.float64) + constant).to(tensor)
