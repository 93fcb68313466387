"""Options with the number of slices fixed."""

from __future__ import annotations

from collections.abc import Mapping

from alds_cli.allocation import LayerOptions, Problem
from alds_cli.errors import OptionError
from alds_cli.numerics.costs import divisors
from alds_cli.records import ArgumentValue, LayerSpec

_MOST_SLICES = 2**20
"""More channels than any layer has."""


def nearest_slices(spec: LayerSpec, k: int) -> int:
    """The number of slices nearest to k that a layer can have; of two, the smaller.

    Slices are equally wide, so it divides the channels of a group.
    """
    most = spec.max_slices or spec.in_channels
    possible = [own for own in divisors(spec.in_channels // spec.groups) if own <= most]
    return min(possible, key=lambda own: (abs(own - k), own))


def sliced_options(problem: Problem, bound: str, k: int) -> list[LayerOptions]:
    """What becomes of every layer in k slices, or the nearest number of them: scheme 0."""
    return [
        own.subset((own.choices[:, 1] == 0) | (own.choices[:, 1] == nearest_slices(table.spec, k)))
        for own, table in zip(problem.options(bound), problem.tables, strict=True)
    ]


def slices_asked(arguments: Mapping[str, ArgumentValue]) -> int:
    """The argument `k`.

    Raises:
        OptionError: it is no positive whole number.
    """
    k = arguments["k"]
    if type(k) is not int or not 1 <= k <= _MOST_SLICES:
        raise OptionError(
            f"a layer has 1 to {_MOST_SLICES:,} slices or clusters, not {k}", tip="--k 3"
        )
    return k
