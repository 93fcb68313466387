"""Tuning towards the original network on images without labels."""

from __future__ import annotations

import json
import os
import signal
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_networks import digits_network
from torch import nn
from torch.nn import functional as F

import alds_cli
from alds_cli import api
from alds_cli.compression import tuning
from alds_cli.datasets import TensorImages
from alds_cli.errors import DataError
from alds_cli.options.model_source import Source
from alds_cli.records import Choice, Plan, Preprocessing
from alds_cli.retraining.block_outputs import BlockOutputs, block_names
from alds_cli.retraining.distillation import mixed, tune
from alds_cli.retraining.objective import divergence
from alds_cli.retraining.tuned_steps import Budget, Recipe
from alds_cli.surgery import PairedAttention, dense_copy, weight_at
from alds_cli.surgery.replace import reshape_network

ON_DIGITS = Source(input_shape=(1, 8, 8))
PLAIN = Preprocessing((0.0,), (1.0,))


def images_of(count=40, *, seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    return TensorImages("random", [pixels], torch.zeros(count, dtype=torch.int64))


def compressed(**options):
    """A small network with pairs, and what became of it."""
    asked = {"ratio": "0.6", "samples": 40, "data": images_of(), "preprocessing": PLAIN}
    usual = {} if "plan" in options else {"method": "alds"}
    asked |= {"device": "cpu", "cache": False, **usual, **options}
    return api.compress(asked.pop("model", None) or digits_network(), **asked)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Tune with small batches, so that few images make several steps of a round."""

    def change(**values):
        monkeypatch.setattr(tuning, "RECIPE", Recipe(batch_size=12, **values))

    change()
    return change


# ---------------------------------------------------------------- the pieces


def test_the_divergence_is_that_of_softened_answers():
    logits, expected = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    theirs, ours = (F.softmax(own / 3, 1) for own in (expected, logits))
    wanted = 9 * (theirs * (theirs / ours).log()).sum(1).mean()
    torch.testing.assert_close(divergence(logits, expected, 3.0), wanted)


def test_every_image_is_mixed_with_its_neighbour():
    inputs = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    found = mixed(inputs, torch.Generator().manual_seed(0))
    assert (found == found[:, :, :1, :1]).all()
    own, other = torch.arange(4.0), torch.arange(4.0).roll(1)
    shares = (found[:, 0, 0, 0] - own) / (other - own)
    assert ((shares >= 0) & (shares < 1)).all()
    assert len(set(shares.tolist())) == 4


class Branches(nn.Module):
    """Blocks of every kind: a residual one, a list, a chain, and a layer of the network itself."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.listed = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        self.chain = nn.Sequential(
            nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)
        )
        self.block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.listed:
            x = x + layer(x)
        x = self.chain(x).relu_().flatten(2).mT
        return self.head(self.block(x).mean(1))


def test_blocks_are_found_around_layers():
    names = ["stem", "listed.1", "chain.0", "chain.3", "block.self_attn.out_proj", "head"]
    names.append("block.linear1")
    found = block_names(Branches(), names)
    assert found == ["chain", "chain.2", "block", "block.self_attn"]
    assert block_names(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), ["0", "2"]) == [
        "1"
    ]
    assert block_names(nn.Linear(2, 2), []) == []


def test_the_error_of_blocks_is_relative_and_not_changed_in_place():
    torch.manual_seed(0)
    one, other = Branches().eval(), Branches().eval()
    inputs, seen = torch.randn(3, 1, 4, 4), []
    for module in (one, other):
        module.chain.register_forward_hook(lambda _m, _i, made: seen.append(made.detach().clone()))
    blocks = BlockOutputs(["chain"])
    with blocks.watching(one, other):
        one(inputs), other(inputs)
        error = blocks.error()
        assert blocks.error() is None
    wanted = (seen[0] - seen[1]).square().mean() / seen[0].square().mean()
    torch.testing.assert_close(error, wanted)
    assert error.requires_grad
    one(inputs)
    assert blocks.error() is None


# ---------------------------------------------------------------- compress


@pytest.mark.parametrize(
    "options",
    [
        {"method": "alds"},
        {"method": "alds-data", "ratio": "0.8"},
        {"method": "messi"},
        {"method": "alds+", "ratio": "0.7"},
    ],
    ids=lambda options: options["method"],
)
def test_tuned_layers_have_true_errors_and_no_bounds(options):
    network = digits_network()
    dense = {name: own.clone() for name, own in network.state_dict().items()}
    result = compressed(model=network, tune_steps=12, **options)
    report = result.report
    assert report.verified
    assert report.tuning.best_step > 0
    assert report.tuning.loss_after < report.tuning.loss_before
    assert (report.tuning.images, report.tuning.held_back, report.tuning.steps) == (36, 4, 12)
    assert report.max_error_bound is None
    assert report.seconds["tune"] > 0
    for name, value in network.state_dict().items():
        assert torch.equal(value, dense[name]), "the original was changed"
    back = dense_copy(network, result.network.module.state_dict(), result.plan.decomposed)
    changed = 0
    for layer in report.layers:
        weight, other = (weight_at(m, layer.name).double().flatten(1) for m in (network, back))
        lost = torch.linalg.matrix_norm(weight - other, 2) / torch.linalg.matrix_norm(weight, 2)
        assert layer.error == pytest.approx(float(lost), rel=1e-5)
        assert layer.error_bound is None
        changed += layer.choice is None and layer.error > 0
    assert changed or all(layer.choice for layer in report.layers)  # kept layers are tuned too


def test_the_same_seed_gives_the_same_bytes_and_labels_do_not_count(tmp_path):
    found = []
    for name, seed, labels in (("a", 0, 0), ("b", 0, 7), ("c", 1, 0)):
        data = images_of(60)
        data.labels += labels
        path = tmp_path / f"{name}.safetensors"
        compressed(data=data, method="alds-data", tune_steps=6, seed=seed, output=path)
        found.append(load_file(path))
    own, again, other = found
    assert all(torch.equal(own[name], again[name]) for name in own)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert any(not torch.equal(own[name], other[name]) for name in own)


def test_statistics_stay_and_everything_else_is_tuned():
    untuned, tuned = (
        compressed(method="alds-data", ratio="0.8", tune_steps=steps) for steps in (0, 12)
    )
    assert untuned.report.tuning is None
    before, after = (own.network.module for own in (untuned, tuned))
    for name, value in before.named_buffers():
        assert torch.equal(value, after.get_buffer(name)), name
    for name, value in before.named_parameters():
        assert not torch.equal(value, after.get_parameter(name)), name
        assert after.get_parameter(name).requires_grad == value.requires_grad


@pytest.mark.parametrize("lr", [1.0, 1e30])
def test_weights_stay_where_tuning_hurts(small_steps, caplog, lr):
    small_steps(lr=lr, warmup=0, checks=1)
    untuned, tuned = (compressed(tune_steps=steps) for steps in (0, 10))
    report = tuned.report.tuning
    assert report.best_step == 0
    assert (report.loss_after, report.agreement_after) == (
        report.loss_before,
        report.agreement_before,
    )
    for name, value in untuned.network.module.state_dict().items():
        assert torch.equal(value, tuned.network.module.state_dict()[name])
    assert tuned.report.layers == untuned.report.layers  # with their bounds
    assert report.diverged == (lr == 1e30)
    assert report.diverged == ("the loss was not finite" in caplog.text)
    assert report.steps == 10 or report.diverged


def test_a_rate_that_hurts_is_lowered_until_it_helps(small_steps):
    small_steps(lr=2.0, warmup=0, slowing=1e-3, checks=4)
    report = compressed(tune_steps=12).report.tuning
    assert report.lr == pytest.approx(2e-3)
    assert report.best_step > 6  # the first half was lost
    assert report.loss_after < report.loss_before


def stopped_after(steps, **options):
    """Tune until a signal comes during a step."""

    def interrupt(event):
        if event.task == "tune" and event.done == steps:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        compressed(progress=interrupt, cache=True, **options)


def kept(folder):
    return sorted(folder.glob("tuning-*"))


@cache
def undisturbed():
    """The weights after twelve steps of small batches without an interruption."""
    return compressed(tune_steps=12).network.module.state_dict()


@pytest.mark.usefixtures("heeded_interrupts")
@pytest.mark.parametrize("steps", [1, 7, 11])
def test_an_interrupted_tuning_goes_on_with_the_same_command(tmp_path, monkeypatch, steps):
    monkeypatch.setenv("ALDS_CACHE_DIR", str(tmp_path))
    whole = undisturbed()
    stopped_after(steps, tune_steps=12)
    assert len(kept(tmp_path)) == 1
    events = []
    resumed = compressed(tune_steps=12, cache=True, progress=events.append)
    assert [event.done for event in events if event.task == "tune"] == [*range(steps + 1, 13)]
    assert resumed.report.tuning.steps == 12
    for name, value in resumed.network.module.state_dict().items():
        assert torch.equal(value, whole[name]), name
    assert not kept(tmp_path)


@pytest.mark.usefixtures("heeded_interrupts")
def test_another_tuning_does_not_go_on_with_a_state(tmp_path, monkeypatch):
    monkeypatch.setenv("ALDS_CACHE_DIR", str(tmp_path))
    stopped_after(5, tune_steps=12)
    for other in ({"tune_steps": 13}, {"seed": 1}, {"ratio": "0.7"}, {"data": images_of(seed=4)}):
        events = []
        compressed(cache=True, progress=events.append, **{"tune_steps": 12, **other})
        assert next(event.done for event in events if event.task == "tune") == 1
    assert len(kept(tmp_path)) == 1


@pytest.mark.usefixtures("heeded_interrupts")
def test_a_damaged_state_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setenv("ALDS_CACHE_DIR", str(tmp_path))
    stopped_after(5, tune_steps=12)
    (path,) = kept(tmp_path)
    content = path.read_bytes()
    for damaged in (b"nonsense", content[:-50], content.replace(b"best_step", b"west_step")):
        assert damaged != content
        path.write_bytes(damaged)
        resumed = compressed(tune_steps=12, cache=True).network.module.state_dict()
        assert all(torch.equal(value, undisturbed()[name]) for name, value in resumed.items())


@pytest.mark.usefixtures("heeded_interrupts")
def test_old_states_leave_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALDS_CACHE_DIR", str(tmp_path))
    stopped_after(5, tune_steps=12)
    (path,) = kept(tmp_path)
    os.utime(path, (0, 0))
    compressed(tune_steps=3, cache=True)
    assert not kept(tmp_path)


def test_the_best_weights_are_kept_as_they_were_measured():
    result = compressed(tune_steps=20)
    report, images = result.report.tuning, images_of()
    held, _ = tuning.divided(40, tuning.RECIPE, 0)
    inputs = images.batch(held).float() / 255
    with torch.no_grad():
        ours, theirs = (own(inputs).argmax(1) for own in (result.network.module, digits_network()))
    assert report.agreement_after == 100 * float((ours == theirs).float().mean())


def test_half_precision_is_tuned_in_single():
    result = compressed(model=digits_network().half(), tune_steps=12)
    assert {p.dtype for p in result.network.module.parameters()} == {torch.float16}
    assert result.report.tuning.best_step > 0
    assert result.report.tuning.loss_after < result.report.tuning.loss_before


class Tied(nn.Module):
    """Two layers of one weight, a second input that may be left out, and a tuple as its output."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 48)
        self.again = nn.Linear(48, 48)
        self.twice = nn.Linear(48, 48)
        self.twice.weight = self.again.weight
        self.head = nn.Linear(48, 5)

    def forward(self, x, scale=None):
        x = self.first(x.flatten(1)) * (1.0 if scale is None else scale)
        x = self.twice(F.gelu(self.again(F.gelu(x))))
        return self.head(x), x


def test_tied_weights_stay_tied_and_a_second_input_is_no_obstacle():
    torch.manual_seed(0)
    network = Tied()
    start = network.again.weight.detach().clone()
    result = compressed(model=network, ratio="0.3", tune_steps=12, source=ON_DIGITS)
    made = result.network.module
    assert result.report.tuning.best_step > 0
    assert made.again.weight is made.twice.weight
    assert not torch.equal(made.again.weight, start)
    assert torch.equal(network.again.weight, start)


def test_attentions_and_sequences_are_tuned():
    torch.manual_seed(0)
    original = Branches().eval()
    network = Branches().eval()
    network.load_state_dict(original.state_dict())
    choices = {"block.self_attn.in_proj": Choice(0, 1, 1), "block.linear1": Choice(0, 1, 1)}
    reshape_network(network, choices)
    network.to_empty(device="cpu")
    state = original.state_dict()
    for name in choices:
        weight = weight_at(original, name)
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        owner = network.get_submodule(name)
        state[f"{name}.first.weight"] = right[:1]
        state[f"{name}.second.weight"] = left[:, :1] * values[:1]
        bias = name.replace("in_proj", "in_proj_bias") if "in_proj" in name else f"{name}.bias"
        state[f"{name}.second.bias"] = state[bias]
        assert owner.second.bias is not None
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    assert isinstance(network.block.self_attn, PairedAttention)
    found = tune(
        network, original, images_of(), Budget(20, None), layers=choices, preprocessing=PLAIN,
        seed=0, recipe=Recipe(lr=0.01, batch_size=12),
    )  # fmt: skip
    assert 0 < found.best_step <= 20
    assert found.loss_after < found.loss_before
    assert not any(module._forward_hooks for module in (*original.modules(), *network.modules()))


def test_a_network_without_gradients_is_refused():
    network = digits_network()
    network.forward = torch.no_grad()(network.forward)
    with pytest.raises(DataError, match="no gradient reaches its parameters"):
        tune(
            network, digits_network(), images_of(), Budget(2, None), layers=[],
            preprocessing=PLAIN, seed=0,
        )  # fmt: skip
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_interruption_leaves_nothing(tmp_path):
    network, seen = digits_network(), []
    start = {name: own.clone() for name, own in network.state_dict().items()}

    def interrupt(event):
        if event.task == "tune":
            seen.append(event)
            if event.done == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressed(model=network, tune_steps=5, output=tmp_path / "s.pt", progress=interrupt)
    assert [(event.done, event.total) for event in seen] == [(1, 5), (2, 5)]
    assert all(event.figures["loss"] > 0 for event in seen)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(own, start[name]) for name, own in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_minutes_end_it_and_zero_is_none():
    found = compressed(tune_minutes=1e-4).report.tuning
    assert 1 <= found.steps < 10_000
    assert compressed(tune_minutes=1e-4, tune_steps=1).report.tuning.steps == 1
    assert compressed(tune_minutes=0, tune_steps=5).report.tuning is None


def test_a_plan_is_carried_out_and_tuned():
    plan = Plan({"features.7": Choice(0, 2, 8)})
    result = compressed(ratio=None, plan=plan, tune_steps=6)
    assert result.plan.decomposed == plan.decomposed
    assert result.report.tuning.steps == 6
    nothing = compressed(ratio=None, plan=Plan({}), tune_steps=6)
    assert nothing.report.tuning is None


def test_a_family_is_tuned_one_by_one(tmp_path):
    results = api.compress_family(
        digits_network(), ratios=["0.3", "0.6"], data=images_of(), preprocessing=PLAIN,
        samples=40, tune_steps=6, method="alds", device="cpu", output=tmp_path / "{ratio}.pt",
    )  # fmt: skip
    assert [own.report.tuning.steps for own in results] == [6, 6]
    alone = compressed(ratio="0.6", tune_steps=6)
    state = alone.network.module.state_dict()
    for name, value in results[1].network.module.state_dict().items():
        assert torch.equal(value, state[name])


# ---------------------------------------------------------------- the command


@pytest.fixture
def ask(run, digits):
    def call(*arguments):
        data = f"tensors:{digits / 'data.safetensors'}"
        asked = ["compress", digits / "model.pt", "--data", data, "--mean", 0, "--std", 1]
        if "--method" not in arguments:
            asked += ["--method", "alds"]
        return run(*asked, "--device", "cpu", *arguments)

    return call


def test_people_and_programs_are_told(ask, tmp_path):
    arguments = ["--ratio", 0.6, "--tune-steps", 4, "-o", tmp_path / "small.pt"]
    code, out, err = ask(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)["tuning"]
    assert (found["steps"], found["held_back"], found["images"]) == (4, 6, 58)
    assert found["loss_after"] <= found["loss_before"]
    code, out, err = ask(*arguments)
    assert code == 0, err
    assert "on 6 samples held back (4 steps, the best after" in " ".join(out.split())
    assert alds_cli.load(tmp_path / "small.pt")


def test_an_artefact_claims_no_errors_of_weights_that_are_gone(ask, run, digits, tmp_path):
    code, _, err = ask("--ratio", 0.6, "--tune-steps", 4, "-o", tmp_path / "small.pt")
    assert code == 0, err
    for model, expected in ((tmp_path / "small.pt", None), (digits / "model.pt", 0.0)):
        _, out, _ = run("inspect", model, "--json")
        for layer in json.loads(out)["layers"]:
            assert (layer["error"], layer["error_bound"]) == (expected, expected)


def test_images_that_tuning_sees_do_not_judge_a_drop(ask, tmp_path):
    code, out, err = ask(
        "--max-drop", 90, "--drop-of", "agreement", "--samples", 40, "--tune-steps", 2,
        "-o", tmp_path / "small.pt", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert found["drop"]["images"] == 64 - 40
    assert found["tuning"]["steps"] == 2


def test_a_dry_run_tunes_nothing(ask):
    code, out, _ = ask("--ratio", 0.5, "--tune-steps", 4, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["tuning"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tune-steps", 4, "--method", "ft"], "and ft removes filters"),
        (["--tune-minutes", 1, "--method", "pfp"], "and pfp removes filters"),
        (["--tune-steps", 4, "--samples", 1], "one sample is too few to tune on"),
        (["--tune-steps", -1], "--tune-steps is a whole number from 0"),
        (["--tune-minutes", "nan"], "--tune-minutes is a number from 0"),
    ],
)
def test_what_cannot_be_tuned_leaves_no_trace(ask, tmp_path, arguments, message):
    code, out, err = ask("--ratio", 0.5, *arguments, "-o", tmp_path / "small.pt")
    assert (code, out) == (2, ""), err
    assert message in err
    assert not list(tmp_path.iterdir())


def test_tuning_needs_images(run, digits, tmp_path):
    asked = ["compress", digits / "model.pt", "--ratio", 0.5, "-o", tmp_path / "small.pt"]
    code, out, err = run(*asked, "--tune-steps", 4)
    assert (code, out) == (2, "")
    assert "tuned on images or texts, and none are named" in err
    assert not list(tmp_path.iterdir())


class Masks(nn.Module):
    """A network that gives a mask of every image."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 32, 3))

    def forward(self, x):
        return {"out": self.features(x)}


def test_networks_that_do_not_classify_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("alds_cli.compression.session.strategy_for", None)  # it is not reached
    with pytest.raises(DataError, match="not logits") as caught:
        compressed(model=Masks(), tune_steps=2, source=ON_DIGITS, output=tmp_path / "small.pt")
    assert "can be tuned" in caught.value.tip
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- a real network


@pytest.mark.slow
def test_a_few_steps_bring_a_real_network_closer(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "RECIPE", Recipe(batch_size=32))
    data = load_file(shared / "data" / "cifar10" / "train-0.safetensors")
    save_file({name: own[:300] for name, own in data.items()}, tmp_path / "few.safetensors")
    result = api.compress(
        shared / "weights" / "cifar10_resnet20.safetensors",
        ratio="0.6", method="alds", data=f"tensors:{tmp_path / 'few.safetensors'}",
        samples=300, tune_steps=60, device="cpu",
    )  # fmt: skip
    found = result.report.tuning
    assert found.agreement_after > found.agreement_before + 10
    assert found.loss_after < 0.75 * found.loss_before
