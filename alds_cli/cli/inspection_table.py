"""What `alds inspect` shows people of a network: its layers, and where their costs went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from alds_cli.cli.interface import Rows, line, table
from alds_cli.cli.rendering import spread
from alds_cli.inspecting.layer_words import became
from alds_cli.text import count, extents, removed, short_count, size

if TYPE_CHECKING:
    from alds_cli.api import Inspection
    from alds_cli.records import LayerReport


def inspection(found: Inspection) -> Group:
    """Show a model file's network, its layers and its costs."""
    return Group(*(line(text) for text in _facts(found)), _layers(found))


def _facts(found: Inspection) -> Iterator[str]:
    network = found.network
    changed = sum(layer.choice is not None or layer.kept is not None for layer in found.layers)
    yield f"{network.name}: {network.architecture}"
    yield f"{count(found.params)} parameters, {count(found.macs)} MACs, {size(network.nbytes)}"
    if changed:
        state = "have fewer channels" if network.plan.pruned else "are low-rank pairs"
        yield (
            f"{changed} of {len(found.layers)} layers {state}; {_gone(found)} removed "
            f"({network.plan.method})"
        )
    if network.training is not None:
        settings, verb = network.training.settings, "retrained" if changed else "trained"
        yield f"{verb} for {settings.epochs} epochs at lr {settings.lr:g}"
    if found.times is not None:
        before = f"; before {spread(found.times.before)}" if changed else ""
        yield f"forward pass on {found.times.device}: {spread(found.times.after)}{before}"


def _gone(found: Inspection) -> str:
    share = removed(found.params_before, found.params)
    params = f"{share} of {count(found.params_before)} parameters"
    if found.macs_before is None:
        return params
    macs = f"{removed(found.macs_before, found.macs)} of {count(found.macs_before)} MACs"
    return f"{params} and {macs}"


def _layers(found: Inspection) -> Rows:
    """Make a table with a row per layer: what became of it, and what it costs."""
    # Shapes and times side by side would be too wide for a terminal of 80 columns.
    named, last = ((), ("ms",)) if found.times else (("\nweight",), ())
    headings = [
        text for cost in ("params", "MACs", *last) for text in (f"{cost}\nbefore", "\nafter")
    ]
    made = table(None, "\nlayer", "\nbecomes", *named, *headings, left=2)
    for layer in found.layers:
        shape = () if found.times else (extents(layer.shape),)
        made.add_row(layer.name, became(layer), *shape, *_costs(found, layer))
    return made


def _costs(found: Inspection, layer: LayerReport) -> Iterator[str | Text]:
    macs = found.layer_macs[layer.name]
    yield from _both(short_count(layer.params_before), short_count(layer.params_after))
    yield from _both(short_count(macs.before), short_count(macs.after))
    if found.times is not None:
        time = found.times.layers.get(layer.name)
        yield from ("–", "–") if time is None else _both(_ms(time.before_ms), _ms(time.after_ms))


def _both(before: str, after: str) -> tuple[str, str | Text]:
    """Return a cost before and after; one that is what it was stays in the background."""
    return before, Text(after, style="dim") if before == after else after


def _ms(value: float) -> str:
    return f"{value:.3f}"
