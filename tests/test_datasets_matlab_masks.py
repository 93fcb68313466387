"""Masks in MATLAB files: read as SciPy reads them, and refused where they are damaged."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from alds_cli.datasets.matlab_masks import read_sbd_mask
from alds_cli.errors import DataError

MASK = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def file_of(mask, *, compressed=True, **variables):
    """A file as SBD's are: a structure with cells and a mask, after another variable."""
    boundaries = np.array([[np.zeros(3)], [np.eye(2)]], dtype=object)
    kind = np.dtype([("Boundaries", "O"), ("Segmentation", "O"), ("CategoriesPresent", "O")])
    content = np.array([[(boundaries, mask, np.array([[3.0], [7.0]]))]], dtype=kind)
    written = io.BytesIO()
    savemat(
        written, {"other": np.ones(3), "GTcls": content, **variables}, do_compression=compressed
    )
    return written.getvalue()


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(["u1", "u2", "i4", "f8"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_masks_are_those_that_scipy_reads(tmp_path_factory, size, kind, compressed):
    path = tmp_path_factory.mktemp("mat") / "x.mat"
    generator = np.random.default_rng(size[0] * 10 + size[1])
    path.write_bytes(file_of(generator.integers(0, 256, size).astype(kind), compressed=compressed))
    expected = loadmat(str(path))["GTcls"][0]["Segmentation"][0]
    found = read_sbd_mask(path).numpy()
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_files_of_the_other_byte_order_are_read(tmp_path):
    """Such a file, by hand: one structure of one field."""

    def element(kind, content):
        tag = kind.to_bytes(4, "big") + len(content).to_bytes(4, "big")
        return tag + content + bytes(-len(content) % 8)

    def matrix(number, shape, name, *parts):
        sizes = b"".join(size.to_bytes(4, "big") for size in shape)
        head = element(6, number.to_bytes(4, "big") + bytes(4)) + element(5, sizes)
        return element(14, head + element(1, name) + b"".join(parts))

    mask = matrix(9, (2, 3), b"", element(2, bytes([1, 4, 2, 5, 3, 6])))
    names = element(5, (32).to_bytes(4, "big")) + element(1, b"Segmentation".ljust(32, b"\0"))
    whole = matrix(2, (1, 1), b"GTcls", names, mask)
    (tmp_path / "x.mat").write_bytes(b"MATLAB".ljust(124) + b"\x01\x00MI" + whole)
    assert read_sbd_mask(tmp_path / "x.mat").tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no MATLAB file of level 5"),
        (b"MATLAB 7.3" + bytes(200), "no MATLAB file of level 5"),
        (file_of(MASK)[:300], "ends within an element"),
        (file_of(MASK.astype(float) + 0.5), "no classes"),
        (file_of(MASK.astype(float) - 1), "no classes"),
        (file_of(np.zeros((0, 4))), "has 0 numbers for 0 × 4"),
        (file_of(np.zeros((2, 2, 2))), "no image of class numbers"),
        (file_of("text"), "no image of class numbers"),
        (file_of(MASK, GTcls=np.ones(3)), "'GTcls' is no structure"),
        (file_of(MASK, GTcls={"Boundaries": 1}), "'GTcls' has no field 'Segmentation'"),
    ],
    # Not of the contents, which tell when they were made: all workers must find the same tests.
    ids=[
        "empty",
        "7.3",
        "cut",
        "fractions",
        "negative",
        "none",
        "three axes",
        "text",
        "no structure",
        "no field",
    ],
)
def test_what_is_no_mask_is_described(tmp_path, content, message):
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(DataError, match=f"x.mat is not a mask of SBD: .*{message}") as caught:
        read_sbd_mask(tmp_path / "x.mat")
    assert caught.value.tip


WHOLE = {compressed: file_of(MASK, compressed=compressed) for compressed in (True, False)}


@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 2000),
)
@settings(deadline=None, max_examples=200)
def test_damaged_files_give_a_mask_or_a_refusal(tmp_path_factory, compressed, changes, cut):
    content = bytearray(WHOLE[compressed])
    for place, value in changes:
        content[place % len(content)] = value
    path = Path(tmp_path_factory.getbasetemp()) / "damaged.mat"
    path.write_bytes(bytes(content[: len(content) - cut if cut < 200 else None]))
    try:
        found = read_sbd_mask(path)
    except DataError:
        return
    assert found.ndim == 2
    if compressed:  # with a sum over its content, damage there cannot go unnoticed
        assert np.array_equal(found.numpy(), MASK)
