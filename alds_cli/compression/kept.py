"""What to say where every layer must be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from alds_cli.compression.budgets import Budget
from alds_cli.compression.selection import LEFT_OUT
from alds_cli.errors import BudgetError, ContractError, RatioUnreachableError
from alds_cli.records import LayerSpec

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
"""What can be done, by words in the reason."""


def nothing_to_decompose(
    specs: Mapping[str, LayerSpec], budgets: Sequence[Budget]
) -> ContractError:
    """Why nothing can be made smaller, with the reasons counted.

    Args:
        specs: the network's layers, each with a reason to be kept.
        budgets: what was asked.
    """
    reasons = _reasons(specs)
    why = kept_in_words(specs) or "the network holds no convolution or linear layer of torch.nn"
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
    """How many layers are kept for which reasons; empty where none is."""
    reasons = _reasons(specs)
    parts = [
        f"{count} {'is' if count == 1 else 'are'} kept ({reason})"
        for reason, count in reasons.most_common(_SHOWN)
    ]
    others = reasons.total() - sum(count for _, count in reasons.most_common(_SHOWN))
    return ", ".join(parts) + (f", and {others} for other reasons" if others else "")


def _reasons(specs: Mapping[str, LayerSpec]) -> Counter[str]:
    return Counter(spec.reason for spec in specs.values() if spec.reason is not None)
