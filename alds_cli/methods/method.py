"""What a method is: its entry in the table, how it makes factors, and methods of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from alds_cli.allocation import InfeasibleError, Problem
from alds_cli.allocation.channel_pruning import PruningProblem, Removal
from alds_cli.errors import AldsError, OptionError
from alds_cli.numerics.fold import factors_to_weights, fold
from alds_cli.numerics.grams import low_rank_factors
from alds_cli.options.choices import METHOD_NAMES
from alds_cli.options.readers import require_method
from alds_cli.records import SLICED, ArgumentValue, Choice, LayerSpec, Plan
from alds_cli.runtime.user_code import current_directory_importable, imported_object

if TYPE_CHECKING:
    from alds_cli.calibration import Statistic


@dataclass(frozen=True, slots=True)
class FactorTask:
    """One layer that becomes a pair, with everything that its factors may be made from.

    Attributes:
        spec: the layer.
        choice: scheme, k and j of the pair.
        weight: the layer's weight, (f, c/g, κ…), in its own type; not to be changed.
        bias: the layer's bias, (f,), or None.
        seed: the plan's seed, for everything random.
        arguments: the method's arguments, where they differ from the defaults.
        statistics: the statistics of the layer's behaviour on images that the method needs, by
            the names in its `Method.needs`.
    """

    spec: LayerSpec
    choice: Choice
    weight: Tensor
    bias: Tensor | None = None
    seed: int = 0
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Factors:
    """The tensors and the constant that replace a layer.

    Attributes:
        tensors: the halves' weights, with the shapes of `numerics.fold.pair_shapes` and rounded to
            the layer's type, then whatever else the pair's form holds.
        constant: a constant in float64 to add to the layer's output in evaluation mode, (f,); None
            where there is none.
        absorber: the module that takes the constant: the layer itself into its bias, or a batch
            normalisation into its running mean.
    """

    tensors: tuple[Tensor, ...]
    constant: Tensor | None = None
    absorber: str | None = None


class Factorisation(Protocol):
    """A way to make the factors of pairs, called for one pair after another on several threads."""

    @property
    def schemes(self) -> Sequence[int]:
        """The schemes of the pairs that it makes."""
        ...

    @property
    def tabled(self) -> bool:
        """Whether its factors are those of the error tables, so that the tables' bounds hold."""
        ...

    def complaint(self, choice: Choice) -> str | None:
        """Return why it cannot make such a pair; None where it can."""
        ...

    def nbytes(self, task: FactorTask) -> int:
        """Return the approximate bytes of memory that making the factors takes."""
        ...

    def __call__(self, task: FactorTask) -> Factors:
        """Make the factors on the CPU: the same bits for the same task, on one BLAS thread."""
        ...


class SvdOfSlices:
    """The best approximation of every slice, by its singular value decomposition."""

    schemes = SLICED
    tabled = True

    def complaint(self, choice: Choice) -> str | None:
        """Return None: every slice has singular vectors."""
        del choice
        return None

    def nbytes(self, task: FactorTask) -> int:
        """Return the approximate bytes of a Gram matrix of the layer and its eigenvectors."""
        rows, channels, width = fold(task.weight, task.choice.scheme).shape
        return 3 * 8 * min(rows // task.spec.groups, channels * width) ** 2

    def __call__(self, task: FactorTask) -> Factors:
        """Fold the weight and decompose it slice by slice."""
        weight, choice, groups = task.weight, task.choice, task.spec.groups
        matrix = fold(weight, choice.scheme)
        left, right = low_rank_factors(matrix, choice.k, choice.j, weight.dtype, groups)
        shape = tuple(weight.shape)
        return Factors(factors_to_weights(left, right, shape, choice.scheme, groups))


Planner = Callable[[Problem], Plan]
"""Maps error tables, prices and budgets to a plan; raises ValueError where the budgets cannot be
met."""

Pruner = Callable[[PruningProblem], Removal]
"""Maps groups of channels and budgets to those to remove; raises InfeasibleError likewise."""

ALDS_PAPER = "Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, https://arxiv.org/abs/2107.11442"
"""The source of the ALDS methods."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to make networks smaller: what it is, its paper, and what it needs.

    Attributes:
        summary: the method in one line.
        paper: its source, with a link and the equation.
        plan: chooses for every layer; None for a method that removes filters.
        solvers: its optimisers, each with its default error definition; the first is the default.
            Empty for a method with only one way to plan.
        schemes: the folding schemes that its error tables must cover.
        arguments: its own arguments with their defaults.
        needs: the statistics of the network's behaviour on images that it needs.
        factorisation: makes the factors of its pairs.
        seeded: whether it draws random numbers, so that repeating it is useful.
        targets: the resources that it can plan for.
        prune: chooses the filters to remove; None for a method that decomposes layers.
        candidates: methods that are compared on images held back; the best one's plan is taken, and
            it has none of its own.
        checks: functions of all its arguments that raise OptionError where a value makes no
            sense, so that this is found before any work is done.

    Raises:
        TypeError: `needs` holds something other than statistics.
    """

    summary: str
    paper: str
    plan: Planner | None
    solvers: Mapping[str, str] = field(default_factory=dict)
    schemes: tuple[int, ...] = (0,)
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    needs: tuple[Statistic[Any], ...] = ()
    factorisation: Factorisation = field(default_factory=SvdOfSlices)
    seeded: bool = False
    targets: tuple[str, ...] = ("params", "macs", "bytes", "latency")
    prune: Pruner | None = None
    candidates: tuple[str, ...] = ()
    checks: tuple[Callable[[Mapping[str, ArgumentValue]], object], ...] = ()

    def __post_init__(self) -> None:
        """Refuse names in place of statistics, which a user-defined method may give."""
        for need in self.needs:
            if not hasattr(need, "gather"):
                raise TypeError(
                    f"needs are statistics such as alds_cli.calibration.RESPONSES, not {need!r}"
                )

    def settled_arguments(
        self, name: str, given: Mapping[str, ArgumentValue]
    ) -> dict[str, ArgumentValue]:
        """Return all arguments, with the defaults where none is given.

        Args:
            name: the method's name, for messages.
            given: the given arguments, by name.

        Raises:
            OptionError: the method has no such argument, or its type or value is wrong.
        """
        for key, value in given.items():
            if key not in self.arguments:
                listed = ", ".join(self.arguments) or "none"
                raise OptionError(
                    f"the method {name} has no argument '{key}'", tip=f"its arguments: {listed}"
                )
            usual = self.arguments[key]
            if usual is not None and not _alike(value, usual):
                raise OptionError(
                    f"the method {name}: {key} is {value!r}, not of the kind of {usual!r}",
                    tip=f"--method-arg {key}={usual}",
                )
        settled = {**self.arguments, **given}
        for check in self.checks:
            check(settled)
        return settled


def _alike(value: ArgumentValue, usual: ArgumentValue) -> bool:
    """Return whether a value has the type of the default; whole numbers count as numbers too."""
    return type(value) is type(usual) or (type(usual) is float and type(value) is int)


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


class MethodTable(Mapping[str, Method]):
    """Methods by name; a method's module is imported when its entry is requested.

    Args:
        names: the names; each method is in a module of its name in this package.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._modules = {name: name.replace("+", "_plus").replace("-", "_") for name in names}

    def __getitem__(self, name: str) -> Method:
        """Return the entry of a method."""
        entry: Method = import_module(f"{__package__}.{self._modules[name]}").METHOD
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


METHODS = MethodTable(METHOD_NAMES)


def method_named(name: str) -> Method:
    """Look a method up; `package.module:object` names a user-defined one.

    Raises:
        OptionError: there is no method of that name.
    """
    require_method(name)
    return METHODS[name] if name in METHODS else custom_method(name)


def schemes_of(method: Method, arguments: Mapping[str, ArgumentValue]) -> tuple[int, ...]:
    """Return the folding schemes to tabulate: with an argument `scheme`, that one and scheme 0."""
    scheme = arguments.get("scheme")
    if scheme in method.schemes:
        return tuple(sorted({0, int(scheme)}))
    return method.schemes


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
