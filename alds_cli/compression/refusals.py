"""The errors that explain why a target cannot be reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

from alds_cli.allocation import LayerOptions
from alds_cli.compression.targets import Budget, Resource
from alds_cli.errors import BudgetError, ContractError, RatioUnreachableError
from alds_cli.latency import NetworkComparison
from alds_cli.records import LayerSpec
from alds_cli.surgery.layers import LEFT_OUT

_NOUNS = {"params": "parameters", "macs": "MACs", "bytes": "bytes", "latency": "latency"}

_UNITS = {
    "params": ("", "k", "M", "G"),
    "macs": ("", "k", "M", "G"),
    "bytes": ("B", "kB", "MB", "GB"),
    "latency": ("ns", "us", "ms", "s"),
}
"""The units in which limits are written, each a thousand times the one before."""

_LIMITS = {
    "params": "--max-params",
    "macs": "--max-macs",
    "bytes": "--max-size",
    "latency": "--max-latency",
}

_MORE_LAYERS = "decompose more layers (--include, --exclude)"

_FILTERS = "remove filters, which leaves no pairs to run (--method ft --rank-multiple 32)"


def refusal(
    budgets: Sequence[Budget], layers: Sequence[LayerOptions], kept: str, *, faster_only: bool
) -> ContractError:
    """Return the error that names the budget which cannot be met alone, or else all of them.

    Args:
        budgets: what was asked.
        layers: the options that were offered.
        kept: which layers had no options, in words; empty where all had some.
        faster_only: whether only pairs that measure faster were offered.
    """
    made = "make with pairs that each measure faster" if faster_only else "make"
    for column, budget in enumerate(budgets):
        least = budget.resource.fixed + sum(int(layer.costs[:, column].min()) for layer in layers)
        if least > budget.allowed - budget.margin:
            if budget.efficiency is not None:
                return _inefficient(budget)
            return out_of_reach(budget, least, made, kept)
    asked = ", ".join(_asked(budget) for budget in budgets)
    return BudgetError(
        f"no plan was found within all of these together: {asked}",
        tip="loosen one of them; each can be met alone",
    )


def _inefficient(budget: Budget) -> ContractError:
    """Return the error of an efficiency that no plan has, by the measured times of its layers."""
    return BudgetError(
        f"{_asked(budget)} cannot be reached: by the measured times of layers and pairs, no "
        "network saves so much time with what else it saves",
        tip=f"ask for less, or {_FILTERS}, or try another --batch-size or --device",
    )


def out_of_reach(budget: Budget, least: int, made: str, kept: str | None = None) -> ContractError:
    """Return the error of a budget that cannot be met.

    Args:
        budget: what was asked.
        least: the cost of the smallest network, in units of the budget's resource.
        made: how that network is made, as a continuation of "that this method can".
        kept: which layers are not made smaller, in words; None where that is not known.
    """
    resource = budget.resource
    why = f"; {kept}" if kept else ""
    smallest = f"the smallest network that this method can {made} has {_share(resource, least)}"
    largest = max(0, (resource.before - least) * 10_000 // resource.before) / 10_000
    otherwise = f", or {_MORE_LAYERS}" if kept is None or LEFT_OUT in kept else ""
    if least >= resource.before or (budget.ratio is not None and largest == 0):
        nearest = "no layer of this network can be made smaller"
    elif budget.ratio is None:
        nearest = f"{_LIMITS[resource.name]} {_written(resource, least)}{otherwise}"
    else:
        nearest = f"--ratio {largest:.4f}{otherwise}"
    if budget.ratio is None:
        return BudgetError(f"{_asked(budget)} cannot be reached: {smallest}{why}", tip=nearest)
    return RatioUnreachableError(
        f"a ratio of {float(budget.ratio):g} cannot be reached: {smallest}; "
        f"the largest ratio is {largest:.4f}{why}",
        largest=largest,
        tip=nearest,
    )


def broken(budget: Budget, reached: int) -> ContractError:
    """Return the error of a network that exceeds a budget it was to meet."""
    resource = budget.resource
    if budget.ratio is None:
        return BudgetError(
            f"the network has {_amount(resource, reached)}, "
            f"more than the {_amount(resource, budget.allowed)} allowed"
        )
    return ContractError(
        f"the plan removes {1 - reached / resource.before:.4f} of the {_NOUNS[resource.name]}, "
        f"less than the {float(budget.ratio):g} asked for",
        tip="lower some j in the plan, or leave out --ratio",
    )


def too_slow(budget: Budget, times: NetworkComparison, share: float) -> ContractError:
    """Return the error of a network that is too slow although it is the fastest that was made.

    Args:
        budget: the budget of time.
        times: of the original and of the fastest compressed network.
        share: the fraction of the time that had to be saved.
    """
    saved, surely = times.saved, times.surely_saved
    fact = (
        f"the fastest network that was made takes {times.compressed.median_ms:.3f} ms where the "
        f"original takes {times.original.median_ms:.3f} ms, measured in turns"
    )
    elsewhere = "or try another --batch-size or --device"
    tip = f"{_MORE_LAYERS}, {elsewhere}"
    if budget.efficiency is not None:
        per_share = float(budget.efficiency) / share
        nearest = max(0, int(surely * per_share * 100)) / 100
        reached = max(0.0, saved * per_share)
        return BudgetError(
            f"{_asked(budget)} cannot be reached: {fact}; that is an efficiency of {reached:.2f}"
            + _confidence(saved, share),
            tip=f"--efficiency {nearest}, or {_FILTERS}, {elsewhere}",
        )
    if budget.ratio is None:
        return BudgetError(f"{_asked(budget)} cannot be reached: {fact}", tip=tip)
    largest = max(0, int(surely * 10_000)) / 10_000
    return RatioUnreachableError(
        f"a ratio of {float(budget.ratio):g} of the latency cannot be reached: {fact}; "
        f"that is a ratio of {max(0.0, saved):.4f}{_confidence(saved, share)}",
        largest=largest,
        tip=tip,
    )


def _confidence(saved: float, share: float) -> str:
    """Return what a refusal has to add where a network seems to save the share to save."""
    return ", but not with 95 % confidence" if saved >= share else ""


def _asked(budget: Budget) -> str:
    resource = budget.resource
    if budget.efficiency is not None:
        return f"--efficiency {float(budget.efficiency):g}"
    if budget.ratio is None:
        return f"{_LIMITS[resource.name]} {_written(resource, budget.allowed)}"
    return f"--ratio {float(budget.ratio):g} of the {_NOUNS[resource.name]}"


def _amount(resource: Resource, value: int) -> str:
    if resource.name == "latency":
        return f"{value / 1e6:.3f} ms"
    return f"{value:,} {_NOUNS[resource.name]}"


def _share(resource: Resource, value: int) -> str:
    """Return a value beside that of the whole network."""
    if resource.name == "latency":
        return f"{_amount(resource, value)} of {_amount(resource, resource.before)}"
    return f"{value:,} of {_amount(resource, resource.before)}"


def _written(resource: Resource, value: int) -> str:
    """Return a value exactly as the command line accepts it, with three decimals at most."""
    powers = [
        power
        for power in range(len(_UNITS[resource.name]))
        if 1000**power <= value and value * 1000 % 1000**power == 0
    ]
    power = max(powers, default=0)
    return f"{Decimal(value) / 1000**power:f}{_UNITS[resource.name][power]}"


_SHOWN = 4

_TIPS = {
    "parametrization": "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') "
    "leaves a plain weight; save the network after that",
    "weight norm": "torch.nn.utils.remove_weight_norm(layer) leaves a plain weight; save the "
    "network after that",
    "spectral norm": "torch.nn.utils.remove_spectral_norm(layer) leaves a plain weight; save the "
    "network after that",
    "torch.nn.utils.prune": "torch.nn.utils.prune.remove(layer, 'weight') leaves a plain weight; "
    "save the network after that",
    LEFT_OUT: "let more layers match --include, or fewer --exclude",
}
"""What the user can do, by words that occur in the reason."""


def nothing_to_decompose(
    specs: Mapping[str, LayerSpec], budgets: Sequence[Budget]
) -> ContractError:
    """Return the error of a network none of whose layers can be made smaller, with the reasons.

    Args:
        specs: the network's layers, each with a reason why it is kept.
        budgets: what was asked.
    """
    reasons = _reasons(specs)
    why = (
        kept_in_words(specs)
        or "the network holds no convolution, linear layer or embedding of torch.nn"
    )
    message = f"no layer can be decomposed: {why}"
    tip = next(
        (
            tip
            for reason, _ in reasons.most_common()
            for word, tip in _TIPS.items()
            if word in reason
        ),
        None,
    )
    if any(budget.ratio is not None for budget in budgets):
        return RatioUnreachableError(message, largest=0.0, tip=tip)
    return BudgetError(message, tip=tip)


def kept_in_words(specs: Mapping[str, LayerSpec]) -> str:
    """Return how many layers are kept for which reasons; empty where none is kept."""
    reasons = _reasons(specs)
    parts = [
        f"{count} {'is' if count == 1 else 'are'} kept ({reason})"
        for reason, count in reasons.most_common(_SHOWN)
    ]
    others = reasons.total() - sum(count for _, count in reasons.most_common(_SHOWN))
    return ", ".join(parts) + (f", and {others} for other reasons" if others else "")


def _reasons(specs: Mapping[str, LayerSpec]) -> Counter[str]:
    return Counter(spec.reason for spec in specs.values() if spec.reason is not None)
