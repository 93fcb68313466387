"""Python functions that take the fields of an options class as arguments."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

from alds_cli.options.declaring import MISSING, Declared, Expanded, Keyword, declared

P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741 - an options class
R = TypeVar("R")


def takes_fields(options: Callable[P, O]) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Return a decorator that gives a function of an options object its fields as arguments.

    Type checkers, `inspect.signature` and `help` see the arguments with their defaults, and the
    docstring describes each of them. The function raises TypeError for an unknown argument.

    Args:
        options: the class of the options.
    """
    kind = cast("type[Any]", options)

    def decorate(function: Callable[[O], R]) -> Callable[P, R]:
        return cast("Callable[P, R]", _calling(function, kind, declared(kind), {}))

    return decorate


def takes_several(
    options: Callable[P, O], field: str
) -> Callable[[Callable[[O], R]], Callable[..., R]]:
    """Return a decorator like `takes_fields`, in which one field is plural and required.

    Args:
        options: the class of the options.
        field: the field of which the caller gives several values, under its name in the plural.
    """
    kind = cast("type[Any]", options)
    plural = f"{field}s"
    several = {"name": plural, "kind": "Sequence", "default": MISSING}
    fields = [
        dataclasses.replace(each, **several) if each.name == field else each
        for each in declared(kind)
    ]

    def decorate(function: Callable[[O], R]) -> Callable[..., R]:
        return _calling(function, kind, fields, {plural: field})

    return decorate


def _calling(
    function: Callable[[O], R], kind: type[Any], fields: list[Declared], renamed: dict[str, str]
) -> Callable[..., R]:
    signature = inspect.Signature([_parameter(entry) for entry in fields])

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> R:
        _require_known(function.__name__, signature, keywords)
        try:
            bound = signature.bind(*arguments, **keywords).arguments
        except TypeError as error:
            raise TypeError(f"{function.__name__}(): {error}") from None
        return function(kind(**{renamed.get(name, name): value for name, value in bound.items()}))

    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__doc__ = _documented(function.__doc__ or "", fields)
    return call


def _parameter(entry: Declared) -> inspect.Parameter:
    kind = inspect.Parameter
    return inspect.Parameter(
        entry.name,
        kind.POSITIONAL_OR_KEYWORD if entry.positional else kind.KEYWORD_ONLY,
        default=kind.empty if entry.default is MISSING else entry.default,
        annotation=entry.kind,
    )


def _require_known(name: str, signature: inspect.Signature, keywords: dict[str, Any]) -> None:
    for keyword in keywords:
        if keyword not in signature.parameters:
            near = difflib.get_close_matches(keyword, signature.parameters, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; help({name}) lists those it has"
            raise TypeError(f"{name}() has no argument '{keyword}'{hint}")


def _documented(text: str, fields: list[Declared]) -> str:
    """Insert the arguments into a docstring, before the errors raised."""
    clean = inspect.cleandoc(text)
    head, raises, tail = clean.partition("Raises:")
    told = "\n".join(line for entry in fields for line in _told(entry))
    return f"{head.rstrip()}\n\nArgs:\n{told}\n" + (f"\n{raises}{tail}" if raises else "")


def _told(entry: Declared) -> Iterator[str]:
    yield textwrap.fill(
        f"{entry.name}: {_in_python(entry)}",
        width=96,
        initial_indent="    ",
        subsequent_indent="        ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _in_python(entry: Declared) -> str:
    """Return the help of an argument, with options of the command line named as arguments."""
    mark = entry.mark
    if isinstance(mark, (Keyword, Expanded)):
        return mark.help
    if mark.python is not None:
        return mark.python
    plain = mark.help.replace("\\[", "[").removesuffix(" Repeatable.")
    return re.sub(r"--([a-z][a-z-]+)", lambda flag: f"`{flag[1].replace('-', '_')}`", plain)
