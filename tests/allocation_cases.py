"""Random small allocation problems, and their answers by enumeration."""

from __future__ import annotations

import math

import numpy as np

from alds_cli.allocation import LayerOptions

TIED = (0.1, 0.2, 0.3)


def options(costs, errors, choices=None):
    """One layer's options; costs may be a list of numbers or of one row per option."""
    costs = np.array(costs, dtype=np.int64)
    costs = costs[:, None] if costs.ndim == 1 else costs
    if choices is None:
        choices = [(0, 1, j) for j in range(1, len(costs) + 1)]
    return LayerOptions("l", costs, np.array(errors, dtype=np.float64), np.array(choices))


def random_layer(generator, resources, *, tied):
    """Curves over j for a few k, with the option that keeps the layer somewhere among them.

    The first resource's costs rise with j, as parameters do; the others' need not, and may
    exceed those of keeping the layer, as measured times may.
    """
    keep = generator.integers(2, 30)
    rows = [((keep, *generator.integers(0, 20, resources - 1)), 0.0, (0, 0, 0))]
    for k in range(1, generator.integers(1, 4) + 1):
        unit, ranks = generator.integers(1, 7), generator.integers(0, 4)
        drawn = generator.choice(TIED, ranks) if tied else generator.random(ranks)
        falling = np.sort(drawn)[::-1] * 10.0 ** (0 if tied else generator.integers(-8, 1))
        for j, error in enumerate(falling, start=1):
            if unit * j < keep:
                others = generator.integers(0, 20, resources - 1)
                rows.append(((unit * j, *others), float(error), (0, k, j)))
    generator.shuffle(rows)
    return options(*zip(*rows, strict=True))


def random_problem(generator, resources=1, *, tied=False, layers=4):
    """Up to four layers, and budgets between the least and the most that can be taken."""
    problem = [random_layer(generator, resources, tied=tied) for _ in range(layers)]
    problem = problem[: generator.integers(1, layers + 1)]
    least = sum(own.costs.min(axis=0) for own in problem)
    most = sum(own.costs.max(axis=0) for own in problem)
    return problem, [int(generator.integers(a, b + 1)) for a, b in zip(least, most, strict=True)]


def cost_of(problem, chosen):
    return sum(own.costs[index] for own, index in zip(problem, chosen, strict=True))


def errors_of(problem, chosen):
    """From worst to best."""
    own = (float(own.errors[index]) for own, index in zip(problem, chosen, strict=True))
    return sorted(own, reverse=True)


def enumerated(problem, budgets):
    """The errors (m, layers) of every combination within all budgets, worst first in each."""
    grid = np.indices([len(own.errors) for own in problem]).reshape(len(problem), -1)
    pairs = list(zip(problem, grid, strict=True))
    fits = np.all(sum(own.costs[at] for own, at in pairs) <= budgets, axis=1)
    errors = np.stack([own.errors[at] for own, at in pairs], axis=1)[fits]
    return -np.sort(-errors, axis=1)


def least_errors(problem, budgets):
    """The lexicographic minimum of the errors, worst first; None where nothing fits."""
    errors = enumerated(problem, budgets)
    return errors[np.lexsort(errors.T[::-1])[0]].tolist() if len(errors) else None


def least_sum(problem, budgets):
    """The least sum of the errors, rounded once; None where nothing fits."""
    errors = enumerated(problem, budgets)
    if not len(errors):
        return None
    sums = errors.sum(axis=1)
    return min(math.fsum(own) for own in errors[sums <= sums.min() * (1 + 1e-12)].tolist())
