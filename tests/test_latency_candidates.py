"""The grid of choices that are worth measuring."""

from __future__ import annotations

import pytest

from alds_cli.latency import latency_candidates
from alds_cli.records import LayerSpec
from alds_cli.surgery import require_fitting


def conv(f, c, *kernel, **rest):
    return LayerSpec("layer", f"conv{len(kernel)}d", f, c, kernel, **rest)


def ranks(candidates, scheme, k):
    return [own.j for own in candidates if (own.scheme, own.k) == (scheme, k)]


SPECS = {
    "square": conv(64, 64, 3, 3),
    "wide": conv(512, 512, 3, 3),
    "stem": conv(32, 3, 3, 3),
    "narrow": conv(16, 32, 1, 1),
    "one channel": conv(8, 1, 5, 5),
    "three axes": conv(24, 12, 3, 3, 3),
    "linear": LayerSpec("layer", "linear", 1000, 1280),
    "sequence": LayerSpec("layer", "linear", 512, 128, max_slices=1),
    "grouped": conv(64, 64, 3, 3, groups=4),
}


@pytest.mark.parametrize("multiple", [1, 4, 8, 12])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_candidate_can_be_carried_out(spec, multiple):
    found = latency_candidates(spec, (0, 1, 2, 3), multiple)
    assert len(set(found)) == len(found)
    assert all(choice.j % multiple == 0 for choice in found)
    for choice in found:
        require_fitting({"layer": spec}, {"layer": choice})  # shrinks the layer, too


def test_the_grid_starts_dense_and_grows_by_octaves():
    found = latency_candidates(SPECS["wide"])
    assert ranks(found, 0, 1) == [
        *range(8, 65, 8),
        *range(80, 129, 16),
        *range(160, 257, 32),
        *range(320, 449, 64),
    ]


def test_all_slices_and_schemes_are_offered():
    found = latency_candidates(SPECS["square"], (0, 1, 2, 3))
    assert {own.scheme for own in found} == {0, 1, 2, 3}
    assert {own.k for own in found if own.scheme == 0} == {1, 2, 4, 8, 16, 32, 64}
    assert {own.scheme for own in latency_candidates(SPECS["square"])} == {0}


def test_slices_are_counted_inside_a_group():
    assert {own.k for own in latency_candidates(SPECS["grouped"])} <= {1, 2, 4, 8, 16}
    assert latency_candidates(SPECS["grouped"])


def test_slices_are_limited_where_the_surroundings_allow_no_more():
    assert {own.k for own in latency_candidates(SPECS["sequence"])} == {1}


def test_small_layers_get_powers_of_two():
    # 16·32 weights, 48 for each rank in one slice: 10 ranks, in two slices 64: 7.
    found = latency_candidates(SPECS["narrow"])
    assert ranks(found, 0, 1) == [8]
    assert ranks(found, 0, 2) == [1, 2, 4]
    assert ranks(latency_candidates(SPECS["narrow"], rank_multiple=3), 0, 2) == [3, 6]


def test_a_layer_that_must_stay_has_none():
    assert latency_candidates(conv(64, 64, 3, 3, reason="it is shared")) == ()


def test_a_layer_that_cannot_shrink_has_none():
    assert latency_candidates(LayerSpec("layer", "linear", 1, 5)) == ()
