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
from alds_cli.inspecting.slice_spectra import SliceSpectrum, slice_spectra
from alds_cli.numerics.fold import distinct_schemes, fold, full_rank
from alds_cli.records import Choice, LayerReport
from alds_cli.reporting.figures.layer_spectra import layer_spectra


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


def figure_of(*layers):
    """The axes of a figure of layers, each given by its error, its kept rank and its values."""
    pytest.importorskip("matplotlib")
    reports = [
        LayerReport(f"layer{i}", (8, 8), 100, 50, kept and Choice(0, 1, kept), error=error)
        for i, (error, kept, _) in enumerate(layers)
    ]
    spectra = {
        own.name: SliceSpectrum(np.array(values), None if kept is None else kept / len(values))
        for own, (_, kept, values) in zip(reports, layers, strict=True)
    }
    return layer_spectra(reports, spectra).axes


def test_colours_of_a_spectrum_change_where_its_mark_is():
    # 3 of 7 and 1 of 3 ranks: neither place is on a grid of equal steps for all rows.
    left, *_ = figure_of(
        (None, 3, [1.0, 0.8, 0.5, 0, 0, 0, 0]), (None, 1, [1.0, 0, 0]), (None, None, [1.0, 0.1])
    )
    assert [image.get_array().shape[1] for image in left.images] == [7, 3, 2]
    for row, (image, kept) in enumerate(zip(left.images, (3, 1, None), strict=True)):
        assert tuple(image.get_extent()) == (0, 100, row + 0.5, row - 0.5)
        values = image.get_array()[0]
        if kept is None:
            continue
        dark = np.flatnonzero(values <= 1e-3)
        mark = left.lines[row]
        assert list(mark.get_xdata()) == pytest.approx([100 * dark[0] / len(values)] * 2)
        assert list(mark.get_ydata()) == [row - 0.5, row + 0.5]
    assert len(left.lines) == 2
    assert left.get_xlim() == (0, 100)
    assert left.get_ylim() == (2.5, -0.5)
    assert {image.norm for image in left.images} == {left.images[0].norm}


def test_an_error_of_0_and_an_unknown_one_are_told_apart():
    _, right, *_ = figure_of((0.25, 1, [1.0, 0.5]), (0.0, 1, [1.0, 0]), (None, 1, [1.0, 0.5]))
    assert [bar.get_width() for bar in right.patches] == [0.25, 0, 0]
    assert [(text.xy[1], text.get_text()) for text in right.texts] == [(1, "0"), (2, "unknown")]


def test_without_any_known_error_none_are_drawn():
    axes = figure_of((None, 1, [1.0, 0.5]))
    assert [own.get_title(loc="left") for own in axes].count("error") == 0


def test_a_network_without_spectra_is_not_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    torch.save(nn.BatchNorm1d(4).state_dict(), tmp_path / "norm.pt")
    arguments = ("--arch", "torch.nn:BatchNorm1d", "--arch-arg", "num_features=4")
    plot = tmp_path / "x.png"
    code, _, err = run(
        "inspect", tmp_path / "norm.pt", *arguments, "--input-shape", "4", "--plot", plot
    )
    assert code == 2
    assert "there is nothing to draw: no layer of the network has a spectrum" in err
    assert not plot.exists()


@pytest.mark.mostly_slow(3)
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
