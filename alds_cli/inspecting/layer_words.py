"""What became of a layer, in words."""

from __future__ import annotations

from alds_cli.records import SCHEMES, LayerReport


def became(layer: LayerReport) -> str:
    """Describe in a few words what a layer is now."""
    choice = layer.choice
    if choice is not None:
        label = SCHEMES[choice.scheme].label
        return f"k = {choice.k}, j = {choice.j}" + (f", {label}" if label else "")
    if layer.kept is not None:
        nouns = ("filters", "inputs") if len(layer.shape) > 1 else ("features",)
        sides = zip((layer.kept.outputs, layer.kept.inputs), layer.shape, nouns, strict=False)
        return ", ".join(
            f"{len(left)} of {whole} {noun}" for left, whole, noun in sides if left is not None
        )
    return f"kept: {layer.reason}" if layer.reason else "dense"
