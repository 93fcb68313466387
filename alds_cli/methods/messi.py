"""MESSI: the columns of every layer in k clusters, with the same compression ratio in all.

This is ALDS-Simple with the columns clustered by the subspaces near them, instead of cut into
slices of neighbouring channels. The clusters are determined when the plan is carried out; the cost
does not depend on them.

Source: Maalouf, Lang, Feldman, Rus, ICLR 2021, https://openreview.net/forum?id=EQfpYwF3-b; in the
form of the comparison in Liebenwein et al., NeurIPS 2021, supplement A.2 and C.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from alds_cli.allocation import LayerOptions, Problem
from alds_cli.errors import OptionError
from alds_cli.methods.equalising import constant_ratio, slices_asked
from alds_cli.methods.method import ALDS_PAPER, Factors, FactorTask, Method
from alds_cli.numerics.clustering.clustered_factors import (
    cluster_factors,
    clustering_bytes,
    largest_rank,
)
from alds_cli.numerics.clustering.subspaces import DEFAULT_STARTS, DISTANCES
from alds_cli.numerics.fold import fold, folded_shape, option_costs, rank_params
from alds_cli.records import (
    CLUSTERED,
    ArgumentValue,
    Choice,
    IntArray,
    LayerSpec,
    Plan,
)
from alds_cli.surgery import form_of

ARGUMENTS: Mapping[str, ArgumentValue] = MappingProxyType(
    {"k": 3, "distance": DISTANCES[0], "starts": DEFAULT_STARTS}
)
"""`k`: number of clusters; `distance`: the distance summed over the columns; `starts`: number of
starts of the search for clusters, of which the best result is kept."""

_MOST_STARTS = 1000


def plan(problem: Problem) -> Plan:
    """Remove the same fraction of every layer, in `k` clusters.

    Layers whose columns cannot be clustered, or number no more than k, are kept.

    Raises:
        OptionError: an argument makes no sense.
        ValueError: the budgets cannot be met.
    """
    k = slices_asked(problem.arguments)
    clustering_options(problem.arguments)
    layers = [_options(problem, table.spec, k) for table in problem.tables]
    return constant_ratio(problem, layers, "messi")


def clustering_options(arguments: Mapping[str, ArgumentValue]) -> tuple[str, int]:
    """Return the arguments `distance` and `starts`, with defaults where they are not given.

    Raises:
        OptionError: one of them makes no sense.
    """
    distance = arguments.get("distance", ARGUMENTS["distance"])
    if distance not in DISTANCES:
        raise OptionError(
            f"unknown distance '{distance}'", tip=f"choose from {', '.join(DISTANCES)}"
        )
    starts = arguments.get("starts", ARGUMENTS["starts"])
    if type(starts) is not int or not 1 <= starts <= _MOST_STARTS:
        raise OptionError(
            f"clusters are sought from 1 to {_MOST_STARTS:,} starts, not {starts}", tip="starts=6"
        )
    return str(distance), starts


def _options(problem: Problem, spec: LayerSpec, k: int) -> LayerOptions:
    """Return the ranks of k clusters that shrink a layer, and keeping it, cheapest first."""
    choices = _choices(spec, k, problem.rank_multiple)
    errors = np.zeros(len(choices))  # not used by `constant_ratio`
    if problem.prices is None:
        costs = option_costs(spec, choices)
        costs[choices[:, 1] == 0] = spec.weight_params
        return LayerOptions(spec.name, costs[:, None], errors, choices)
    priced = problem.prices(spec, choices)
    return LayerOptions(spec.name, priced, errors, choices).subset(np.all(priced >= 0, axis=1))


def _choices(spec: LayerSpec, k: int, rank_multiple: int) -> IntArray:
    """Return the choices (n, 3), the last of which is zeros for keeping the layer."""
    rows, columns = folded_shape(spec.weight_shape, CLUSTERED)
    # With as many clusters as columns, no pair is smaller than the layer.
    shrinking = (spec.weight_params - 1) // rank_params(rows, columns, k)
    most = min(largest_rank(rows, columns, k), shrinking)
    if spec.reason is not None or form_of(CLUSTERED).reason_against(spec) is not None:
        most = 0
    ranks = np.arange(rank_multiple, most + 1, rank_multiple)
    pairs = np.stack([np.full_like(ranks, CLUSTERED), np.full_like(ranks, k), ranks], axis=1)
    return np.concatenate([pairs, np.zeros((1, 3), np.int64)])


class ProjectiveClustering:
    """Clustering of the columns by subspaces, and projection of each cluster on its own.

    See `factorisation.Factorisation`.
    """

    schemes = (CLUSTERED,)
    tabled = False

    def complaint(self, choice: Choice) -> str | None:
        """Return None: every number of clusters is possible."""
        del choice
        return None

    def nbytes(self, task: FactorTask) -> int:
        """Return the approximate bytes of the points, a Gram matrix and the subspaces."""
        rows, channels, width = fold(task.weight, CLUSTERED).shape
        return clustering_bytes(rows, channels * width, task.choice.k, task.choice.j)

    def __call__(self, task: FactorTask) -> Factors:
        """Cluster with the plan's seed, and project."""
        distance, starts = clustering_options(task.arguments)
        found = cluster_factors(
            fold(task.weight, CLUSTERED),
            task.choice.k,
            task.choice.j,
            seed=task.seed,
            distance=distance,
            starts=starts,
            dtype=task.weight.dtype,
        )
        return Factors((found.first, found.second, found.order, found.sizes))


METHOD = Method(
    "the columns of every layer in k clusters by subspace, the same ratio in all",
    "Maalouf, Lang, Feldman, Rus, ICLR 2021, https://openreview.net/forum?id=EQfpYwF3-b; "
    f"{ALDS_PAPER}, supplement C.3",
    plan,
    arguments=ARGUMENTS,
    checks=(slices_asked, clustering_options),
    seeded=True,
    targets=("params", "macs", "bytes"),
    factorisation=ProjectiveClustering(),
)
