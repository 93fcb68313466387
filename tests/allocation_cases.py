"""Random small allocation problems, and their answers by enumeration."""

from __future__ import annotations

import math

import numpy as np

from alds_cli.allocation import LayerOptions

TIED = (0.1, 0.2, 0.3)


def options(costs, errors, choices=None):
    """Make one layer's options; costs are a list of numbers or of one row per option."""
    costs = np.array(costs, dtype=np.int64)
    costs = costs[:, None] if costs.ndim == 1 else costs
    if choices is None:
        choices = [(0, 1, j) for j in range(1, len(costs) + 1)]
    return LayerOptions("l", costs, np.array(errors, dtype=np.float64), np.array(choices))


def random_layer(generator, resources, *, tied):
    """Draw curves over j for a few k, with the option that keeps the layer among them.

    The first resource's costs rise with j, as parameters do. The others' need not, and may
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
    """Draw up to four layers, and budgets between the least and the most possible costs."""
    problem = [random_layer(generator, resources, tied=tied) for _ in range(layers)]
    problem = problem[: generator.integers(1, layers + 1)]
    least = sum(layer.costs.min(axis=0) for layer in problem)
    most = sum(layer.costs.max(axis=0) for layer in problem)
    return problem, [int(generator.integers(a, b + 1)) for a, b in zip(least, most, strict=True)]


def cost_of(problem, chosen):
    return sum(layer.costs[index] for layer, index in zip(problem, chosen, strict=True))


def errors_of(problem, chosen):
    """Return the errors of a choice, from worst to best."""
    errors = (float(layer.errors[index]) for layer, index in zip(problem, chosen, strict=True))
    return sorted(errors, reverse=True)


def enumerated(problem, budgets):
    """Return the errors (m, layers) of all combinations within the budgets, each worst first."""
    grid = np.indices([len(layer.errors) for layer in problem]).reshape(len(problem), -1)
    pairs = list(zip(problem, grid, strict=True))
    fits = np.all(sum(layer.costs[at] for layer, at in pairs) <= budgets, axis=1)
    errors = np.stack([layer.errors[at] for layer, at in pairs], axis=1)[fits]
    return -np.sort(-errors, axis=1)


def least_errors(problem, budgets):
    """Return the lexicographic minimum of the errors, worst first; None if nothing fits."""
    errors = enumerated(problem, budgets)
    return errors[np.lexsort(errors.T[::-1])[0]].tolist() if len(errors) else None


def least_sum(problem, budgets):
    """Return the least sum of the errors, rounded once; None if nothing fits."""
    errors = enumerated(problem, budgets)
    if not len(errors):
        return None
    sums = errors.sum(axis=1)
    return min(math.fsum(row) for row in errors[sums <= sums.min() * (1 + 1e-12)].tolist())
