"""The one table of every method.

A method maps error tables and a budget to a plan; it never sees a network. Each one has a module
here with an entry, `METHOD`, that states what it is and where it comes from, what it must know of
images, and how the factors of its pairs are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from alds_cli.architectures.naming import parse_argument
from alds_cli.errors import OptionError
from alds_cli.methods.custom import custom_method
from alds_cli.methods.factorisation import Factorisation, Factors, FactorTask
from alds_cli.methods.method import Method, Planner
from alds_cli.records import ArgumentValue

__all__ = [
    "METHODS",
    "FactorTask",
    "Factorisation",
    "Factors",
    "Method",
    "Planner",
    "factorisation_for",
    "method_named",
    "parse_method_spec",
    "schemes_of",
]


class MethodTable(Mapping[str, Method]):
    """Methods by name; a method's module is imported when its entry is requested.

    Args:
        modules: the module of each name, in this package.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> Method:
        """Return the entry of a method."""
        entry: Method = import_module(f"{__name__}.{self._modules[name]}").METHOD
        return entry

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a method, without importing anything."""
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names."""
        return iter(self._modules)

    def __len__(self) -> int:
        """Return the number of methods."""
        return len(self._modules)


METHODS = MethodTable(
    {
        "alds": "alds",
        "alds+": "alds_plus",
        "alds-error": "alds_error",
        "svd-error": "svd_error",
        "alds-simple": "alds_simple",
        "svd": "svd",
        "svd-energy": "svd_energy",
        "l-rank": "l_rank",
        "messi": "messi",
        "pca": "pca",
        "ft": "ft",
        "pfp": "pfp",
    }
)


def method_named(name: str) -> Method:
    """Look a method up; `package.module:object` names a user-defined one.

    Raises:
        OptionError: there is no method of that name.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return custom_method(name)
    raise OptionError(
        f"unknown method '{name}'",
        tip=f"choose from {', '.join(METHODS)}, or name one of your own: package.module:object",
    )


def schemes_of(method: Method, arguments: Mapping[str, ArgumentValue]) -> tuple[int, ...]:
    """Return the folding schemes to tabulate: with an argument `scheme`, that one and scheme 0."""
    scheme = arguments.get("scheme")
    if scheme in method.schemes:
        return tuple(sorted({0, int(scheme)}))
    return method.schemes


def parse_method_spec(text: str) -> tuple[str, dict[str, ArgumentValue]]:
    """Parse a method and its arguments from one word: `name` or `name:key=value:key=value`.

    Raises:
        OptionError: an argument is malformed or given twice.
    """
    parts = text.split(":")
    given = [part for part in parts if "=" in part]
    name = ":".join(part for part in parts if "=" not in part)
    arguments = dict(parse_argument(part, f"the method {name}") for part in given)
    if len(arguments) < len(given):
        raise OptionError(f"the method {text} has an argument twice", tip="give each once")
    return name, arguments


def factorisation_for(method: Method | None, scheme: int) -> Factorisation:
    """Return the method's own factorisation where it makes pairs of that scheme.

    Otherwise return that of the first method in the table that does and needs no images.

    Args:
        method: the entry of the method that made the plan; None where it has none.
        scheme: the scheme of the choice.
    """
    if method is not None and scheme in method.factorisation.schemes:
        return method.factorisation
    return next(
        known.factorisation
        for known in METHODS.values()
        if not known.needs and scheme in known.factorisation.schemes
    )
