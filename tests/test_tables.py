"""Error tables on disk: exact, checked, and never worth an error of their own."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from alds_cli import profiling
from alds_cli.checkpoint import (
    cache_path,
    load_cached,
    read_table,
    store_cached,
    write_table,
)
from alds_cli.checkpoint import error_tables as stored_tables
from alds_cli.errors import OutputError, TableError
from alds_cli.numerics.device_spectra import device_spectra
from alds_cli.profiling import error_tables, layer_weights_hash
from alds_cli.surgery import find_layers


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 1), nn.Flatten(), nn.Linear(6, 5))


@pytest.fixture
def tabled():
    net = network()
    specs = find_layers(net)
    return net, specs, error_tables(net, specs, schemes=(0, 1, 2, 3), cache=False)[0]


def require_equal(found, expected):
    assert found.weights_hash == expected.weights_hash
    assert set(found.layers) == set(expected.layers)
    for name, layer in expected.layers.items():
        own = found.layers[name]
        assert own.spec == layer.spec
        assert dict(own.norms) == dict(layer.norms)
        assert dict(own.energies) == dict(layer.energies)
        assert dict(own.slack) == dict(layer.slack)
        for field in ("choices", "costs", "sum_squares", "largest", "tail_energy", "saved"):
            assert np.array_equal(getattr(own, field), getattr(layer, field))
        assert np.array_equal(own.exact, layer.exact, equal_nan=True)


def test_round_trip_is_exact(tabled, tmp_path):
    _, specs, table = tabled
    path = tmp_path / "table.safetensors"
    write_table(table, path)
    require_equal(read_table(path, table.weights_hash, specs), table)
    first = path.read_bytes()
    write_table(table, path)
    assert path.read_bytes() == first


def test_second_call_computes_nothing(monkeypatch):
    net = network()
    specs = find_layers(net)
    first, computed = error_tables(net, specs)
    assert computed
    monkeypatch.setattr(profiling, "run_jobs", lambda *_, **__: pytest.fail("computed again"))
    second, computed = error_tables(net, specs)
    assert not computed
    require_equal(second, first)


def test_missing_schemes_are_added_to_what_is_there(monkeypatch):
    net = network()
    specs = find_layers(net)
    error_tables(net, specs)
    folded = []
    monkeypatch.setattr(profiling, "fold", lambda w, s: folded.append(s) or _fold(w, s))
    both, computed = error_tables(net, specs, schemes=(0, 3))
    assert computed
    assert folded == [3]  # only the 3×3 layer folds differently by it
    alone, _ = error_tables(net, specs, schemes=(0, 3), cache=False)
    require_equal(both, alone)
    again, computed = error_tables(net, specs, schemes=(3,))
    assert not computed
    require_equal(again, both)


_fold = profiling.fold


def test_a_scheme_that_applies_to_no_layer_asks_for_nothing():
    net = nn.Sequential(nn.Linear(4, 4))
    table, computed = error_tables(net, find_layers(net), schemes=(3,))
    assert not computed
    assert not table.layers


def test_a_table_of_fewer_slices_is_made_anew_where_more_are_possible():
    net = network()
    specs = find_layers(net)
    few = {name: replace(spec, max_slices=1) for name, spec in specs.items()}
    first, _ = error_tables(net, few)
    assert all((layer.choices[:, 1] == 1).all() for layer in first.layers.values())
    again, computed = error_tables(net, few)
    assert not computed
    require_equal(again, first)
    more, computed = error_tables(net, specs)
    assert computed
    require_equal(more, error_tables(net, specs, cache=False)[0])
    assert not error_tables(net, few)[1]  # what has more slices serves those who need fewer


def test_other_weights_have_other_tables():
    specs = find_layers(network())
    assert layer_weights_hash(network(), specs) == layer_weights_hash(network(), specs)
    assert layer_weights_hash(network(), specs) != layer_weights_hash(network(1), specs)
    half = layer_weights_hash(network().half(), specs)
    assert half != layer_weights_hash(network(), specs)


def test_foreign_tables_are_refused(tabled, tmp_path):
    _, specs, table = tabled
    path = tmp_path / "table.safetensors"
    write_table(table, path)
    with pytest.raises(TableError, match="other weights"):
        read_table(path, "0" * 64, specs)
    fewer = {name: spec for name, spec in specs.items() if name != "1"}
    with pytest.raises(TableError):
        read_table(path, table.weights_hash, fewer)
    net = network(1)
    with pytest.raises(TableError, match="other weights"):
        error_tables(net, find_layers(net), table=path)
    with pytest.raises(TableError):
        error_tables(net, find_layers(net), table=tmp_path / "none")


def column(number, value):
    def change(arrays, _):
        arrays["1:errors"][number, 0] = value

    return change


def choice(axis, value):
    def change(arrays, _):
        arrays["1:choices"][0, axis] = value

    return change


def array(name, made):
    def change(arrays, _):
        arrays[name] = made(arrays[name])

    return change


def entry(**changes):
    def change(_, layers):
        layers["1"] |= changes

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(column(0, value) for value in (np.nan, np.inf, -1.0)),
        *(column(4, value) for value in (np.inf, -1.0)),
        *(choice(axis, value) for axis in range(3) for value in (-1, 9 if axis == 0 else 0)),
        array("1:errors", lambda own: own.astype(np.float32)),
        array("1:errors", lambda own: own[:4]),
        array("1:errors", lambda own: own[:, :-1].copy()),
        array("1:errors", lambda own: own[0].copy()),
        array("1:choices", lambda own: own.astype(np.float64)),
        array("1:choices", lambda own: own[:, :2].copy()),
        array("1:choices", lambda own: own[:0].copy()),
        array("1:choices", lambda own: own[0].copy()),
        *(entry(groups=value) for value in (0, -1, 2, "1", True, 1.0, None, 2**60)),
        *(entry(shape=value) for value in ([], [6, 6], "6", [6, -6, 1, 1], None, [10**400])),
        *(entry(max_slices=value) for value in (0, -1, "x", [], 1.5)),
        *(entry(schemes=value) for value in ({}, [], {"9": {}}, {"0": {}}, {"0": None})),
        entry(schemes={"0": {"norm": "nan", "energy": "0x1p0", "slack": "0x0p0"}}),
        entry(schemes={"0": {"norm": "inf", "energy": "0x1p0", "slack": "0x0p0"}}),
        entry(schemes={"0": {"norm": "-0x1p0", "energy": "0x1p0", "slack": "0x0p0"}}),
        entry(schemes={"0": {"norm": "0x1p99999", "energy": "0x1p0", "slack": "0x0p0"}}),
        entry(schemes={"0": {"norm": 1.0, "energy": "x", "slack": "0x0p0"}}),
        entry(colour="red"),
    ],
)
def test_nonsense_with_a_right_checksum_is_noticed(change, tabled, tmp_path, monkeypatch):
    _, specs, table = tabled
    path = tmp_path / "table.safetensors"
    write_table(table, path)
    with safe_open(path, framework="np") as file:
        head = json.loads(file.metadata()["alds_table"])
        arrays = {key: file.get_tensor(key).copy() for key in file.keys()}  # noqa: SIM118
    change(arrays, head["layers"])
    save_file(arrays, path, metadata={"alds_table": json.dumps(head)})
    monkeypatch.setattr(stored_tables, "_checksum", lambda *_: head["sha256"])
    with pytest.raises(TableError) as caught:
        read_table(path, table.weights_hash, specs)
    assert caught.value.message.isprintable()


def test_every_flipped_byte_is_noticed_or_harmless(tabled, tmp_path):
    _, specs, table = tabled
    path = tmp_path / "table.safetensors"
    write_table(table, path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    offsets = {*range(header), *range(header, len(whole), max(1, (len(whole) - header) // 100))}
    noticed = 0
    for offset in sorted(offsets):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << (offset % 8)
        path.write_bytes(damaged)
        try:
            found = read_table(path, table.weights_hash, specs)
        except TableError:
            noticed += 1
        else:
            require_equal(found, table)
    assert noticed > 0.9 * len(offsets)


@pytest.mark.parametrize("length", [0, 1, 8, 100, 1000, -1])
def test_half_a_table_is_computed_anew(length, caplog):
    net = network()
    specs = find_layers(net)
    expected, _ = error_tables(net, specs)
    path = cache_path(expected.weights_hash)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    found, computed = error_tables(net, specs)
    assert computed
    require_equal(found, expected)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "computed anew" in record.getMessage()
    assert path.read_bytes() == whole


def test_another_version_is_computed_anew(monkeypatch, caplog, tabled):
    net, specs, table = tabled
    path = store_cached(table)
    monkeypatch.setattr(stored_tables, "TABLE_VERSION", 99)
    assert cache_path(table.weights_hash) != path  # versions do not share files
    path.rename(cache_path(table.weights_hash))
    assert load_cached(table.weights_hash, specs) is None
    assert "another version" in caplog.text
    found, computed = error_tables(net, specs, schemes=(0, 1, 2, 3))
    assert computed
    require_equal(found, table)


def test_a_file_where_the_cache_should_be_is_a_warning(cache_folder_of_the_test, caplog):
    cache_folder_of_the_test.write_text("in the way")
    net = network()
    table, computed = error_tables(net, find_layers(net))
    assert computed
    assert len(table.layers) == 3
    assert "not cached" in caplog.text
    assert cache_folder_of_the_test.read_text() == "in the way"


def test_a_folder_where_the_table_should_be_is_a_warning(caplog, tabled):
    _, specs, table = tabled
    cache_path(table.weights_hash).mkdir(parents=True)
    assert load_cached(table.weights_hash, specs) is None
    assert store_cached(table) is None
    assert "not cached" in caplog.text


def test_a_table_that_cannot_be_written_where_the_user_wants_it(tabled, tmp_path):
    with pytest.raises(OutputError):
        write_table(tabled[2], tmp_path / "no" / "table")


def test_no_cache_leaves_no_trace(cache_folder_of_the_test):
    net = network()
    error_tables(net, find_layers(net), cache=False)
    assert not cache_folder_of_the_test.exists()


def test_progress_counts_to_the_end():
    net = network()
    events = []
    error_tables(net, find_layers(net), schemes=(0, 3), progress=events.append)
    assert [(event.task, event.done, event.total) for event in events] == [
        ("profile", done, 4) for done in range(1, 5)
    ]


def test_an_accelerator_gives_bounds_as_well(monkeypatch):
    """What an accelerator does, done by the CPU."""
    net = nn.Sequential(nn.Conv2d(16, 24, 3), nn.Conv2d(24, 24, 3, groups=2), nn.Linear(24, 5))
    specs = find_layers(net)
    expected, _ = error_tables(net, specs, schemes=(0, 1, 2, 3), cache=False)
    asked = []

    def on_device(matrix, ks, groups, *, device):
        asked.append(device)
        return device_spectra(matrix, ks, groups, device=torch.device("cpu"))

    monkeypatch.setattr(profiling, "device_spectra", on_device)
    found, computed = error_tables(
        net, specs, schemes=(0, 1, 2, 3), cache=False, device=torch.device("cuda")
    )
    assert computed
    assert len(asked) == sum(len(layer.norms) for layer in expected.layers.values())
    for name, layer in expected.layers.items():
        own = found.layers[name]
        assert np.array_equal(own.choices, layer.choices)
        slack = np.array([own.slack[scheme] for scheme in own.choices[:, 0]])
        floor = np.square(layer.largest) - 2 * np.array(
            [layer.slack[scheme] for scheme in layer.choices[:, 0]]
        )
        assert (np.square(own.largest) >= floor).all()
        assert (np.square(own.largest) - 2 * slack <= np.square(layer.largest)).all()
        assert np.allclose(own.tail_energy, layer.tail_energy, rtol=1e-10, atol=1e-10)


def test_what_no_device_can_hold_is_left_to_the_cpu(monkeypatch, tabled):
    net, specs, table = tabled

    def too_small(*_arguments, **_options):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(profiling, "device_spectra", too_small)
    events = []
    found, _ = error_tables(
        net,
        specs,
        schemes=(0, 1, 2, 3),
        cache=False,
        device=torch.device("cuda"),
        progress=events.append,
    )
    require_equal(found, table)
    assert events[-1].done == events[-1].total == len(events)


def test_threads_change_no_bit(threads):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(32, 48, 3), nn.Conv2d(48, 96, 3), nn.Flatten(), nn.Linear(96, 10))
    found = []
    for count in (1, 4):
        threads(count)
        found.append(error_tables(net, find_layers(net), schemes=(0, 1, 2, 3), cache=False)[0])
    require_equal(*found)
