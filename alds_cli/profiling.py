"""Error tables of a network: read from the cache, or computed where they are missing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.checkpoint import (
    cache_path,
    hash_tensors,
    load_cached,
    read_table,
    require_apart,
    store_cached,
    write_table,
)
from alds_cli.methods import method_named
from alds_cli.network.networks import Network
from alds_cli.network.opening import open_network, require_target, trace_network
from alds_cli.numerics.device_spectra import device_spectra
from alds_cli.numerics.eigenvalues import operator_norm
from alds_cli.numerics.fold import distinct_schemes, fold, pair_params, slicings
from alds_cli.numerics.grams import in_units, unit_exponent
from alds_cli.numerics.spectra import (
    SpectraJob,
    empty_table,
    rounding_slack,
    with_exact,
    with_scheme,
)
from alds_cli.numerics.true_errors import ExactErrors
from alds_cli.options.profile_options import ProfileOptions
from alds_cli.records import (
    OPERATOR,
    Choice,
    Curve,
    ErrorTable,
    LayerSpec,
    LayerTable,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.runtime.devices import Clock, pick_device
from alds_cli.runtime.pool import run_jobs, working_memory
from alds_cli.surgery import find_layers, layer_at, weight_at

logger = logging.getLogger(__name__)


def error_tables(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    *,
    schemes: Sequence[int] = (0,),
    table: Path | None = None,
    cache: bool = True,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[ErrorTable, bool]:
    """Return the tables of all layers that may be decomposed.

    Args:
        module: the network.
        specs: its layers, by name; those with a reason to be kept are left out.
        schemes: folding schemes to cover, where they apply.
        table: a table file to start from instead of the cache.
        cache: whether tables are read from and kept in the user's cache folder.
        device: where to compute spectra; None is the CPU.
        progress: called after every layer, with the task `profile`.

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
    known = _covering(known or ErrorTable(weights_hash, {}), wanted)
    missing = _missing(wanted, known, schemes)
    if not missing:
        return known, False
    complete = _computed(module, wanted, known, missing, device or torch.device("cpu"), progress)
    if cache:
        store_cached(complete)
    return complete, True


def _covering(known: ErrorTable, wanted: Mapping[str, LayerSpec]) -> ErrorTable:
    """Leave out tables made for fewer slices than a layer may have by now."""

    def covers(name: str, tabled: int | None) -> bool:
        asked = wanted[name].max_slices if name in wanted else tabled
        return tabled is None or (asked is not None and asked <= tabled)

    layers = {
        name: table for name, table in known.layers.items() if covers(name, table.spec.max_slices)
    }
    return replace(known, layers=layers)


def layer_weights_hash(module: nn.Module, specs: Mapping[str, LayerSpec]) -> str:
    """Return the hash of all layers' weights, kept ones included; biases do not count."""
    weights: dict[str, Any] = {}
    for name in specs:
        weights[name] = layer_at(module, name).weight
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
    device: torch.device,
    progress: ProgressCallback | None,
) -> ErrorTable:
    """Return the known table completed by the missing spectra."""
    layers = dict(known.layers)
    done, total = 0, len(missing)

    def enter(name: str, scheme: int, found: Spectra, slack: float) -> None:
        nonlocal done
        norm, curves = found
        old = layers.get(name)
        if old is None:
            old = empty_table(wanted[name], unit_exponent(weight_at(module, name)))
        layers[name] = with_scheme(old, scheme, norm, curves, slack)
        done += 1
        if progress is not None:
            progress(ProgressEvent("profile", done, total))

    worthwhile = []
    for name, scheme in missing:
        spec = wanted[name]
        if pair_params(spec.weight_shape, scheme, 1, 1, spec.groups) < spec.weight_params:
            worthwhile.append((name, scheme))
        else:
            enter(name, scheme, _NOTHING, 0.0)
    missing = worthwhile
    if device.type == "cuda":  # others, such as Apple's, have no float64
        missing = _on_device(module, wanted, missing, device, enter)
    _on_cpu(module, wanted, missing, enter)
    # A scheme may apply to none of a layer's axes; known tables of other schemes are kept.
    ordered = {name: layers[name] for name in [*wanted, *layers] if name in layers}
    return ErrorTable(known.weights_hash, ordered)


Spectra = tuple[float, Mapping[int, Curve]]
"""σ_1, and the curve of every k."""

_NOTHING: Spectra = (0.0, {})
"""The spectra of a layer that no pair makes smaller; they are never used."""

Enter = Callable[[str, int, Spectra, float], None]


def _on_cpu(
    module: nn.Module,
    wanted: Mapping[str, LayerSpec],
    missing: Sequence[tuple[str, int]],
    enter: Enter,
) -> None:
    """Compute spectra on all cores, beginning with the largest layers."""
    jobs: list[tuple[str, int, SpectraJob]] = []
    for name, scheme in missing:
        spec = wanted[name]
        matrix = _matrix(module, name, scheme)
        jobs.append((name, scheme, SpectraJob(matrix, slicings(spec, scheme), spec.groups)))
    jobs.sort(key=lambda entry: -entry[2].work)

    def finished(index: int) -> None:
        name, scheme, job = jobs[index]
        curves = job.curves()
        enter(name, scheme, (job.norm, curves), rounding_slack(wanted[name], scheme, curves[1]))

    weights = sum(parameter.nbytes for parameter in module.parameters())
    run_jobs([job for _, _, job in jobs], memory=working_memory(weights), on_done=finished)


def _on_device(
    module: nn.Module,
    wanted: Mapping[str, LayerSpec],
    missing: Sequence[tuple[str, int]],
    device: torch.device,
    enter: Enter,
) -> list[tuple[str, int]]:
    """Compute spectra on an accelerator, and return those that do not fit into its memory."""
    left: list[tuple[str, int]] = []
    for name, scheme in missing:
        spec = wanted[name]
        matrix = _matrix(module, name, scheme)
        try:
            norm, curves = device_spectra(
                matrix, slicings(spec, scheme), spec.groups, device=device
            )
        except torch.OutOfMemoryError:
            logger.info("%s does not fit into the memory of %s", name, device)
            left.append((name, scheme))
            continue
        enter(name, scheme, (norm, curves), rounding_slack(spec, scheme, curves[1]))
    return left


def _matrix(module: nn.Module, name: str, scheme: int) -> Tensor:
    """Return the folded weight of a layer, in the units of its table."""
    weight = weight_at(module, name)
    return fold(in_units(weight, unit_exponent(weight)), scheme)


def tabled_norm(table: LayerTable) -> float | None:
    """Return ‖W‖₂ in the paper's fold, in the table's units; None where the table lacks it.

    It lacks it where that fold was not requested, or allows no smaller pair.
    """
    return table.norms.get(OPERATOR) or None


def operator_norms(module: nn.Module, tables: ErrorTable, names: Iterable[str]) -> dict[str, float]:
    """Return ‖W‖₂ of layers in the paper's fold, in the units of their tables."""
    norms: dict[str, float] = {}
    for name in names:
        known = tabled_norm(tables.layers[name])
        if known is None:
            weight, groups = weight_at(module, name), tables.layers[name].spec.groups
            known = operator_norm(weight, groups, unit_exponent(weight))
        norms[name] = known
    return norms


class TrueErrors:
    """‖W − Ŵ‖₂ / ‖W‖₂ of options, computed when first needed and kept in the tables.

    Args:
        module: the network.
        tables: error tables of its layers.
        progress: called after every batch, with the task `refine`.
    """

    def __init__(
        self,
        module: nn.Module,
        tables: ErrorTable,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.tables = tables
        self._computed = 0
        self._progress = progress
        self._module = module

    @cached_property
    def _errors(self) -> ExactErrors:
        groups = {name: layer.spec.groups for name, layer in self.tables.layers.items()}
        return ExactErrors(lambda name, scheme: _matrix(self._module, name, scheme), groups)

    def __call__(self, options: Sequence[tuple[str, Choice]]) -> list[float]:
        """Return the relative errors of (layer, choice); every choice must be in the tables."""
        rows = [self._row(name, choice) for name, choice in options]
        missing = [
            (option, row)
            for option, row in zip(options, rows, strict=True)
            if np.isnan(self.tables.layers[option[0]].exact[row])
        ]
        if missing:
            self._compute(missing)
        return [
            self._relative(name, choice, row)
            for (name, choice), row in zip(options, rows, strict=True)
        ]

    def _row(self, name: str, choice: Choice) -> int:
        row = self.tables.layers[name].row(choice)
        if row is None:
            raise KeyError(f"{name}: {choice} is not tabled")
        return row

    def _compute(self, missing: Sequence[tuple[tuple[str, Choice], int]]) -> None:
        """Compute all missing errors at once."""
        found = self._errors.batch((name, c.scheme, c.k, c.j) for (name, c), _ in missing)
        layers = dict(self.tables.layers)
        for name in {option[0] for option, _ in missing}:
            positions = [at for at, (option, _) in enumerate(missing) if option[0] == name]
            rows, values = [missing[at][1] for at in positions], [found[at] for at in positions]
            layers[name] = with_exact(layers[name], rows, values)
        self.tables = replace(self.tables, layers=layers)
        self._computed += len(missing)
        if self._progress is not None:
            self._progress(ProgressEvent("refine", self._computed, self._computed))

    def _relative(self, name: str, choice: Choice, row: int) -> float:
        table = self.tables.layers[name]
        norm = table.norms[choice.scheme]
        return min(float(table.exact[row]) / norm, 1.0) if norm > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """Error tables of a network; `computed` is False where all came from the cache.

    `path` is the file that holds them, None where there is none.
    """

    network: Network
    table: ErrorTable
    specs: Mapping[str, LayerSpec]
    computed: bool
    path: Path | None
    seconds: Mapping[str, float]

    def slicings(self, name: str) -> dict[tuple[int, int], int]:
        """Return the number of tabled ranks for each (scheme, k) of a layer."""
        layer = self.table.layers.get(name)
        rows = [] if layer is None else layer.choices[:, :2].tolist()
        return dict(Counter((scheme, k) for scheme, k in rows))


def profile(options: ProfileOptions) -> ProfileResult:
    """Compute a network's error tables, or find them in the cache.

    Raises:
        AldsError: the model cannot be read, or the table cannot be written or would replace it.
    """
    clock = Clock()
    schemes = method_named(options.method).schemes
    where = pick_device(options.device)
    model, output = options.model, options.output
    if output is not None:
        require_target(output)
        require_apart([output], [model] if isinstance(model, (str, Path)) else [])
    with clock("load"):
        network = open_network(model, options.source, multiply_back=True)
        specs = find_layers(network.module, trace_network(network))
    with clock("profile"):
        table, computed = error_tables(
            network.module,
            specs,
            schemes=schemes,
            cache=options.cache,
            device=where,
            progress=options.progress,
        )
    if output is not None:
        write_table(table, Path(output))
    path = Path(output) if output is not None else cache_path(table.weights_hash)
    held = output is not None or (options.cache and path.exists())
    return ProfileResult(network, table, specs, computed, path if held else None, clock.seconds)
