"""The picture that `alds inspect --plot` draws, and the errors that `--original` tells."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alds_cli import api
from alds_cli.inspecting.slice_spectra import slice_spectra
from alds_cli.numerics.fold import distinct_schemes, fold, full_rank
from alds_cli.records import Choice, LayerReport


@pytest.fixture
def small(digits, tmp_path):
    api.compress(digits / "model.pt", ratio=0.5, output=tmp_path / "small.pt")
    return tmp_path / "small.pt"


def report(layer, choice):
    shape = tuple(layer.weight.shape)
    return LayerReport("0", shape, 100, 50, choice)


@settings(deadline=None, max_examples=30)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 2]),
    k=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
def test_spectra_are_those_of_the_slices(kernel, groups, k, data):
    layer = nn.Conv2d(8 * groups, 6 * groups, kernel, groups=groups)
    scheme = data.draw(st.sampled_from(distinct_schemes(kernel)))
    most = full_rank(tuple(layer.weight.shape), scheme, k, groups)
    choice = Choice(scheme, k, data.draw(st.integers(1, most)))
    (found,) = slice_spectra(nn.Sequential(layer), [report(layer, choice)]).values()
    weight = layer.weight.detach().double()
    slices = [
        np.linalg.svd(own.flatten(1).numpy(), compute_uv=False)
        for part in weight.chunk(groups)
        for own in fold(part, scheme).chunk(k, dim=1)
    ]
    expected = np.sqrt(np.mean(np.square(slices), axis=0))
    np.testing.assert_allclose(found.values, expected / expected[0], atol=1e-7)
    assert found.kept == choice.j / most


def test_layers_without_pairs_and_weights_of_zeros_have_spectra():
    network = nn.Sequential(nn.Linear(5, 3))
    (found,) = slice_spectra(network, [report(network[0], None)]).values()
    assert (found.kept, found.values.shape) == (None, (3,))
    nn.init.zeros_(network[0].weight)
    (found,) = slice_spectra(network, [report(network[0], None)]).values()
    assert not found.values.any()


@pytest.mark.parametrize(
    ("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_pictures_are_written_the_same_twice(run, small, digits, tmp_path, suffix, begins):
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        code, _, err = run(
            "inspect", small, "--original", digits / "model.pt",
            "--plot", tmp_path / f"{name}.{suffix}",
        )  # fmt: skip
        assert code == 0, err
    contents = [(tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two")]
    assert contents[0].startswith(begins)
    assert contents[0] == contents[1]


def test_the_errors_are_those_that_compress_reported(run, small, digits):
    code, out, err = run("inspect", small, "--original", digits / "model.pt", "--json")
    assert code == 0, err
    told = {layer["name"]: layer["error"] for layer in json.loads(out)["layers"]}
    result = api.compress(digits / "model.pt", ratio=0.5)
    expected = {layer.name: layer.error for layer in result.report.layers}
    assert told.keys() == expected.keys()
    assert any(error > 0.1 for error in expected.values())
    for name, error in expected.items():
        assert told[name] == pytest.approx(error, abs=1e-5), name


def test_another_network_is_no_original(run, small, tmp_path):
    torch.manual_seed(0)
    other = tmp_path / "other.pt"
    torch.save(nn.Linear(3, 2).state_dict(), other)
    plot = tmp_path / "x.png"
    code, _, err = run("inspect", small, "--original", other, "--plot", plot)
    assert code == 2
    assert "error:" in err
    assert not plot.exists()


def test_the_name_says_what_to_draw(run, small, tmp_path):
    code, _, err = run("inspect", small, "--plot", tmp_path / "picture.gif")
    assert code == 2
    assert "the name picture.gif does not say what to draw" in err
    assert not (tmp_path / "picture.gif").exists()


def test_without_matplotlib_the_extra_is_named(run, small, tmp_path, monkeypatch):
    for name in [own for own in sys.modules if own.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("inspect", small, "--plot", tmp_path / "x.png")
    assert code == 2
    assert "plots" in err
    assert not (tmp_path / "x.png").exists()
