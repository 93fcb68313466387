"""Error tables of a network, computed or found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alds_cli.checkpoint import cache_path, require_apart, write_table
from alds_cli.methods import method_named
from alds_cli.network.loading import Network
from alds_cli.network.opening import (
    AS_IT_IS,
    Model,
    Source,
    open_network,
    require_target,
    trace_network,
)
from alds_cli.profiling import error_tables
from alds_cli.records import ErrorTable, LayerSpec, ProgressCallback
from alds_cli.runtime.devices import Clock, pick_device
from alds_cli.surgery import find_layers


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
        """How many ranks are tabled for each (scheme, k) of a layer."""
        layer = self.table.layers.get(name)
        rows = [] if layer is None else layer.choices[:, :2].tolist()
        return dict(Counter((scheme, k) for scheme, k in rows))


def profile(
    model: Model,
    source: Source = AS_IT_IS,
    *,
    method: str = "alds",
    output: str | Path | None = None,
    cache: bool = True,
    device: str | None = None,
    progress: ProgressCallback | None = None,
) -> ProfileResult:
    """Compute a network's error tables, or find them in the cache.

    Args:
        model: the network; pairs of an artefact are multiplied back first.
        source: how to read its file.
        method: whose folding schemes to cover.
        output: a file to write the table to as well.
        cache: use the cache in the user's folder.
        device: where to compute; None is CUDA where present.
        progress: told how far it is.

    Raises:
        AldsError: the model cannot be read, or the table not be written, or only over it.
    """
    clock = Clock()
    schemes = method_named(method).schemes
    where = pick_device(device)
    if output is not None:
        require_target(output)
        require_apart([output], [model] if isinstance(model, (str, Path)) else [])
    with clock("load"):
        network = open_network(model, source, multiply_back=True)
        specs = find_layers(network.module, trace_network(network))
    with clock("profile"):
        table, computed = error_tables(
            network.module,
            specs,
            schemes=schemes,
            cache=cache,
            device=where,
            progress=progress,
        )
    if output is not None:
        write_table(table, Path(output))
    path = Path(output) if output is not None else cache_path(table.weights_hash)
    held = output is not None or (cache and path.exists())
    return ProfileResult(network, table, specs, computed, path if held else None, clock.seconds)
