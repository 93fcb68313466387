"""The search for the smallest network that loses at most so many points on images."""

from __future__ import annotations

import json
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import alds_cli
from alds_cli.compression.drop_search import EVALUATIONS, _Search, _Tried
from alds_cli.datasets import sources
from alds_cli.errors import ContractError, DropUnreachableError, RatioUnreachableError
from alds_cli.evaluation import paired_drop
from alds_cli.records import DropPoint

# ---------------------------------------------------------------- the interval


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_drop_is_the_difference_of_accuracies_and_lies_in_its_interval(pairs):
    before, after = (torch.tensor(own) for own in zip(*pairs, strict=True))
    drop, low, high = paired_drop(before, after).with_interval
    assert drop == pytest.approx(100 * float(before.double().mean() - after.double().mean()))
    assert low <= drop <= high
    assert high > low
    mirrored = paired_drop(after, before).with_interval
    assert mirrored == pytest.approx((-drop, -high, -low))


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.0), (0.05, 0.03), (0.3, 0.1)])
def test_the_interval_covers_the_true_drop_as_often_as_it_says(lost, gained):
    draws = np.random.default_rng(0).multinomial(400, [lost, gained, 1 - lost - gained], 2000)
    covered = 0
    for worse, better, _ in draws.tolist():
        before, after = torch.ones(400, dtype=torch.bool), torch.ones(400, dtype=torch.bool)
        after[:worse], before[worse : worse + better] = False, False
        _, low, high = paired_drop(before, after).with_interval
        covered += low <= 100 * (lost - gained) <= high
    assert 0.93 * 2000 <= covered <= 0.99 * 2000


# ---------------------------------------------------------------- the search


class Searched(_Search):
    """A search whose networks lose what a function of the ratio's steps says."""

    def __init__(self, drops, allowed, reachable=1000, of="top1"):
        options = SimpleNamespace(max_drop=allowed)
        session = SimpleNamespace(options=options, params=1000)
        super().__init__(session, SimpleNamespace(of=of), "artefact.pt")
        self.drops, self.reachable, self.asked = drops, reachable, []
        self.limited = Fraction(2, 5)

    def _carried_out(self, ratio):
        ratio = self.limited if ratio is None else ratio
        step = int(ratio * 1000)  # exact: a fraction
        if step > self.reachable:
            raise RatioUnreachableError("no", largest=self.reachable / 1000)
        self.asked.append(step)
        drop = self.drops(step)
        point = DropPoint(float(ratio), 1000 - step, drop, drop, drop)
        self._points.append(point)
        return _Tried(SimpleNamespace(step=step), None, point)

    def searched(self):
        self.halve()
        self.leap()
        return self.chosen().run.step


@given(st.integers(0, 999), st.integers(1, 999))
def test_a_drop_that_only_rises_is_found_to_the_step(last, reachable):
    search = Searched(lambda step: 0.0 if step <= last else 9.0, 1.0, reachable)
    best = min(last, reachable)
    if best == 0:
        with pytest.raises(ContractError):
            search.searched()
    else:
        found = search.searched()
        assert best - 2 <= found <= best
    assert len(search.asked) == len(set(search.asked)) <= EVALUATIONS


def test_an_uneven_drop_is_found_near_the_best_of_a_fine_grid():
    """The drop rises with noise, as measured ones do."""
    distances = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        curve = 8 * (np.arange(1001) / 500) ** 3 + rng.normal(0, 0.1, 1001)
        allowed = float(rng.uniform(0.5, 3))
        search = Searched(lambda step, curve=curve: float(curve[step]), allowed)
        found = search.searched()
        assert curve[found] <= allowed
        assert len(search.asked) <= EVALUATIONS
        grid = np.arange(10, 960, 10)
        distances.append(int(grid[curve[grid] <= allowed].max()) - found)
    assert np.mean(np.array(distances) <= 20) >= 0.9


def test_a_better_ratio_beyond_one_that_loses_too_much_is_found():
    def drop(step):
        return 9.0 if step in range(500, 512) or step > 530 else 0.1

    assert Searched(drop, 1.0).searched() > 511


def test_where_all_lose_too_much_the_error_names_the_least():
    search = Searched(lambda step: 2 + step / 1000, 1.0)
    with pytest.raises(DropUnreachableError, match=r"top-1: at a ratio of 0\.00\d it loses 2\.0"):
        search.searched()
    search = Searched(lambda step: 2 + step / 1000, 1.0, of="miou")
    with pytest.raises(DropUnreachableError, match="at most 1 points of mean IoU: at a ratio"):
        search.searched()


def test_nothing_larger_than_the_limits_is_tried():
    search = Searched(lambda step: step / 500, 1.0)
    search.require_limits()
    assert search.searched() >= 498
    assert min(search.asked) == 400


def test_limits_that_lose_too_much_are_refused_at_once():
    search = Searched(lambda step: step / 100, 1.0)
    with pytest.raises(DropUnreachableError, match=r"the limits loses 4\.00 points of top-1"):
        search.require_limits()
    assert search.asked == [400]


# ---------------------------------------------------------------- networks


@pytest.fixture(scope="module")
def trained(digits):
    """A network and images that it answers as its labels say, but for every eighth."""
    network = alds_cli.load(digits / "model.pt")
    stored = load_file(digits / "data.safetensors")
    inputs = stored["images"].permute(0, 3, 1, 2).float() / 255
    labels = network.eval()(inputs).argmax(1)
    labels[::8] = (labels[::8] + 1) % 10
    save_file({**stored, "labels": labels}, digits / "answered.safetensors")
    return digits / "model.pt", f"tensors:{digits / 'answered.safetensors'}"


@pytest.fixture
def ask(run, trained):
    model, data = trained

    def call(*arguments):
        if "--method" not in arguments:
            arguments = ("--method", "alds", *arguments)
        return run("compress", model, "--data", data, "--mean", 0, "--std", 1, *arguments)

    return call


@pytest.mark.parametrize("of", ["top1", "agreement"])
def test_the_drop_is_that_of_the_artefact(ask, trained, tmp_path, of):
    model, data = trained
    path = tmp_path / "small.pt"
    code, out, err = ask("--max-drop", 20, "--drop-of", of, "-o", path, "--json")
    assert code == 0, err
    found = json.loads(out)
    search = found["drop"]
    assert search["chosen"] in search["tried"]
    assert 1 <= len(search["tried"]) <= EVALUATIONS
    assert search["chosen"]["drop"] <= 20
    assert not [
        point
        for point in search["tried"]
        if point["drop"] <= 20 and point["ratio"] > search["chosen"]["ratio"]
    ]
    assert found["params_after"] == search["chosen"]["params"]
    assert sum(p.numel() for p in alds_cli.load(path).parameters()) == found["params_after"]
    before, after, labels = answered(model, path, data)
    expected = labels if of == "top1" else before
    right = [float((own == expected).double().mean()) for own in (before, after)]
    assert search["before"] == pytest.approx(100 * right[0])
    assert search["chosen"]["drop"] == pytest.approx(100 * (right[0] - right[1]))


def answered(model, small, data):
    """The classes by two networks, and the labels."""
    stored = load_file(data.removeprefix("tensors:"))
    inputs = stored["images"].permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        first, second = (alds_cli.load(own).eval()(inputs).argmax(1) for own in (model, small))
    return first, second, stored["labels"]


def test_images_that_calibration_sees_do_not_judge(ask, tmp_path):
    arguments = ("--method", "alds-data", "--max-drop", 30, "-o", tmp_path / "small.pt", "--json")
    code, out, err = ask(*arguments, "--samples", 24)
    assert code == 0, err
    assert json.loads(out)["drop"]["images"] == 64 - 24
    (tmp_path / "small.pt").unlink()
    code, out, err = ask(*arguments, "--samples", 64)
    assert code == 0, err
    assert "32 of the 64 images make the network, and the others judge it" in err
    assert json.loads(out)["drop"]["images"] == 32


def test_one_image_cannot_make_a_network_and_judge_it(run, trained, tmp_path):
    model, data = trained
    stored = load_file(data.removeprefix("tensors:"))
    one = {name: tensor[:1].clone() for name, tensor in stored.items()}
    save_file(one, tmp_path / "one.safetensors")
    arguments = ("--method", "alds-data", "--max-drop", 30, "-o", tmp_path / "small.pt")
    images = f"tensors:{tmp_path / 'one.safetensors'}"
    found = run("compress", model, "--data", images, "--mean", 0, "--std", 1, *arguments)
    assert found[:2] == (2, "")
    assert "none are left to measure the drop on" in found[2]
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_the_images_are_opened_once(ask, monkeypatch):
    opened = []
    real = sources.open_dataset

    def opens(*args, **named):
        opened.append(args)
        return real(*args, **named)

    monkeypatch.setattr(sources, "open_dataset", opens)
    code, _, err = ask("--method", "alds-data", "--max-drop", 30, "--samples", 24, "--dry-run")
    assert code == 0, err
    assert len(opened) == 1


def test_limits_hold_beside_the_drop(ask, tmp_path):
    path = tmp_path / "small.pt"
    code, out, err = ask("--max-drop", 60, "--max-params", 50_000, "-o", path, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["params_after"] <= 50_000
    assert found["drop"]["chosen"]["drop"] <= 60


def test_people_see_the_curve(ask, tmp_path):
    code, out, err = ask("--max-drop", 20, "-o", tmp_path / "small.pt")
    assert code == 0, err
    assert "95 % confidence" in out
    assert "points allowed, on 64 images" in out
    assert out.count("→") == 2


def test_a_dry_run_searches_and_writes_nothing(ask, tmp_path):
    code, out, _ = ask("--max-drop", 20, "--dry-run", "--json", "-o", tmp_path / "small.pt")
    assert code == 0
    assert json.loads(out)["drop"]["tried"]
    assert not list(tmp_path.iterdir())


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--max-drop", "1", "--ratio", "0.5"], 2, "a ratio says how small the result is"),
        (["--max-drop", "1", "--ratio", "0.5,0.6"], 2, "a ratio says how small the result is"),
        (["--max-drop", "1", "--plan", "none.json"], 2, "a plan says how small the result is"),
        (["--max-drop", "1", "--drop-of", "loss"], 2, "unknown drop-of 'loss'"),
        (["--max-drop", "101"], 2, "--max-drop is a number from 0 to 100"),
        (["--max-drop", "5", "--max-params", "1"], 1, "--max-params 1 cannot be reached"),
    ],
)
def test_what_cannot_be_had_leaves_no_trace(ask, tmp_path, arguments, code, message):
    made, out, err = ask(*arguments, "-o", tmp_path / "small.pt")
    assert (made, out) == (code, ""), err
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_drop_needs_images(run, digits, tmp_path):
    made, out, err = run("compress", digits / "model.pt", "--max-drop", 1, "-o", tmp_path / "s.pt")
    assert (made, out) == (2, "")
    assert "a drop is measured on images" in err
    assert not list(tmp_path.iterdir())
