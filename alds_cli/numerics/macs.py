"""Multiply-accumulates of a pair, in closed form from what the layer itself was given.

Each half's weights are applied at every position of its output, a transposed
convolution's at every position of its input. A half keeps the extents of the axes it does
not carry, so that the shapes of the layer's input and output tell those of all halves.
"""

from __future__ import annotations

from math import prod

from alds_cli.numerics.calls import LayerCall, Shape
from alds_cli.numerics.fold import carried_by_second, folded_shape
from alds_cli.records import Choice, LayerSpec


def pair_macs(spec: LayerSpec, call: LayerCall, choice: Choice) -> int:
    """Multiply-accumulates of a pair in the layer's place, all calls together.

    Args:
        spec: the layer.
        call: how a forward pass called it.
        choice: scheme, k and j.
    """
    first, second = mac_prices(spec, call, choice.scheme)
    return choice.j * (first + choice.k * second)


def mac_prices(spec: LayerSpec, call: LayerCall, scheme: int) -> tuple[int, int]:
    """(a, b) such that a pair with k slices of rank j takes j·(a + k·b) multiply-accumulates.

    The counterpart of j·(g·columns + k·rows) parameters: each weight counts as often as
    it is applied, to one sample, in all calls of the layer together.
    """
    if spec.kind == "linear":
        # What came out counts the rows applied, which a packed projection may split.
        first = spec.in_channels * sum(prod(inside[:-1]) for inside, _ in call.shapes)
        return first, sum(prod(out) for _, out in call.shapes)
    rows, columns = folded_shape(spec.weight_shape, scheme)
    applied = [_positions(spec, inside, out, scheme) for inside, out in call.shapes]
    return (
        spec.groups * columns * sum(first for first, _ in applied),
        rows * sum(second for _, second in applied),
    )


def _positions(spec: LayerSpec, inside: Shape, out: Shape, scheme: int) -> tuple[int, int]:
    """At how many positions the weights of the first and of the second half are applied."""
    spatial = len(spec.kernel)
    batch = prod(inside[: -spatial - 1])
    before, after = inside[-spatial:], out[-spatial:]
    in_second = carried_by_second(spatial, scheme)
    between = prod(
        extent if later else made
        for extent, made, later in zip(before, after, in_second, strict=True)
    )
    if spec.kind.startswith("conv_transpose"):
        return batch * prod(before), batch * between
    return batch * between, batch * prod(after)
