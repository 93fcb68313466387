"""What is left out of the tables, against full tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from alds_cli.numerics import spectra
from alds_cli.numerics.fold import distinct_schemes, divisors, fold, pair_params, shrinking_ks
from alds_cli.numerics.shared_grams import Slicing
from alds_cli.numerics.spectra import SpectraJob, numerical_rank, worth_a_proof
from alds_cli.runtime.pool import run_jobs

MEASURES = ("sum_squares", "largest", "tail_energy", "saved")

KINDS = ("gaussian", "zero", "rank 1", "rank 2", "rank 3", "orthogonal", "blocks", "one entry")


@pytest.fixture(autouse=True, scope="module")
def small_layers_count():
    """Proofs are otherwise sought only where much work could be spared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectra, "_LEAST_WORK", 0)
        yield


def weight_of(kind, shape, seed):
    """A float32 weight (f, c, κ…) with that structure."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    flat = weight.flatten(1)
    if kind == "zero":
        weight.zero_()
    elif kind.startswith("rank"):
        rank = min(int(kind[-1]), *flat.shape)
        weight = (flat[:, :rank] @ flat[:rank]).view(shape)
    elif kind == "orthogonal":
        weight = torch.nn.init.orthogonal_(flat.clone(), generator=generator).view(shape)
    elif kind == "blocks":
        weight[: shape[0] // 2, : shape[1] // 2] = 0
        weight[shape[0] // 2 :, shape[1] // 2 :] = 0
    elif kind == "one entry":
        weight.zero_()
        weight.view(-1)[seed % weight.numel()] = 2.0
    return weight.float()


def curves_of(matrix, ks, groups, prove):
    job = SpectraJob(matrix, ks, groups, prove=prove)
    run_jobs([job])
    return job.curves(), job.norm


def frontier(curves, shape, scheme, groups, measure):
    """Costs of all options that shrink the layer, ascending, and the least error up to each."""
    size = int(np.prod(shape))
    options = []
    for k, curve in curves.items():
        values = getattr(curve, measure)
        for j in range(1, len(values)):
            cost = pair_params(shape, scheme, k, j, groups)
            if cost < size:
                options.append((cost, values[j]))
    costs, errors = np.array(sorted(options)).reshape(-1, 2).T
    return costs, np.minimum.accumulate(errors)


def require_the_same_frontiers(weight, scheme, groups, share=0.0):
    """With and without leaving out; what rounding alone may tell apart counts as the same.

    The proof is made where it may spare more than that share of the work. Returns how many
    numbers of slices were left out.
    """
    shape = tuple(weight.shape)
    matrix, ks = fold(weight, scheme), divisors(shape[1])
    full, norm = curves_of(matrix, ks, groups, prove=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectra, "_WORTH_A_PROOF", share)
        some, same_norm = curves_of(matrix, ks, groups, prove=True)
    assert set(full) == set(ks)
    assert set(some) <= set(full)
    assert same_norm == pytest.approx(norm, rel=1e-14)
    energy = float(full[1].tail_energy[0])
    rounding = 20 * np.sqrt(matrix.numel()) * 2.0**-53 * energy * matrix.shape[0]
    for measure in MEASURES:
        costs, least = frontier(full, shape, scheme, groups, measure)
        own_costs, own_least = frontier(some, shape, scheme, groups, measure)
        if not len(costs):
            assert not len(own_costs)
            continue
        at = np.searchsorted(own_costs, costs, side="right") - 1
        assert (at >= 0).all()
        power = 2 if measure == "largest" else 1
        assert (own_least[at] ** power <= least**power * (1 + 1e-12) + rounding).all()
    return len(full) - len(some)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.sampled_from([1, 4, 12, 24, 48]),
    st.sampled_from([(), (1, 1), (3, 3), (1, 3)]),
    st.sampled_from([1, 1, 2, 4]),
    st.integers(0, 1000),
)
def test_no_frontier_changes(kind, filters, channels, kernel, groups, seed):
    parts = [weight_of(kind, (filters, channels, *kernel), seed + group) for group in range(groups)]
    for scheme in distinct_schemes(kernel):
        require_the_same_frontiers(torch.cat(parts), scheme, groups)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kind", "share", "spared"), [
    ("rank 1", 0.1, 6),
    ("zero", 0.1, 6),
    ("rank 3", 0.0, 4),
    ("rank 3", 0.1, 0),
    ("gaussian", 0.0, 0),
])  # fmt: skip
def test_low_ranks_spare_spectra(monkeypatch, kind, share, spared, groups, large):
    if large:
        monkeypatch.setattr(spectra, "LARGE", 20)
    weight = weight_of(kind, (64, 64), 0)
    assert len(divisors(64)) == 7
    assert require_the_same_frontiers(torch.cat([weight] * groups), 0, groups, share) == spared
    mixed = torch.cat([weight, weight_of("gaussian", (64, 64), 1)])
    assert require_the_same_frontiers(mixed, 0, 2) == 0


def test_usual_layers_are_not_held_up_by_a_proof():
    for shape in [
        (64, 64, 3, 3),
        (512, 512, 3, 3),
        (96, 16),
        (1000, 512),
        (256, 64),
        (20, 6, 5, 5),
    ]:
        matrix = fold(weight_of("gaussian", shape, 0), 0)
        slicing = Slicing.of(matrix)
        assert not worth_a_proof(slicing, divisors(shape[1]))


def test_the_rank_counts_what_stands_out_of_rounding():
    values = np.array([[[4.0, 1.0, 1e-20]], [[4.0, 1e-30, 0.0]]])
    assert numerical_rank(values, 100) == 2
    assert numerical_rank(np.zeros((1, 1, 5)), 10) == 0


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    "shape", [(16, 24), (16, 24, 3, 3), (4, 1, 3, 3), (1, 12, 1, 1), (8, 8, 5)]
)
def test_other_numbers_of_slices_shrink_nothing(shape, groups):
    shape = (shape[0] * groups, *shape[1:])
    size = int(np.prod(shape))
    for scheme in distinct_schemes(shape[2:]):
        found = shrinking_ks(shape, scheme, groups)
        assert found[0] == 1
        for k in divisors(shape[1]):
            shrinks = pair_params(shape, scheme, k, 1, groups) < size
            assert (k in found) == (shrinks or k == 1)


@pytest.mark.parametrize(
    "name", ["cifar10_resnet20.safetensors", "imagenet_mobilenet_v2.safetensors"]
)
def test_no_frontier_of_trained_weights_changes(shared, name):
    weights = load_file(shared / "weights" / name)
    layers = [w for w in weights.values() if w.dim() in {2, 4} and 1 < w.shape[1] <= 320]
    assert len(layers) > 10
    for weight in layers[::3]:
        require_the_same_frontiers(weight, 0, 1)
