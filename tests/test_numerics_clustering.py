"""Projective clustering against brute force, singular vectors and planted answers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.compression.factorise import PairJob
from alds_cli.methods import METHODS, FactorTask
from alds_cli.numerics.clustering import columns
from alds_cli.numerics.clustering.clustered_factors import (
    ClusteredFactors,
    cluster_factors,
    clustered_residual,
    multiply_clusters,
)
from alds_cli.numerics.clustering.columns import Columns
from alds_cli.numerics.clustering.seeds import consecutive, k_means
from alds_cli.numerics.clustering.subspaces import (
    DISTANCES,
    projective_clusters,
    settled,
    squared_distances,
)
from alds_cli.numerics.grams import low_rank_factors
from alds_cli.records import CLUSTERED, Choice, LayerSpec
from alds_cli.runtime.pool import run_jobs


def dense(factors):
    """The matrix that factors stand for."""
    return multiply_clusters(factors.first, factors.second, factors.order, factors.sizes.tolist())


def matrix_of(flat):
    return flat[:, :, None]


def loss(flat, factors, distance):
    """From the columns of the difference, as the definition says."""
    lengths = (flat - dense(factors)).norm(dim=0)
    return float(lengths.square().sum() if distance == "squared" else lengths.sum())


def partition_of(factors):
    """The clusters as sets of columns."""
    parts = torch.split(factors.order.long(), factors.sizes.tolist())
    return {frozenset(part.tolist()) for part in parts}


def truncated(flat, j):
    """The best rank-j approximation, by NumPy's decomposition."""
    left, values, right = np.linalg.svd(flat.numpy(), full_matrices=False)
    values[j:] = 0
    return torch.from_numpy((left * values) @ right)


def drawn(data, rows=(1, 8), columns=(1, 12)):
    """A matrix with what may be degenerate: parallel, repeated and vanishing columns."""
    shape = (data.draw(st.integers(*rows)), data.draw(st.integers(*columns)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    flat = torch.randn(shape, generator=generator, dtype=torch.float64)
    kind = data.draw(st.sampled_from(["full", "low rank", "repeated", "zeros", "all zeros"]))
    if kind == "low rank":
        flat = flat[:, :1] * torch.randn(1, shape[1], generator=generator, dtype=torch.float64)
    elif kind == "repeated":
        flat[:, shape[1] // 2 :] = -2 * flat[:, :1]
    elif kind == "zeros":
        flat[:, ::2] = 0
    elif kind == "all zeros":
        flat[:] = 0
    return flat * 10.0 ** data.draw(st.sampled_from([-150, -3, 0, 3, 150]))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DISTANCES))
def test_factors_are_of_a_partition_and_lose_what_the_search_says(data, distance):
    flat = drawn(data)
    rows, count = flat.shape
    k = data.draw(st.integers(1, count))
    j = data.draw(st.integers(1, min(rows, count)))
    factors = cluster_factors(matrix_of(flat), k, j, distance=distance, starts=3)
    assert sorted(factors.order.tolist()) == list(range(count))
    assert len(factors.sizes) == k
    assert int(factors.sizes.min()) >= 1
    assert factors.order.dtype == factors.sizes.dtype == torch.int32
    assert factors.first.shape == (j, count)
    assert factors.second.shape == (rows, k * j)
    parts = torch.split(factors.order.long(), factors.sizes.tolist())
    assert all(torch.equal(part, part.sort().values) for part in parts)
    assert [int(part[0]) for part in parts] == sorted(int(part[0]) for part in parts)

    columns = Columns(flat)
    found = projective_clusters(columns, k, j, distance=distance, starts=3)
    scale = 2.0**columns.exponent
    lengths = (flat / scale).norm(dim=0)
    expected = loss(flat / scale, scaled_back(factors, scale), distance)
    # Distances near 0 count δ / 2 each in the smoothed sum, and squares lose half the digits.
    slack = 1e-6 * float(lengths.square().mean().sqrt()) * count + 1e-12
    assert found.loss == pytest.approx(expected, rel=1e-9, abs=slack)


def scaled_back(factors, scale):
    return ClusteredFactors(factors.order, factors.sizes, factors.first / scale, factors.second)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(DISTANCES))
def test_no_step_raises_the_loss(data, distance):
    flat = drawn(data, rows=(2, 8), columns=(4, 40))
    columns = Columns(flat)
    k = data.draw(st.integers(1, min(5, columns.count)))
    j = data.draw(st.integers(1, columns.size))
    labels = torch.from_numpy(
        np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, k, columns.count)
    )
    found = settled(columns, labels, k, j, distance=distance)
    history = np.array(found.history)
    # Squares of distances are right to 1e-16 of those of lengths, distances near δ to 1e-10.
    lengths = float(columns.squares.sqrt().sum())
    room = (1e-14 if distance == "squared" else 1e-9) * lengths + 1e-13 * history[:-1]
    assert np.all(history[1:] <= history[:-1] + room)
    assert found.loss == history[-1]
    nearest = squared_distances(columns, found.bases).min(0).values
    own = squared_distances(columns, found.bases).gather(0, found.labels[None])[0]
    if distance == "squared":
        torch.testing.assert_close(
            own, nearest, rtol=0, atol=2e-12 * float(columns.squares.max().clamp(min=1e-300))
        )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_never_worse_than_slices(data):
    k = data.draw(st.integers(1, 4))
    channels = k * data.draw(st.integers(1, 4))
    width = data.draw(st.sampled_from([1, 2, 4]))
    rows = data.draw(st.integers(1, 10))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    matrix = torch.randn(rows, channels, width, dtype=torch.float64)
    j = data.draw(st.integers(1, min(rows, channels // k * width)))
    left, right = low_rank_factors(matrix, k, j)
    slices = torch.cat(list(left @ right), 1)
    flat = matrix.flatten(1)
    energy = float((flat - slices).square().sum())
    factors = cluster_factors(matrix, k, j, starts=1)
    assert loss(flat, factors, "squared") <= energy * (1 + 1e-9) + 1e-12


def best_of_all(flat, k, j):
    """The least sum of squares over every partition."""
    count = flat.shape[1]
    least = np.inf
    for labels in product(range(k), repeat=count - 1):  # the first column's cluster has a name
        own = np.array([0, *labels])
        energy = 0.0
        for cluster in range(k):
            values = np.linalg.svd(flat.numpy()[:, own == cluster], compute_uv=False)
            energy += float(np.square(values[j:]).sum())
        least = min(least, energy)
    return least


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rows", "count", "k", "j"), [(3, 7, 2, 1), (4, 7, 2, 2), (3, 6, 3, 1)])
def test_many_starts_find_the_optimum(rows, count, k, j, seed):
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(rows, count, generator=generator, dtype=torch.float64)
    factors = cluster_factors(matrix_of(flat), k, j, starts=60)
    assert loss(flat, factors, "squared") == pytest.approx(best_of_all(flat, k, j), rel=1e-9)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("j", [1, 3, 5])
def test_one_cluster_is_the_singular_value_decomposition(shape, j):
    torch.manual_seed(0)
    flat = torch.randn(shape, dtype=torch.float64)
    factors = cluster_factors(matrix_of(flat), 1, j)
    torch.testing.assert_close(dense(factors), truncated(flat, j), rtol=0, atol=1e-12)
    # Both halves carry √σ.
    torch.testing.assert_close(factors.second.norm(dim=0), factors.first.norm(dim=1))


def planted(rows, k, j, each, seed, noise=0.0):
    """Columns on k subspaces, shuffled and of either sign; and their clusters."""
    generator = torch.Generator().manual_seed(seed)
    bases = torch.randn(k, rows, j, generator=generator, dtype=torch.float64)
    inner = torch.randn(k, j, each, generator=generator, dtype=torch.float64)
    flat = torch.cat(list(bases @ inner), 1)
    flat += noise * torch.randn(flat.shape, generator=generator, dtype=torch.float64)
    mixed = torch.randperm(k * each, generator=generator)
    owners = torch.arange(k).repeat_interleave(each)[mixed]
    signs = torch.randint(0, 2, (k * each,), generator=generator) * 2 - 1
    clusters = {frozenset(torch.nonzero(owners == own)[:, 0].tolist()) for own in range(k)}
    return flat[:, mixed] * signs, clusters


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("rows", "seed"), [(12, 0), (12, 1), (80, 2)])
def test_planted_subspaces_are_found(rows, seed, distance):
    flat, clusters = planted(rows, 3, 2, 20, seed)
    factors = cluster_factors(matrix_of(flat), 3, 2, starts=60, distance=distance)
    assert partition_of(factors) == clusters
    torch.testing.assert_close(dense(factors), flat, rtol=0, atol=1e-7)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_order_of_columns_changes_only_the_order(distance):
    flat, clusters = planted(8, 3, 2, 15, 1, noise=0.02)
    mixed = torch.randperm(45, generator=torch.Generator().manual_seed(5))
    one = cluster_factors(matrix_of(flat), 3, 2, starts=20, distance=distance)
    other = cluster_factors(matrix_of(flat[:, mixed]), 3, 2, starts=20, distance=distance)
    assert partition_of(one) == clusters
    assert {frozenset(mixed[list(own)].tolist()) for own in partition_of(other)} == clusters
    torch.testing.assert_close(dense(other), dense(one)[:, mixed], rtol=0, atol=1e-2)


@pytest.mark.parametrize("distance", DISTANCES)
def test_signs_of_columns_do_not_matter(distance):
    torch.manual_seed(3)
    flat = torch.randn(6, 40, dtype=torch.float64)
    signs = (torch.arange(40) % 3 > 0).double() * 2 - 1
    one = cluster_factors(matrix_of(flat), 3, 2, seed=4, distance=distance)
    other = cluster_factors(matrix_of(flat * signs), 3, 2, seed=4, distance=distance)
    assert torch.equal(one.order, other.order)
    torch.testing.assert_close(dense(other), dense(one) * signs, rtol=0, atol=1e-9)


def test_an_outlier_draws_the_squared_distance_only():
    """Nineteen columns on a line and a long one across it: a single subspace of rank 1."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.zeros(3, 20, dtype=torch.float64)
    flat[0] = torch.randn(20, generator=generator, dtype=torch.float64)
    flat[:, 19] = torch.tensor([0.0, 8.0, 0.0])
    followed = cluster_factors(matrix_of(flat), 1, 1, distance="squared")
    robust = cluster_factors(matrix_of(flat), 1, 1, distance="absolute")
    torch.testing.assert_close(dense(followed)[:, 19], flat[:, 19], rtol=0, atol=0.01)
    assert float((dense(robust) - flat)[:, :19].norm()) < 1e-3 * float(flat[:, :19].norm())
    assert loss(flat, robust, "absolute") < loss(flat, followed, "absolute")
    assert loss(flat, robust, "squared") > loss(flat, followed, "squared")


def test_the_robust_subspace_is_the_best_of_all_directions():
    """In the plane every line through the origin can be tried."""
    generator = torch.Generator().manual_seed(2)
    flat = torch.randn(2, 25, generator=generator, dtype=torch.float64) * torch.tensor([[3.0], [1]])
    angles = torch.linspace(0, np.pi, 20001, dtype=torch.float64)
    across = torch.stack([-angles.sin(), angles.cos()], 1) @ flat
    factors = cluster_factors(matrix_of(flat), 1, 1, distance="absolute")
    least = float(across.abs().sum(1).min())
    assert loss(flat, factors, "absolute") <= least * (1 + 1e-3)


@pytest.mark.parametrize("distance", DISTANCES)
def test_as_many_clusters_as_columns_lose_nothing(distance):
    torch.manual_seed(0)
    flat = torch.randn(5, 6, dtype=torch.float64)
    factors = cluster_factors(matrix_of(flat), 6, 1, distance=distance)
    assert factors.sizes.tolist() == [1] * 6
    torch.testing.assert_close(dense(factors), flat, rtol=0, atol=1e-12)


def test_no_cluster_is_empty_even_among_equal_columns():
    flat = torch.ones(4, 9, dtype=torch.float64)
    factors = cluster_factors(matrix_of(flat), 5, 2, starts=4)
    assert int(factors.sizes.min()) >= 1
    torch.testing.assert_close(dense(factors), flat, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_error_is_that_of_the_rounded_numbers(dtype):
    torch.manual_seed(0)
    for rows, channels in [(20, 6), (6, 20), (300, 2)]:
        matrix = torch.randn(rows, channels, 3).to(dtype)
        factors = cluster_factors(matrix, 4, 2, dtype=dtype)
        assert factors.first.dtype == factors.second.dtype == dtype
        difference = matrix.flatten(1).double() - dense(
            ClusteredFactors(
                factors.order, factors.sizes, factors.first.double(), factors.second.double()
            )
        )
        expected = float(torch.linalg.matrix_norm(difference, 2))
        assert clustered_residual(matrix, factors) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(7, 40), (40, 7)])
def test_points_are_the_same_whole_and_in_pieces(monkeypatch, shape):
    torch.manual_seed(0)
    flat = torch.randn(shape)
    whole = Columns(flat)
    monkeypatch.setattr(columns, "CHUNK_BYTES", 200)
    monkeypatch.setattr(columns, "_COPIED", 0)
    pieces = Columns(flat)
    assert len(list(pieces.blocks())) > 1
    index = torch.tensor([3, 1, 6])
    for one, other in [
        (
            torch.cat([b for _, b in whole.blocks()], 1),
            torch.cat([b for _, b in pieces.blocks()], 1),
        ),
        (
            torch.cat([b for _, b in whole.gathered(index)], 1),
            torch.cat([b for _, b in pieces.gathered(index)], 1),
        ),
    ]:
        assert torch.equal(one, other)
        inner = whole.lifted(one) * 2.0**whole.exponent
        assert inner.shape[0] == shape[0]
    points = torch.cat([block for _, block in pieces.blocks()], 1)
    lifted = pieces.lifted(points) * 2.0**pieces.exponent
    torch.testing.assert_close(lifted, flat.double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(pieces.squares, points.square().sum(0))


@pytest.mark.parametrize(
    ("count", "k", "sizes"), [(12, 3, [4, 4, 4]), (11, 3, [4, 4, 3]), (3, 3, [1, 1, 1])]
)
def test_consecutive_columns(count, k, sizes):
    labels = consecutive(count, k)
    assert torch.equal(labels, labels.sort().values)
    assert torch.bincount(labels).tolist() == sizes


def test_k_means_tells_directions_apart():
    """Three bundles of columns about as many axes, of any length and either sign."""
    generator = torch.Generator().manual_seed(0)
    flat = 0.05 * torch.randn(5, 30, generator=generator, dtype=torch.float64)
    for column in range(30):
        flat[column % 3, column] += (-1) ** column
    flat *= 10.0 ** torch.randint(-3, 4, (30,), generator=generator)
    for seed in range(20):
        labels = k_means(Columns(flat), 3, np.random.default_rng(seed))
        assert len(set(labels.tolist())) == 3
        assert all(len(set(labels[axis::3].tolist())) == 1 for axis in range(3))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", [(24, 20, 3, 3), (90, 30)])
def test_threads_change_no_bit(threads, distance, shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    spec = LayerSpec("layer", "conv2d" if shape[2:] else "linear", *shape[:2], shape[2:])
    found = []
    for count in (1, 3):
        threads(count)
        tasks = [
            FactorTask(spec, Choice(CLUSTERED, k, 4), weight, None, 7, {"distance": distance})
            for k in (1, 3, 5)
        ]
        jobs = [PairJob(task, METHODS["messi"].factorisation, 1.0) for task in tasks]
        with torch.no_grad():
            run_jobs(jobs)
        found.append(jobs)
    for one, other in zip(*found, strict=True):
        assert one.error == other.error > 0
        pairs = zip(one.factors.tensors, other.factors.tensors, strict=True)
        assert all(torch.equal(mine, yours) for mine, yours in pairs)


def test_the_seed_counts_and_repeats():
    torch.manual_seed(0)
    matrix = torch.randn(12, 90, 1)
    one, again, other = (cluster_factors(matrix, 4, 3, seed=seed, starts=4) for seed in (1, 1, 2))
    assert torch.equal(one.order, again.order)
    assert torch.equal(one.first, again.first)
    assert not torch.equal(one.order, other.order)


@pytest.mark.parametrize(
    ("k", "j", "options"),
    [
        (0, 1, {}),
        (7, 1, {}),
        (2, 0, {}),
        (2, 5, {}),
        (2, 1, {"starts": 0}),
        (2, 1, {"distance": "cubed"}),
    ],
)
def test_what_makes_no_sense_is_refused(k, j, options):
    with pytest.raises(ValueError, match=r"no \d clusters of rank|no clustering by"):
        cluster_factors(torch.randn(4, 6, 1), k, j, **options)
