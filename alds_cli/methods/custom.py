"""User-defined methods, written `package.module:object`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import Parameter, signature
from typing import Any

from alds_cli.allocation import InfeasibleError, Problem
from alds_cli.errors import AldsError, OptionError
from alds_cli.methods.method import Method
from alds_cli.records import ArgumentValue, Choice, Plan
from alds_cli.runtime.user_code import current_directory_importable, imported_object

_TIP = (
    "OBJECT in --method package.module:OBJECT is a function that takes a Problem and gives a Plan "
    "or a choice for every layer by name, or an alds_cli.methods.Method"
)


def custom_method(name: str) -> Method:
    """Return the method that the user's own code defines.

    Modules in the current directory can be imported while this runs, and only then.

    Raises:
        OptionError: the import fails, or the object is not a method.
    """
    with current_directory_importable():
        found = imported_object(name, OptionError, _TIP)
    if isinstance(found, Method):
        return found
    if isinstance(found, type) or not callable(found):
        raise OptionError(f"{name} is a {type(found).__name__}, not a method", tip=_TIP)
    return Method(
        summary=(found.__doc__ or name).partition("\n")[0],
        paper="the user's own",
        plan=partial(_planned, name, found),
        arguments=_keywords(name, found),
        seeded=True,
    )


def _keywords(name: str, function: Callable[..., Any]) -> Mapping[str, ArgumentValue]:
    """Return the function's keyword arguments with their defaults, which --method-arg may set."""
    first, *others = signature(function).parameters.values() or (None,)
    if first is None or first.kind is Parameter.KEYWORD_ONLY:
        raise OptionError(f"{name} takes no Problem", tip=_TIP)
    found: dict[str, ArgumentValue] = {}
    for parameter in others:
        if parameter.default is Parameter.empty:
            raise OptionError(
                f"{name}: its argument {parameter.name} has no default",
                tip="every argument after the Problem needs one",
            )
        found[parameter.name] = parameter.default
    return found


def _planned(name: str, function: Callable[..., Any], problem: Problem) -> Plan:
    """Call the function and check that it returns a plan."""
    try:
        with current_directory_importable():
            found = function(problem, **problem.arguments)
    except (AldsError, InfeasibleError):
        raise
    # The user's code may raise anything, and its traceback would not be this tool's.
    except Exception as error:
        raise OptionError(f"{name} failed: {type(error).__name__}: {error}") from error
    plan = found if isinstance(found, Plan) else _as_plan(name, found)
    return replace(plan, method=name, seed=problem.seed)


def _as_plan(name: str, found: object) -> Plan:
    if not isinstance(found, Mapping):
        raise OptionError(f"{name} gave a {type(found).__name__}, not a plan", tip=_TIP)
    for layer, choice in found.items():
        if choice is not None and not isinstance(choice, Choice):
            raise OptionError(f"{name}: {layer} became {choice!r}, which is no Choice", tip=_TIP)
    return Plan(dict(found))
