"""Reported errors are those of the layers' operators, and bounds hold there: by brute force."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from alds_cli.allocation import PROVEN_BOUNDS
from alds_cli.compression.factorise import carry_out
from alds_cli.numerics import eigenvalues
from alds_cli.profiling import error_tables, operator_norms, tabled_norm
from alds_cli.records import CLUSTERED, Choice, Plan
from alds_cli.surgery import dense_state, find_layers, weight_at

LAYERS = {
    "conv": lambda: nn.Conv2d(8, 12, (3, 5)),
    "tall": lambda: nn.Conv2d(2, 40, 3),
    "grouped": lambda: nn.Conv2d(12, 16, 3, groups=4),
    "depthwise": lambda: nn.Conv2d(16, 16, 3, groups=16),
    "single filter": lambda: nn.Conv2d(8, 1, 3),
    "transposed": lambda: nn.ConvTranspose2d(10, 12, (3, 2), groups=2),
    "one axis": lambda: nn.Conv1d(8, 12, 5),
    "three axes": lambda: nn.Conv3d(6, 8, 2),
    "linear": lambda: nn.Linear(24, 10),
}


def alone(kind):
    torch.manual_seed(0)
    module = nn.Sequential(LAYERS[kind]()).double()
    return module, find_layers(module)


def operator_norm(weight, groups):
    """σ_1 of the block diagonal matrix of the paper's fold, by the SVD of all of it."""
    blocks = [own.flatten(1) for own in weight.chunk(groups)]
    return float(torch.linalg.svdvals(torch.block_diag(*blocks))[0])


def true_error(module, made, choices, groups):
    before = weight_at(module, "0")
    dense = copy.deepcopy(module)
    dense.load_state_dict(dense_state(module, made.state_dict(), choices))
    return operator_norm(before - weight_at(dense, "0"), groups) / operator_norm(before, groups)


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize(
    ("bound", "chunk"),
    [
        (None, None),
        (None, 64),
        *((bound, None) for bound in PROVEN_BOUNDS),
        *(pytest.param(bound, 64, marks=pytest.mark.slow) for bound in PROVEN_BOUNDS),
    ],
)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_tabled_pair_is_reported_in_the_papers_fold(kind, bound, chunk, monkeypatch):
    if chunk:
        monkeypatch.setattr(eigenvalues, "CHUNK_BYTES", chunk)
    module, specs = alone(kind)
    tables, _ = error_tables(module, specs, schemes=(0, 1, 2, 3), cache=False)
    choices = [Choice(*row) for row in tables.layers["0"].choices.tolist()]
    assert choices
    for choice in choices[:: 1 if bound is None else 5]:
        made, plan = copy.deepcopy(module), {"0": choice}
        (report,) = carry_out(made, specs, tables, Plan(plan, bound=bound))
        expected = true_error(module, made, plan, specs["0"].groups)
        assert report.error == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert expected <= report.error_bound
        assert report.error_bound <= 1 + 1e-9  # what rounding the halves may add


@pytest.mark.parametrize("kind", ["single filter", "depthwise"])
def test_a_fold_that_allows_no_smaller_pair_has_a_norm_all_the_same(kind):
    """Its table does not say it; pairs of other schemes are reported relative to it."""
    module, specs = alone(kind)
    tables, _ = error_tables(module, specs, schemes=(0, 1, 2, 3), cache=False)
    assert tabled_norm(tables.layers["0"]) is None
    expected = operator_norm(weight_at(module, "0"), specs["0"].groups)
    assert operator_norms(module, tables, ["0"])["0"] == pytest.approx(expected, rel=1e-12)


def test_a_replayed_plan_of_another_scheme_is_reported_in_the_papers_fold():
    """Only the tables of its own scheme are at hand then."""
    module, specs = alone("conv")
    tables, _ = error_tables(module, specs, schemes=(1,), cache=False)
    made, plan = copy.deepcopy(module), {"0": Choice(1, 2, 3)}
    (report,) = carry_out(made, specs, tables, Plan(plan))
    assert report.error == pytest.approx(true_error(module, made, plan, 1), rel=1e-9)
    assert report.error <= report.error_bound


@pytest.mark.parametrize("kind", ["conv", "tall", "linear"])
def test_clusters_are_reported_in_the_papers_fold_without_a_bound(kind):
    module, specs = alone(kind)
    tables, _ = error_tables(module, specs, cache=False)
    made, plan = copy.deepcopy(module), {"0": Choice(CLUSTERED, 3, 2)}
    (report,) = carry_out(made, specs, tables, Plan(plan))
    assert report.error == pytest.approx(true_error(module, made, plan, 1), rel=1e-9)
    assert report.error_bound is None
