"""The one table of every method.

A method maps error tables and a budget to a plan; it never sees a network. Each one has a module
here with an entry, `METHOD`, that states what it is and where it comes from, what it must know of
images, and how the factors of its pairs are made.
"""

from __future__ import annotations

from alds_cli.methods.method import (
    METHODS,
    Factorisation,
    Factors,
    FactorTask,
    Method,
    Planner,
    factorisation_for,
    method_named,
    schemes_of,
)

__all__ = [
    "METHODS",
    "FactorTask",
    "Factorisation",
    "Factors",
    "Method",
    "Planner",
    "factorisation_for",
    "method_named",
    "schemes_of",
]
