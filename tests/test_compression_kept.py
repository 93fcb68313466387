"""What is said where layers that must be kept put a budget out of reach."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from alds_cli import api
from alds_cli.errors import BudgetError, RatioUnreachableError


def network(change, *, free=False):
    """Three layers, changed, and perhaps one that is not."""
    layers = [nn.Linear(16, 16) for _ in range(3)]
    for layer in layers:
        change(layer)
    torch.manual_seed(0)
    return nn.Sequential(*layers, *([nn.Linear(16, 16)] if free else []))


KEPT = {
    "masked by torch.nn.utils.prune": (
        lambda layer: prune.identity(layer, "weight"),
        "prune.remove",
    ),
    "computed by a parametrization": (
        lambda layer: parametrize.register_parametrization(layer, "weight", nn.Identity()),
        "remove_parametrizations",
    ),
    "a forward hook": (
        lambda layer: layer.register_forward_hook(lambda _layer, _given, made: made),
        None,
    ),
}


@pytest.mark.parametrize("reason", KEPT)
@pytest.mark.parametrize("limit", [{"ratio": 0.1}, {"max_params": 10}])
def test_where_all_layers_are_kept_the_reasons_are_counted(reason, limit):
    change, tip = KEPT[reason]
    error = RatioUnreachableError if "ratio" in limit else BudgetError
    source = api.Source(input_shape=(16,))
    with pytest.raises(
        error, match=rf"no layer can be decomposed: 3 are kept \(.*{reason}"
    ) as seen:
        api.compress(network(change), source, dry_run=True, **limit)
    assert (seen.value.tip is None) if tip is None else tip in seen.value.tip


def test_a_network_without_layers_says_so():
    with pytest.raises(
        RatioUnreachableError, match="holds no convolution, linear layer or embedding"
    ):
        api.compress(
            nn.Sequential(nn.LayerNorm(4)), api.Source(input_shape=(4,)), ratio=0.1, dry_run=True
        )


@pytest.mark.parametrize("reason", KEPT)
def test_where_some_are_kept_the_reasons_are_told_beside_what_can_be_had(reason):
    change, _ = KEPT[reason]
    source = api.Source(input_shape=(16,))
    with pytest.raises(RatioUnreachableError, match=rf"; 3 are kept \(.*{reason}\)") as seen:
        api.compress(network(change, free=True), source, ratio=0.9, dry_run=True)
    assert 0 < seen.value.largest < 0.25
    assert "--include" not in seen.value.tip


def test_only_where_patterns_leave_layers_out_more_can_be_decomposed():
    source = api.Source(input_shape=(16,))
    plain = network(lambda _layer: None)
    with pytest.raises(RatioUnreachableError) as seen:
        api.compress(plain, source, ratio=0.99, dry_run=True)
    assert "--include" not in seen.value.tip
    with pytest.raises(RatioUnreachableError, match="2 are kept") as seen:
        api.compress(plain, source, ratio=0.99, dry_run=True, include=["0"])
    assert "--include" in seen.value.tip


def test_a_limit_that_holds_anyway_needs_no_layers():
    made = network(KEPT["a forward hook"][0])
    result = api.compress(made, api.Source(input_shape=(16,)), max_params=10_000, dry_run=True)
    assert result.plan.decomposed == {}
