"""From a network and targets, or a plan, to smaller networks and their reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alds_cli.checkpoint import read_plan, require_apart, write_plan
from alds_cli.compression.low_rank import require_able
from alds_cli.compression.run import planned
from alds_cli.compression.session import Session
from alds_cli.compression.settings import Ratio, Settings
from alds_cli.compression.targets import Target
from alds_cli.datasets import tensor_files
from alds_cli.errors import OptionError
from alds_cli.network.loading import Network
from alds_cli.network.opening import (
    Model,
    Source,
    require_target,
)
from alds_cli.records import CompressionReport, Plan

PLACEHOLDER = "{ratio}"
"""Stands for the ratio in the names of a family's files."""


@dataclass(frozen=True, slots=True)
class CompressionResult:
    """The compressed network (None after a dry run), its plan and its report."""

    network: Network | None
    plan: Plan
    report: CompressionReport
    output: str | None = None


def compress_networks(
    model: Model,
    source: Source,
    settings: Settings,
    *,
    ratios: Sequence[Ratio],
    output: str | Path | None,
    plan_output: str | Path | None,
) -> list[CompressionResult]:
    """Make a network smaller in several degrees, from one profile.

    All are planned before the first is written, so that a ratio out of reach stops it all.

    Args:
        model: the network; pairs of an artefact are multiplied back first.
        source: how to read its file.
        settings: how to compress.
        ratios: one for each result; None where only absolute limits count.
        output: the artefacts' names, with `{ratio}` in it where there are several.
        plan_output: the plans' names, likewise.

    Raises:
        OptionError: options make no sense, alone or together.
        ContractError: a ratio or a limit cannot be had.
        AldsError: the model cannot be read, or a result not be written.
    """
    targets = [settings.aim(ratio) for ratio in ratios]
    given = _given_plan(settings.plan, targets)
    if given is None:
        for target in targets:
            timed = ("latency",) if target.timed else ()
            require_able(settings.method, {*target.resources, *timed})
    outputs, plans = (_names(name, ratios) for name in (output, plan_output))
    files = [name for name in [*([] if settings.dry_run else outputs), *plans] if name]
    for file in files:
        require_target(file)
    _require_apart(files, outputs, plans, model, settings)
    session = Session(model, source, settings, given)
    runs = [
        planned(session, target, name or "artefact.pt", given)
        for target, name in zip(targets, outputs, strict=True)
    ]
    for run, name in zip(runs, plans, strict=True):
        if name is not None:
            write_plan(run.plan, Path(name))
    if settings.dry_run:
        return [CompressionResult(None, run.plan, run.outlook()) for run in runs]
    results = []
    for number, (run, name) in enumerate(zip(runs, outputs, strict=True), start=1):
        network, report = run.finished(name, last=number == len(runs))
        results.append(CompressionResult(network, run.plan, report, name))
    return results


def _require_apart(
    targets: Sequence[str],
    outputs: Sequence[str | None],
    plans: Sequence[str | None],
    model: Model,
    settings: Settings,
) -> None:
    """No result replaces another, nor a table, plan or data; a network may its original.

    Raises:
        OutputError: one would.
    """
    files = [own for own in (settings.table,) if isinstance(own, (str, Path))]
    if isinstance(settings.plan, (str, Path)) and str(settings.plan) in map(str, outputs):
        files.append(settings.plan)
    require_apart(targets, [*files, *tensor_files(settings.data)])
    require_apart(filter(None, plans), [model] if isinstance(model, (str, Path)) else [])


def _given_plan(plan: Plan | str | Path | None, targets: Sequence[Target]) -> Plan | None:
    """The plan to replay; a layer may be decomposed by it whatever method made it."""
    if plan is None and not all(target.resources for target in targets):
        raise OptionError(
            "how small? Neither a ratio nor a limit nor a plan is given",
            tip="--ratio 0.5 leaves at most half of the parameters",
        )
    if plan is not None and len(targets) > 1:
        raise OptionError("one plan cannot have several ratios", tip="give one ratio, or none")
    return plan if plan is None or isinstance(plan, Plan) else read_plan(Path(plan))


def _names(name: str | Path | None, ratios: Sequence[Ratio]) -> list[str | None]:
    """The name of each ratio's file."""
    if name is None:
        return [None] * len(ratios)
    if len(ratios) > 1 and PLACEHOLDER not in str(name):
        raise OptionError(
            f"{len(ratios)} results cannot all be written to {name}",
            tip=f"put {PLACEHOLDER} into the name, as in 'small-{PLACEHOLDER}.pt'",
        )
    names = [str(name).replace(PLACEHOLDER, str(ratio).strip()) for ratio in ratios]
    if len(set(names)) < len(names):
        raise OptionError("a ratio is given twice", tip="name each once")
    return list(names)
