"""The true error of an option against dense singular value decompositions."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.numerics import eigenvalues, slice_svd, true_errors
from alds_cli.numerics.eigenvalues import largest_eigenvalue, residual_norm
from alds_cli.numerics.fold import divisors
from alds_cli.numerics.grams import low_rank_factors
from alds_cli.numerics.slice_svd import Layout
from alds_cli.numerics.true_errors import (
    Decomposition,
    ExactErrors,
    error_interval,
    exact_errors,
    working_bytes,
)
from alds_cli.records import Curve
from alds_cli.runtime.pool import single_threaded_blas


def matrix_of(rows, channels, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, width, generator=generator, dtype=torch.float64)


def reference(matrix, k, j, groups=1):
    """By a dense SVD of each slice, and of what is left of each group."""
    found = []
    for part in matrix.double().chunk(groups):
        rests = []
        for own in part.chunk(k, dim=1):
            u, s, vt = np.linalg.svd(own.flatten(1).numpy(), full_matrices=False)
            rests.append((u[:, j:] * s[j:]) @ vt[j:])
        found.append(np.linalg.norm(np.concatenate(rests, axis=1), 2))
    return max(found)


def full_rank(matrix, k, groups=1):
    return min(matrix.shape[0] // groups, matrix.shape[1] // k * matrix.shape[2])


SHAPES = {
    "wide slices": (10, 24, 4),
    "tall slices, wide group": (20, 12, 4),
    "tall group": (60, 12, 2),
    "square slices": (12, 24, 2),
    "one row": (1, 6, 3),
    "one channel": (8, 1, 5),
}


@pytest.fixture(params=["as it is", "large", "pieces", "lanczos", "fine"])
def way(request, monkeypatch):
    """Every way to the result: what is decided by size and accuracy is forced on small cases."""
    if request.param == "large":
        monkeypatch.setattr(slice_svd, "KEEP_BYTES", 0)
        for module in (slice_svd, slice_svd):
            monkeypatch.setattr(module, "LEADING", 3)
    elif request.param == "pieces":
        monkeypatch.setattr(slice_svd, "_PIECE_WORK", 1)
        monkeypatch.setattr(slice_svd, "_STRIPE", 3)
        monkeypatch.setattr("alds_cli.numerics.grams.CHUNK_BYTES", 8 * 40)
    elif request.param == "lanczos":
        monkeypatch.setattr(eigenvalues, "_DENSE", 1)
        monkeypatch.setattr(slice_svd, "_STRIPE", 3)
    elif request.param == "fine":
        monkeypatch.setattr(true_errors, "_FINE", 2.0)
    return request.param


@pytest.mark.mostly_slow(7)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_errors_are_those_of_dense_svds(way, shape, groups):
    del way
    matrix = matrix_of(shape[0] * groups, *shape[1:])
    matrix[shape[0] :] *= 1.1
    for k in divisors(shape[1]):
        full = full_rank(matrix, k, groups)
        ranks = [*range(full + 2)]
        found = exact_errors(matrix, k, ranks, groups)
        expected = [reference(matrix, k, j, groups) for j in ranks]
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
        assert (found[full:] == 0).all()
        assert (np.diff(found) <= 1e-12 * found[0]).all()


@pytest.mark.parametrize("stripe", [1, 3, 128])
@pytest.mark.parametrize("keep", [0, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gram_matrices_are_whole_wherever_they_begin(stripe, keep, shape, monkeypatch):
    monkeypatch.setattr(slice_svd, "_STRIPE", stripe)
    monkeypatch.setattr(slice_svd, "KEEP_BYTES", keep)
    matrix = matrix_of(*shape)
    for k in divisors(shape[1])[1:]:
        ranks = range(full_rank(matrix, k))
        found = Decomposition(matrix, k, ranks=ranks)
        found.run()
        for j in ranks:
            gram = found._groups[0]._gram(j)
            assert torch.equal(gram, gram.T)
            lost = sum(
                float(torch.linalg.svdvals(part.flatten(1))[j:].square().sum())
                for part in matrix.chunk(k, dim=1)
            )
            exponent = 2 * found._groups[0]._exponent
            assert float(gram.trace()) * 2.0**exponent == pytest.approx(lost, rel=1e-9)


def test_the_small_cases_take_every_form():
    kinds = {
        "corner" if found.corner else "kept wide" if found.wide else "kept tall"
        for shape in SHAPES.values()
        for found in [Layout(shape, k) for k in divisors(shape[1]) if k > 1]
    }
    assert kinds == {"corner", "kept wide", "kept tall"}
    assert Layout((4096, 25088, 1), 7).large
    assert not Layout((4096, 25088, 1), 1).large
    assert not Layout((512, 512, 9), 8).large


@pytest.mark.parametrize("decades", [6, 9, 14])
@pytest.mark.parametrize("shape", [(24, 12, 6), (40, 12, 6), (100, 12, 6)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_small_errors_are_as_accurate_as_an_svd(decades, shape, k):
    """Gram matrices alone would leave nothing right below 1e-8 of the norm."""
    matrix = matrix_of(*shape)
    scales = torch.logspace(0, -decades, shape[1] // k, dtype=torch.float64)
    matrix *= scales.repeat(k).view(1, -1, 1)
    norm = float(torch.linalg.matrix_norm(matrix.flatten(1), 2))
    ranks = range(full_rank(matrix, k))
    found = exact_errors(matrix, k, ranks)
    for j, error in zip(ranks, found, strict=True):
        expected = reference(matrix, k, j)
        assert error == pytest.approx(expected, rel=1e-9, abs=4e-15 * norm)
    assert found[-1] < true_errors._FINE * norm


@pytest.mark.parametrize("k", [1, 2, 4])
def test_exact_low_rank_leaves_next_to_nothing(k):
    matrix = (matrix_of(30, 2, 1)[:, :, 0] @ matrix_of(2, 40, 1)[:, :, 0])[:, :, None]
    norm = float(torch.linalg.matrix_norm(matrix.flatten(1), 2))
    assert exact_errors(matrix, k, [1])[0] > 1e-3 * norm
    assert (exact_errors(matrix, k, [2, 5]) < 1e-14 * norm).all()
    assert (exact_errors(torch.zeros(6, 4, 2), k, [0, 1, 2]) == 0).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-150, 1e-20, 1.0, 1e20, 1e150, 1e300])
@pytest.mark.parametrize("shape", [(10, 24, 4), (20, 12, 4), (60, 12, 2)])
def test_scales_are_of_no_matter(scale, shape):
    matrix = matrix_of(*shape)
    exponent = int(np.round(np.log2(scale)))
    scaled = torch.from_numpy(np.ldexp(matrix.numpy(), exponent))
    for k in (1, 2, 6):
        ranks = [0, 1, 3, full_rank(matrix, k) - 1]
        usual = exact_errors(matrix, k, ranks)
        assert np.array_equal(exact_errors(scaled, k, ranks), np.ldexp(usual, exponent))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_floating_type(dtype):
    matrix = matrix_of(10, 12, 3).to(dtype)
    found = exact_errors(matrix, 3, [2])
    assert found[0] == pytest.approx(reference(matrix, 3, 2), rel=1e-9)
    assert np.array_equal(found, exact_errors(matrix.double(), 3, [2]))


@pytest.mark.parametrize("shape", [(10, 24, 4), (20, 12, 4), (60, 12, 2)])
def test_a_value_depends_on_nothing_but_its_option(shape, threads, way):
    del way
    matrix = matrix_of(*shape)
    full = full_rank(matrix, 3)
    together = exact_errors(matrix, 3, range(full))
    for count in (1, 4):
        threads(count)
        with single_threaded_blas():
            alone = [float(exact_errors(matrix, 3, [j])[0]) for j in reversed(range(full))]
        assert alone[::-1] == together.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3, 6]), st.sampled_from([1, 2]))
def test_the_error_of_the_factors_that_are_built(seed, k, groups):
    """Equal singular values leave a choice of vectors: both take the same."""
    matrix = matrix_of(8 * groups, 12, 3, seed)
    if seed % 3 == 0:
        flat = torch.nn.init.orthogonal_(matrix.flatten(1))
        matrix = flat.reshape(matrix.shape)
    full = full_rank(matrix, k, groups)
    j = 1 + seed % full
    left, right = low_rank_factors(matrix, k, j, groups=groups)
    built = residual_norm(matrix, left, right, groups)
    assert exact_errors(matrix, k, [j], groups)[0] == pytest.approx(built, rel=1e-9, abs=1e-13)


def test_a_group_that_cannot_be_worst_is_not_looked_at(monkeypatch):
    matrix = matrix_of(40, 8, 3)
    matrix[10:] *= 1e-3
    looked = []

    def counting(gram):
        looked.append(gram)
        return largest_eigenvalue(gram)

    monkeypatch.setattr(slice_svd, "largest_eigenvalue", counting)
    found = exact_errors(matrix, 2, [3], groups=4)
    assert found[0] == pytest.approx(reference(matrix, 2, 3, groups=4), rel=1e-9)
    assert len(looked) == 1


@pytest.mark.parametrize("keep", [0, 1 << 20])
def test_which_errors_are_too_small_for_gram_matrices(keep, monkeypatch):
    monkeypatch.setattr(slice_svd, "KEEP_BYTES", keep)
    matrix = torch.zeros(4, 12, 1, dtype=torch.float64)
    for part in matrix.chunk(3, dim=1):
        part[range(4), range(4), 0] = torch.tensor([1.0, 0.5, 5e-3, 0.0], dtype=torch.float64)
    found = Decomposition(matrix, 3)
    found.run()
    # with little memory all is relative to the norm of the whole, up to √3 as much
    first = 3 if keep else 2
    assert [found.too_coarse(j) for j in range(6)] == [first <= j < 4 for j in range(6)]
    nothing = Decomposition(torch.zeros(4, 12, 1), 3)
    nothing.run()
    assert not any(nothing.too_coarse(j) for j in range(6))


def test_of_a_large_layer_only_some_ranks_can_be_asked(monkeypatch):
    monkeypatch.setattr(slice_svd, "KEEP_BYTES", 0)
    for module in (slice_svd, slice_svd):
        monkeypatch.setattr(module, "LEADING", 4)
    matrix = matrix_of(10, 24, 4)
    for ranks, served in (([1, 3], [0, 1, 2, 3, 4, 10]), ([5, 99], [*range(9), 10]), ([], [0, 10])):
        found = Decomposition(matrix, 2, ranks=ranks)
        assert [j for j in range(11) if found.serves([j])] == served
    found = Decomposition(matrix, 2, ranks=[1, 3], fine=True)
    assert [j for j in range(11) if found.serves([j])] == [1, 3, 10]
    errors = ExactErrors(weights := Weights(), memory=1 << 20)
    for j in (1, 3, 2, 4, 0, 5, 8, 7):
        errors("wide", 0, 2, j)
    assert weights.asked == [("wide", 0)] * 2


def test_what_is_known_without_computing():
    generous = Curve(*[np.array([9.0, 4.0, 1.0, 0.0])] * 4)
    whole = Curve(*[np.array([5.0, 4.0, 3.0, 2.0, 1.5, 0.5, 0.0])] * 4)
    curve = Curve(generous.sum_squares, np.sqrt(generous.sum_squares / 2), *[whole.saved] * 2)
    lower, upper = error_interval(curve, whole, 2, 1, 10)
    assert (lower, upper) == (pytest.approx(3.0, rel=1e-12), 2.0)
    assert lower < 3.0
    assert error_interval(curve, whole, 2, 2, 10)[0] == pytest.approx(1.5, rel=1e-12)
    assert error_interval(curve, whole, 2, 3, 10) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("shape", "k"), [((256, 256, 9), 4), ((512, 48, 9), 4), ((2048, 512, 1), 8), ((600, 900, 1), 1)]
)
@pytest.mark.parametrize("fine", [False, True])
def test_memory_that_is_claimed_is_about_what_is_taken(shape, k, fine):
    found = Decomposition(torch.zeros(shape), k, fine=fine)
    found.run()
    kept = sum(
        value.nbytes
        for group in found._groups
        for value in (*vars(group).values(), *group._sums.values())
        if isinstance(value, (torch.Tensor, np.ndarray))
    )
    assert kept <= found.layout.kept_bytes() <= 2.1 * kept
    assert working_bytes(shape, k, (), fine=fine) > found.layout.kept_bytes()
    assert working_bytes(shape, k, (), fine=True) >= working_bytes(shape, k, ())


@pytest.mark.parametrize("size", [2, 7, 40, 130])
@pytest.mark.parametrize("kind", ["gaussian", "identity", "two", "last", "decay", "pair", "zero"])
def test_the_largest_eigenvalue(size, kind, monkeypatch):
    monkeypatch.setattr(eigenvalues, "_DENSE", 1)
    values = torch.ones(size, dtype=torch.float64)
    if kind == "two":
        values[: size // 2] = 1e-3
    elif kind == "last":
        values[:-1] = 1e-3
    elif kind == "decay":
        values = torch.logspace(0, -12, size, dtype=torch.float64)
    elif kind == "pair":  # nearly equal and far from the rest
        values[2:] = 1e-3
        values[1] = 1 - 1e-9
    elif kind == "zero":
        values *= 0
    gram = torch.diag(values)
    if kind == "gaussian":
        gram = torch.cov(matrix_of(size, 2 * size, 1)[:, :, 0])
    turn = torch.linalg.qr(matrix_of(size, size, 1)[:, :, 0]).Q
    for own in (gram, turn @ gram @ turn.T, gram * 2.0**-300, gram * 2.0**300):
        expected = float(torch.linalg.eigvalsh(own)[-1])
        assert largest_eigenvalue(own) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_a_start_that_misses_the_largest_is_found_out(monkeypatch):
    """Lanczos alone would settle on 1; the proof fails, and all eigenvalues are computed."""
    monkeypatch.setattr(eigenvalues, "_DENSE", 1)
    gram = torch.diag(torch.tensor([1.0, 0.5, 0.25, 0.1, 3.0], dtype=torch.float64))
    start = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64) / 2
    monkeypatch.setattr(eigenvalues, "_start", lambda _: start)
    asked = []

    def counting(*arguments):
        asked.append(lanczos_proof(*arguments))
        return asked[-1]

    lanczos_proof = eigenvalues._none_above
    monkeypatch.setattr(eigenvalues, "_none_above", counting)
    assert largest_eigenvalue(gram) == pytest.approx(3.0, rel=1e-14)
    assert asked
    assert not any(asked)


def test_lanczos_gives_up_after_its_steps(monkeypatch):
    monkeypatch.setattr(eigenvalues, "_DENSE", 1)
    monkeypatch.setattr(eigenvalues, "_STEPS", 3)
    gram = torch.cov(matrix_of(50, 100, 1)[:, :, 0])
    assert eigenvalues._lanczos(gram) is None
    assert largest_eigenvalue(gram) == float(torch.linalg.eigvalsh(gram)[-1])


class Weights:
    """Folded matrices by layer, which count how often they are asked for."""

    def __init__(self):
        self.matrices = {
            "wide": matrix_of(10, 24, 4, 1),
            "tall": matrix_of(60, 12, 2, 2),
            "small": matrix_of(20, 12, 4, 3) * torch.logspace(0, -9, 12).view(1, -1, 1),
            "grouped": matrix_of(24, 12, 3, 4),
        }
        self.asked = []

    def __call__(self, layer, scheme):
        self.asked.append((layer, scheme))
        return self.matrices[layer] * (1 + scheme)

    def options(self):
        return [
            (layer, scheme, k, j)
            for layer, matrix in self.matrices.items()
            for scheme in (0, 3)
            for k in (1, 2, 6)
            for j in (1, 3, 5, full_rank(matrix, k, self.groups.get(layer, 1)))
        ]

    groups = {"grouped": 3}  # noqa: RUF012 - never changed


def expected_errors(weights):
    return [
        float(
            exact_errors(
                weights.matrices[layer] * (1 + scheme), k, [j], weights.groups.get(layer, 1)
            )[0]
        )
        for layer, scheme, k, j in weights.options()
    ]


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize(("memory", "count"), [(1 << 30, 3), (40_000, 1), (0, 2)])
def test_batches_give_what_single_calls_give(memory, count, threads, way):
    del way
    threads(count)
    weights = Weights()
    with single_threaded_blas():
        expected = expected_errors(weights)
    errors = ExactErrors(weights, weights.groups, memory=memory)
    options = weights.options()
    assert errors.batch(options[::3]) == expected[::3]
    assert errors.batch(options) == expected
    assert errors.kept_bytes <= memory
    asked = len(weights.asked)
    assert errors.batch(reversed(options)) == expected[::-1]
    assert errors(*options[4]) == expected[4]
    assert errors.batch([]) == []
    assert len(weights.asked) == asked


def test_other_ranks_need_no_new_decomposition():
    weights = Weights()
    errors = ExactErrors(weights, weights.groups)
    errors("wide", 0, 2, 4)
    errors("wide", 0, 2, 3)
    errors.batch([("wide", 0, 2, 5), ("wide", 0, 2, 6)])
    assert weights.asked == [("wide", 0)]
    errors("wide", 0, 3, 5)
    assert weights.asked == [("wide", 0)] * 2
    errors("small", 0, 2, 1)
    errors("small", 0, 2, 18)  # too small for Gram matrices
    errors("small", 0, 2, 19)
    assert weights.asked[2:] == [("small", 0)] * 2


def test_what_was_used_last_is_kept():
    weights = Weights()
    one = Layout(weights.matrices["wide"].shape, 2).kept_bytes()
    room = 2 * one + weights.matrices["wide"].nbytes
    errors = ExactErrors(weights, memory=room)
    for scheme in (0, 1, 2):
        errors("wide", scheme, 2, 1)
        errors("wide", 0, 2, 2 + scheme)  # used again and again
    assert weights.asked == [("wide", 0), ("wide", 1), ("wide", 2)]
    errors("wide", 1, 2, 2)
    assert weights.asked[3:] == [("wide", 1)]


def test_several_threads_may_ask_at_once():
    weights = Weights()
    errors = ExactErrors(weights, weights.groups)
    options = weights.options()
    expected = expected_errors(weights)
    found = {}

    def ask(offset):
        found[offset] = [errors(*option) for option in options[offset::4]]

    askers = [threading.Thread(target=ask, args=(offset,)) for offset in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert found == {offset: expected[offset::4] for offset in range(4)}


def test_a_failure_reaches_who_asked_and_leaves_no_trace():
    errors = ExactErrors(lambda layer, _: {"good": matrix_of(8, 6, 2)}[layer])
    with pytest.raises(KeyError):
        errors.batch([("good", 0, 2, 1), ("bad", 0, 2, 1)])
    assert errors("good", 0, 2, 1) == exact_errors(matrix_of(8, 6, 2), 2, [1])[0]
