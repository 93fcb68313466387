"""Times of whole networks' layers: measured once, added up, kept on disk."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from torch import nn

from alds_cli.checkpoint.latencies import (
    MAX_AGE,
    LayerTimes,
    PairTime,
    latency_path,
    load_latencies,
    store_latencies,
)
from alds_cli.latency import (
    MARGIN,
    LayerLatency,
    latency_candidates,
    layer_latencies,
    measuring_conditions,
    predicted_ns,
)
from alds_cli.records import Choice
from alds_cli.surgery import find_layers
from alds_cli.tracing.trace import trace

CPU = torch.device("cpu")
NOW = 1e9


class Network(nn.Module):
    """Two layers alike, one called three times, one on its own."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(16, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.thrice = nn.Conv2d(16, 16, 1)
        self.unused = nn.Conv2d(16, 16, 3)
        self.last = nn.Linear(16, 40)

    def forward(self, x):
        x = self.two(self.one(x))
        for _ in range(3):
            x = self.thrice(x)
        return self.last(x.mean((2, 3)))


class FakeMeasure:
    """A layer takes a second for each of its input channels; its pairs, a fraction of it."""

    def __init__(self, quotient=lambda _: 0.5, rounds=11, restless=False):
        self.quotient, self.rounds, self.restless = quotient, rounds, restless
        self.asked = []

    def __call__(self, configuration, choices, seconds):
        assert seconds >= 0
        self.asked.append((configuration, list(choices)))
        dense = float(configuration.in_channels) * np.ones(self.rounds)
        if self.restless:
            dense[::2] *= 3
        return {None: dense} | {c: dense * self.quotient(c) for c in choices}

    @property
    def configurations(self):
        return {configuration for configuration, _ in self.asked}


def measured(network=None, *, measure, shape=(16, 8, 8), choices=None, **options):
    network = network or Network()
    seen = trace(network, shape)
    specs = find_layers(network, seen)
    candidates = choices or {name: latency_candidates(spec) for name, spec in specs.items()}
    options = {"device": CPU, "now": lambda: NOW} | options
    return layer_latencies(network, specs, seen, candidates, measure=measure, **options)


def test_equal_configurations_are_measured_once_and_calls_are_added_up():
    measure = FakeMeasure()
    events = []
    found = measured(measure=measure, cache=False, progress=events.append)
    assert set(found) == {"one", "two", "thrice", "last"}
    assert len(measure.configurations) == 3
    assert sum(choices == [] for _, choices in measure.asked) == 3
    assert found["one"] == found["two"]
    assert found["one"].dense_ns == 16 * 10**9
    assert found["thrice"].dense_ns == 3 * 16 * 10**9
    for own in found.values():
        assert own.pairs
        assert set(own.pairs.values()) == {own.dense_ns // 2}
    assert [(e.task, e.done, e.total) for e in events] == [("measure", i, 3) for i in (1, 2, 3)]


def test_a_layer_called_with_several_shapes_is_measured_at_each():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x):
            return sum(self.head(x[..., :extent, :extent]).mean() for extent in (8, 4, 4))

    def quotient(choice):
        return 0.5 if choice.k == 1 else 2.0

    measure = FakeMeasure(quotient)
    found = measured(Pyramid(), measure=measure, cache=False)["head"]
    shapes = {configuration.input_shape for configuration in measure.configurations}
    assert shapes == {(1, 16, 8, 8), (1, 16, 4, 4)}
    assert found.dense_ns == 3 * 16 * 10**9
    assert found.pairs[Choice(0, 1, 8)] == found.dense_ns // 2
    assert found.pairs[Choice(0, 2, 8)] == 2 * found.dense_ns


def test_the_batch_size_is_part_of_the_question():
    measure = FakeMeasure()
    measured(measure=measure, batch_size=5, cache=False)
    assert {own.input_shape[0] for own in measure.configurations} == {5}


@pytest.mark.parametrize(
    ("quotient", "faster"),
    [(1 - 2 * MARGIN, True), (1 - MARGIN / 2, False), (1.0, False), (1.02, False)],
)
def test_faster_means_by_a_margin(quotient, faster):
    own = measured(measure=FakeMeasure(lambda _: quotient), cache=False)["one"]
    assert own.faster == (frozenset(own.pairs) if faster else frozenset())


def test_a_pair_that_is_faster_in_most_rounds_only_is_not_faster():
    """Seven rounds bound the median by the slowest of them, eleven by the third slowest."""
    outcomes = {}
    for rounds in (7, 11):
        noise = np.full(rounds, 0.8)
        noise[:2] = 1.5
        own = measured(measure=FakeMeasure(lambda _, n=noise: n, rounds), cache=False)["one"]
        assert set(own.pairs.values()) == {round(0.8 * own.dense_ns)}
        outcomes[rounds] = bool(own.faster)
    assert outcomes == {7: False, 11: True}


def test_what_is_cached_is_not_measured_again():
    first, second = FakeMeasure(), FakeMeasure()
    found = measured(measure=first)
    assert first.asked
    assert measured(measure=second) == found
    assert second.asked == []


def test_without_the_cache_nothing_is_read_or_written():
    measured(measure=FakeMeasure(), cache=False)
    assert not latency_path(measuring_conditions(CPU)).exists()
    measured(measure=FakeMeasure())
    again = FakeMeasure()
    measured(measure=again, cache=False)
    assert again.asked


def test_a_layer_with_nothing_on_offer_is_measured_as_it_is():
    measure, again = FakeMeasure(), FakeMeasure()
    found = measured(measure=measure, choices={"one": [], "unused": []})
    assert found == {"one": LayerLatency(16 * 10**9, {}, frozenset())}
    assert [choices for _, choices in measure.asked] == [[]]
    assert measured(measure=again, choices={"one": []}) == found
    assert again.asked == []


def test_time_that_a_layer_does_not_use_goes_to_the_others():
    allowed = {}

    def measure(configuration, choices, seconds):
        if choices:
            allowed[configuration] = seconds
        return {own: np.full(11, 1e-9) for own in (None, *choices)}

    one = [Choice(0, 1, 8)]
    choices = dict.fromkeys(("one", "thrice", "last"), one)
    measured(measure=measure, choices=choices, cache=False, seconds=600.0)
    assert list(allowed.values()) == pytest.approx([200.0, 300.0, 600.0], abs=5.0)


def test_choices_given_up_are_known_as_such():
    first, second = FakeMeasure(lambda choice: choice.k), FakeMeasure()
    assert all(c.k <= 2 or c.j <= 8 for c in measured(measure=first)["one"].pairs)
    measured(measure=second)
    assert second.asked == []


def test_only_what_is_new_is_measured():
    measured(measure=FakeMeasure(), choices={"one": [Choice(0, 1, 8), Choice(0, 1, 10)]})
    measure = FakeMeasure(lambda _: 0.25)
    asked = [Choice(0, 1, 8), Choice(0, 1, 12)]
    found = measured(measure=measure, choices={"two": asked})["two"]
    assert [choices for _, choices in measure.asked] == [[], [Choice(0, 1, 12)]]
    assert found.pairs == {
        Choice(0, 1, 8): found.dense_ns // 2,
        Choice(0, 1, 12): found.dense_ns // 4,
    }
    last = FakeMeasure()
    measured(measure=last, choices={"one": [*asked, Choice(0, 1, 10)]})
    assert last.asked == []


def test_other_conditions_are_other_times(threads, monkeypatch):
    def is_measured(**options):
        measure = FakeMeasure()
        measured(measure=measure, **options)
        return bool(measure.asked)

    assert is_measured()
    assert not is_measured()
    assert is_measured(batch_size=2)
    assert is_measured(network=Network().double())
    assert not is_measured(network=Network().half())  # the CPU computes in float32
    threads(torch.get_num_threads() + 1)
    assert is_measured()
    threads(1)
    monkeypatch.setenv("OMP_WAIT_POLICY", "something else")
    assert is_measured()
    monkeypatch.undo()


def test_conditions_name_what_matters(threads):
    threads(1)
    here = measuring_conditions(CPU)
    assert here["threads"] == 1
    assert here["torch"] == torch.__version__
    assert here["device"]
    json.dumps(here)
    assert measuring_conditions(torch.device("meta")) != here


def test_times_of_a_busy_machine_are_not_kept_and_it_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        measured(measure=FakeMeasure(restless=True))
    assert "busy" in caplog.text
    assert not latency_path(measuring_conditions(CPU)).exists()
    caplog.clear()
    measured(measure=FakeMeasure())
    assert caplog.text == ""


def test_prediction_adds_what_layers_gain():
    latencies = {
        "a": LayerLatency(1000, {Choice(0, 1, 8): 400, Choice(0, 2, 8): 1100}, frozenset()),
        "b": LayerLatency(50, {Choice(0, 1, 8): 20}, frozenset()),
    }
    assert predicted_ns(5000, latencies, {"a": None, "b": None, "c": None}) == 5000
    plan = {"a": Choice(0, 1, 8), "b": Choice(0, 1, 8)}
    assert predicted_ns(5000, latencies, plan) == 5000 - 600 - 30
    assert predicted_ns(5000, latencies, {"a": Choice(0, 2, 8)}) == 5100
    with pytest.raises(KeyError):
        predicted_ns(5000, latencies, {"b": Choice(0, 1, 9)})


def test_real_times():
    """No fake: every number is there and makes sense."""
    found = measured(measure=None, cache=False, seconds=0.5)
    assert set(found) == {"one", "two", "thrice", "last"}
    for own in found.values():
        assert own.dense_ns > 0
        assert own.pairs
        assert all(value > 0 for value in own.pairs.values())
        assert all(own.pairs[choice] < own.dense_ns for choice in own.faster)


CONDITIONS = {"device": "abacus", "threads": 3}
TIMES = LayerTimes(12.5, {Choice(0, 1, 8): PairTime(0.5, 0.625), Choice(3, 4, 2): None}, NOW)


def test_times_come_back_from_disk(cache_folder_of_the_test):
    path = store_latencies(CONDITIONS, {"x": TIMES}, now=NOW)
    assert path.parent == cache_folder_of_the_test
    assert [own.name for own in path.parent.iterdir()] == [path.name]  # nothing half-written
    assert load_latencies(CONDITIONS, now=NOW) == {"x": TIMES}
    assert load_latencies({**CONDITIONS, "threads": 4}, now=NOW) == {}


def test_entries_are_merged():
    other = LayerTimes(1.0, {}, NOW)
    store_latencies(CONDITIONS, {"x": TIMES, "y": TIMES}, now=NOW)
    store_latencies(CONDITIONS, {"y": other, "z": other}, now=NOW)
    assert load_latencies(CONDITIONS, now=NOW) == {"x": TIMES, "y": other, "z": other}


def test_old_times_are_forgotten():
    store_latencies(CONDITIONS, {"x": TIMES}, now=NOW)
    assert load_latencies(CONDITIONS, now=NOW + MAX_AGE) == {"x": TIMES}
    assert load_latencies(CONDITIONS, now=NOW + MAX_AGE + 1) == {}
    assert load_latencies(CONDITIONS, now=NOW - 1) == {}
    store_latencies(CONDITIONS, {"y": TIMES}, now=NOW + 2 * MAX_AGE)
    assert "x" not in json.loads(latency_path(CONDITIONS).read_text())["layers"]


def damaged(change):
    """The file after a change of its content."""
    path = store_latencies(CONDITIONS, {"x": TIMES}, now=NOW)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("layers"),
        lambda content: content.update(layers=[]),
        lambda content: content.update(conditions={}),
        lambda content: content["layers"].update(x=None),
        lambda content: content["layers"]["x"].update(dense_ns=-1.0),
        lambda content: content["layers"]["x"].update(dense_ns="12"),
        lambda content: content["layers"]["x"].update(dense_ns=float("nan")),
        lambda content: content["layers"]["x"].update(measured=float("inf")),
        lambda content: content["layers"]["x"].pop("pairs"),
        lambda content: content["layers"]["x"]["pairs"].append([0, 1]),
        lambda content: content["layers"]["x"]["pairs"].append([0, 1, 9, 0.5]),
        lambda content: content["layers"]["x"]["pairs"].append([0, 1, 9, 0.5, 0.5, 0.5]),
        lambda content: content["layers"]["x"]["pairs"].append([0, 1, 9, 0, 1]),
        lambda content: content["layers"]["x"]["pairs"].append([0, 1, 9.5, 0.5, 0.5]),
        lambda content: content["layers"]["x"]["pairs"].append([0, 1, True, 0.5, 0.5]),
    ],
)
def test_damage_is_a_warning(change, caplog):
    damaged(change)
    with caplog.at_level(logging.WARNING):
        assert load_latencies(CONDITIONS, now=NOW) == {}
    assert "damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_files_that_are_no_json_are_a_warning_and_measured_anew(content, caplog):
    measured(measure=FakeMeasure())
    path = latency_path(measuring_conditions(CPU))
    path.write_bytes(content)
    measure, again = FakeMeasure(), FakeMeasure()
    with caplog.at_level(logging.WARNING):
        measured(measure=measure)
    assert str(path) in caplog.text
    assert measure.asked
    measured(measure=again)
    assert again.asked == []


def test_a_cache_that_cannot_be_written_is_only_a_warning(caplog, monkeypatch, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("ALDS_CACHE_DIR", str(blocker / "cache"))
    with caplog.at_level(logging.WARNING):
        assert store_latencies(CONDITIONS, {"x": TIMES}) is None
    assert "not cached" in caplog.text
    assert load_latencies(CONDITIONS) == {}
