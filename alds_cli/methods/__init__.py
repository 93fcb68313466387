"""The one table of every method.

A method sees error tables and a budget and gives a plan; it never sees a network. Each has a
module of its own here with an entry, `METHOD`, that says what it is and where it comes from, what
it must know of images, and how the factors of its pairs are made.
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
    """Methods by name. A method's module is imported when its entry is asked for.

    Args:
        modules: the module of each name, in this package.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> Method:
        """The entry of a method."""
        entry: Method = import_module(f"{__name__}.{self._modules[name]}").METHOD
        return entry

    def __contains__(self, name: object) -> bool:
        """Whether there is such a method; nothing is imported to find out."""
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        """All names."""
        return iter(self._modules)

    def __len__(self) -> int:
        """How many there are."""
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
    """Look a method up; `package.module:object` is one of the user's own.

    Raises:
        OptionError: there is none of that name.
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
    """The folding schemes to tabulate: with an argument `scheme`, that and scheme 0."""
    scheme = arguments.get("scheme")
    if scheme in method.schemes:
        return tuple(sorted({0, int(scheme)}))
    return method.schemes


def parse_method_spec(text: str) -> tuple[str, dict[str, ArgumentValue]]:
    """A method and its arguments in one word: `name`, `name:key=value:key=value`.

    Raises:
        OptionError: an argument has no such form, or is given twice.
    """
    parts = text.split(":")
    given = [part for part in parts if "=" in part]
    name = ":".join(part for part in parts if "=" not in part)
    arguments = dict(parse_argument(part, f"the method {name}") for part in given)
    if len(arguments) < len(given):
        raise OptionError(f"the method {text} has an argument twice", tip="give each once")
    return name, arguments


def factorisation_for(method: Method | None, scheme: int) -> Factorisation:
    """What makes the factors of a pair: the method's own where it knows pairs of that scheme.

    Else that of the first method in the table which does, and looks at no images.

    Args:
        method: the entry of the method that made the plan; None where it has none.
        scheme: of the choice.
    """
    if method is not None and scheme in method.factorisation.schemes:
        return method.factorisation
    return next(
        own.factorisation
        for own in METHODS.values()
        if not own.needs and scheme in own.factorisation.schemes
    )
