"""What became of a network and of its layers as an HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from alds_cli.checkpoint import plan_text
from alds_cli.inspecting.inspection import Inspection
from alds_cli.inspecting.layer_words import became
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import LayerReport
from alds_cli.reporting.figures import Picture
from alds_cli.reporting.html.elements import (
    Html,
    command,
    element,
    facts,
    figures,
    page,
    section,
    share,
    spread,
    table,
)
from alds_cli.text import count, extents, signed, size


def compression_page(
    found: Inspection, pictures: Sequence[Picture], environment: Mapping[str, str]
) -> bytes:
    """Return what is known of a network as one page.

    Args:
        found: the network, its layers and their costs.
        pictures: pictures to show in it, which have an SVG.
        environment: what the page was made with.
    """
    network, name = found.network, PurePath(found.network.name).name
    changed = sum(_changed(layer) for layer in found.layers)
    said = f"{changed} of {len(found.layers)} layers changed" if changed else "as it was trained"
    parts = [
        section("Costs", _costs(found)),
        section("Layers", _layers(found)),
    ]
    if pictures:
        parts.append(section("Pictures", *figures(pictures)))
    if changed:
        parts.append(section("How to make this again", *_again(found)))
    parts.append(section("The file", facts(_file(found))))
    parts.append(section("What this page was made with", facts(environment)))
    return page(name, f"{network.architecture or 'a network'}: {said}", *parts)


def _changed(layer: LayerReport) -> bool:
    return layer.choice is not None or layer.kept is not None


def _costs(found: Inspection) -> Html:
    rows = [
        _cost("parameters", found.params_before, found.params),
        _cost("MACs of one sample", found.macs_before, found.macs),
    ]
    if times := found.times:
        before, after = times.before.median_ms, times.after.median_ms
        told = (spread(times.before), spread(times.after), _change(before, after))
        rows.append((f"forward pass on {times.device}", *told))
    return table(("", "before", "after", "change"), rows)


def _cost(name: str, before: int | None, after: int | None) -> tuple[str, str, str, str]:
    return name, count(before), count(after), _change(before, after)


def _change(before: float | None, after: float | None) -> str:
    if not before or after is None:
        return "–"
    return f"{signed(100 * (after / before - 1), '.2f')} %"


def _layers(found: Inspection) -> Html:
    """Return a table with a row per layer: what became of it, and what it costs."""
    timed = found.times is not None
    erring = any(layer.error for layer in found.layers)
    costs = ("parameters", "MACs", *(("ms",) if timed else ()))
    headings = [f"{cost} {when}" for cost in costs for when in ("before", "after")]
    errors = ("error",) if erring else ()
    rows = [
        (
            layer.name,
            became(layer),
            extents(layer.shape),
            share(layer.params_after / layer.params_before if layer.params_before else 1.0),
            *_both(count(layer.params_before), count(layer.params_after)),
            *_macs(found, layer),
            *_ms(found, layer),
            *([_error(layer)] if erring else []),
        )
        for layer in found.layers
    ]
    names = ("layer", "becomes", "weight", "what is left")
    return table((*names, *headings, *errors), rows, names=len(names))


def _macs(found: Inspection, layer: LayerReport) -> tuple[str, str]:
    macs = found.layer_macs[layer.name]
    return _both(count(macs.before), count(macs.after))


def _ms(found: Inspection, layer: LayerReport) -> tuple[str, ...]:
    if found.times is None:
        return ()
    time = found.times.layers.get(layer.name)
    return ("–", "–") if time is None else _both(f"{time.before_ms:.3f}", f"{time.after_ms:.3f}")


def _both(before: str, after: str) -> tuple[str, str]:
    """Return a cost before and after; one that is what it was stays in the background."""
    return before, element("span", after, class_="same") if before == after else after


def _error(layer: LayerReport) -> str:
    return "" if layer.error is None or not _changed(layer) else f"{layer.error:.4f}"


def _again(found: Inspection) -> Iterator[Html]:
    """Yield the plan, and the command that carries it out on the original."""
    plan, output = found.network.plan, PurePath(found.network.name).name
    words = ["alds", "compress", "ORIGINAL", "--plan", "plan.json", "-o", output]
    yield element("p", "Save the plan below as plan.json, and carry it out on the original:")
    yield command(shlex.join(words))
    yield element(
        "details", element("summary", f"The plan ({plan.method})"), command(plan_text(plan))
    )


def _trained(settings: RetrainSettings) -> str:
    return f"{settings.epochs} epochs at lr {settings.lr:g}"


def _file(found: Inspection) -> dict[str, str]:
    network = found.network
    plan, training = network.plan, network.training
    how = [plan.method, *(f"{key}={value}" for key, value in plan.arguments.items())]
    how += [str(own) for own in (plan.solver, plan.bound) if own is not None]
    known = {
        "name": network.name,
        "size": size(network.nbytes),
        "network": str(network.architecture) if network.architecture else None,
        "inputs": str(network.inputs) if network.inputs else None,
        "planned by": " ".join(how) if plan.decomposed or plan.pruned else None,
        "trained": None if training is None else _trained(training.settings),
        "weights of the original": network.source_hash,
        "written by": ", ".join(f"{name} {own}" for name, own in found.versions.items()) or None,
    }
    return {name: value for name, value in known.items() if value is not None}
