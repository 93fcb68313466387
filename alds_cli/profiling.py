"""Error tables of a network: from the cache where they are, computed where they are not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from alds_cli.checkpoint import hash_tensors, load_cached, read_table, store_cached
from alds_cli.numerics.costs import divisors
from alds_cli.numerics.fold import distinct_schemes, fold
from alds_cli.numerics.option_tables import empty_table, with_scheme
from alds_cli.numerics.pool import run_jobs
from alds_cli.numerics.spectra import SpectraJob
from alds_cli.records import (
    ErrorTable,
    LayerSpec,
    ProgressCallback,
    ProgressEvent,
)

logger = logging.getLogger(__name__)


def error_tables(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    *,
    schemes: Sequence[int] = (0,),
    table: Path | None = None,
    cache: bool = True,
    progress: ProgressCallback | None = None,
) -> tuple[ErrorTable, bool]:
    """Tables of all layers that may be decomposed.

    Args:
        module: the network.
        specs: its layers; those with a reason to be kept are left out.
        schemes: folding schemes to cover, where they apply.
        table: a table file to start from instead of the cache.
        cache: read and keep tables in the user's cache folder.
        progress: told of every layer finished; its task is `profile`.

    Returns:
        The tables, and whether any spectrum had to be computed.

    Raises:
        TableError: the file named does not hold a sound table of this network.
    """
    wanted = {name: spec for name, spec in specs.items() if spec.reason is None}
    weights_hash = layer_weights_hash(module, specs)
    if table is not None:
        known: ErrorTable | None = read_table(table, weights_hash, specs)
    else:
        known = load_cached(weights_hash, specs) if cache else None
    known = known or ErrorTable(weights_hash, {})
    missing = _missing(wanted, known, schemes)
    if not missing:
        return known, False
    complete = _computed(module, wanted, known, missing, progress)
    if cache:
        store_cached(complete)
    return complete, True


def layer_weights_hash(module: nn.Module, specs: Mapping[str, LayerSpec]) -> str:
    """Hash of the weights of all layers, kept ones too; biases and other tensors do not count."""
    weights: dict[str, Any] = {}
    for name in specs:
        layer: Any = module.get_submodule(name)
        weights[name] = layer.weight
    return hash_tensors(weights)


def _missing(
    wanted: Mapping[str, LayerSpec], known: ErrorTable, schemes: Sequence[int]
) -> list[tuple[str, int]]:
    return [
        (name, scheme)
        for name, spec in wanted.items()
        for scheme in distinct_schemes(spec.kernel)
        if scheme in schemes
        and (name not in known.layers or scheme not in known.layers[name].norms)
    ]


def _computed(
    module: nn.Module,
    wanted: Mapping[str, LayerSpec],
    known: ErrorTable,
    missing: Sequence[tuple[str, int]],
    progress: ProgressCallback | None,
) -> ErrorTable:
    """The known table with what was missing; the largest layers are begun first."""
    jobs: list[tuple[str, int, SpectraJob]] = []
    for name, scheme in missing:
        layer: Any = module.get_submodule(name)
        matrix = fold(layer.weight.detach(), scheme)
        jobs.append((name, scheme, SpectraJob(matrix, divisors(wanted[name].in_channels))))
    jobs.sort(key=lambda entry: -entry[2].work)
    layers = dict(known.layers)
    done = 0

    def finished(index: int) -> None:
        nonlocal done
        name, scheme, job = jobs[index]
        old = layers.get(name) or empty_table(wanted[name])
        layers[name] = with_scheme(old, scheme, job.norm, job.curves())
        done += 1
        if progress is not None:
            progress(ProgressEvent("profile", done, len(jobs)))

    run_jobs([job for _, _, job in jobs], on_done=finished)
    # A scheme may apply to none of a layer's axes; what was known of others is worth keeping.
    ordered = {name: layers[name] for name in [*wanted, *layers] if name in layers}
    return ErrorTable(known.weights_hash, ordered)
