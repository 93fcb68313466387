"""What a training is made of beside steps: mixing, a teacher, averages, judges, precision."""

from __future__ import annotations

import copy
import io
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from test_retraining import dataset, network, same, train  # noqa: F401 - a fixture among them
from torch import nn
from torch.nn import functional as F

from alds_cli.datasets import PRESETS, Batches, TensorImages
from alds_cli.errors import CheckpointError, DataError, OptionError
from alds_cli.evaluation import measure_quality
from alds_cli.retraining import RetrainSettings, TrainingState
from alds_cli.retraining.judging import divided
from alds_cli.retraining.mixing import mixture
from alds_cli.retraining.objective import MixedBatch, Objective

SETTINGS = RetrainSettings(epochs=3, batch_size=16, lr=0.02, augmentation="none")

ALPHAS = st.sampled_from([0.001, 0.2, 1.0, 1000.0])
SEEDS = st.integers(0, 2**63)
SHAPES = st.tuples(st.integers(2, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


# ---------------------------------------------------------------- mixing


def numbered(shape):
    """Images each of whose pixels tells which image it is of."""
    return torch.arange(float(shape[0]))[:, None, None, None].expand(shape).clone()


@limits(deadline=None)
@given(SHAPES, ALPHAS, SEEDS)
def test_mixup_mixes_every_image_with_its_neighbour(shape, alpha, seed):
    images = numbered(shape)
    mixed, share = mixture(images, replace(SETTINGS, mixup=alpha), seed)
    assert 0 <= share <= 1
    for index in range(shape[0]):
        expected = share * images[index] + (1 - share) * images[index - 1]
        torch.testing.assert_close(mixed[index], expected)
    assert torch.equal(images, numbered(shape))


@limits(deadline=None)
@given(SHAPES, ALPHAS, SEEDS)
def test_cutmix_pastes_one_box_and_tells_its_share(shape, alpha, seed):
    images = numbered(shape)
    mixed, share = mixture(images, replace(SETTINGS, cutmix=alpha), seed)
    own = mixed == images
    assert torch.equal(mixed, torch.where(own, images, images.roll(1, 0)))
    assert share == pytest.approx(own.float().mean().item())
    rows, columns = (~own[0, 0]).any(1).nonzero(), (~own[0, 0]).any(0).nonzero()
    assert (~own[0, 0]).sum() == len(rows) * len(columns)
    for lines in (rows, columns):
        assert torch.equal(lines[1:], lines[:-1] + 1)
    assert torch.equal(own, own[:1, :1].expand(shape))
    assert torch.equal(images, numbered(shape))


def test_shares_are_drawn_from_the_beta_distribution():
    images = torch.zeros(2, 1, 64, 64)
    for name, tolerance in (("mixup", 0.03), ("cutmix", 0.2)):
        for alpha in (0.5, 3.0):
            settings = replace(SETTINGS, **{name: alpha})
            shares = torch.tensor([mixture(images, settings, seed)[1] for seed in range(1500)])
            # The mean of a box that is cut off at the edges is larger.
            assert shares.mean().item() == pytest.approx(0.5, abs=tolerance)
            if name == "mixup":
                variance = 1 / (4 * (2 * alpha + 1))
                assert shares.var().item() == pytest.approx(variance, rel=0.15)


def test_with_both_kinds_every_batch_has_one():
    images = numbered((2, 1, 8, 8))
    settings = replace(SETTINGS, mixup=1.0, cutmix=1.0)
    pasted = 0
    for seed in range(200):
        mixed, share = mixture(images, settings, seed)
        assert torch.equal(mixed, mixture(images, settings, seed)[0])
        pasted += set(mixed.unique().tolist()) <= {0.0, 1.0} or share in {0.0, 1.0}
    assert 60 < pasted < 140


@limits(deadline=None)
@given(st.integers(2, 6), st.floats(0, 1), st.sampled_from([0.0, 0.1]))
def test_the_loss_of_mixed_labels_is_that_of_their_mixture(count, share, smoothing):
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (count,), generator=generator)
    settings = replace(SETTINGS, label_smoothing=smoothing)
    batch = MixedBatch(torch.zeros(count, 1), labels, share)
    loss, right = Objective(settings, None, labelled=True)(logits, batch)
    targets = F.one_hot(labels, 5) * share + F.one_hot(labels.roll(1), 5) * (1 - share)
    targets = targets * (1 - smoothing) + smoothing / 5
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item())
    assert torch.equal(right.bool(), logits.argmax(1) == labels)


def test_the_network_sees_mixed_images_that_the_seed_decides(dataset):  # noqa: F811
    class Seeing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.seen = network(dropout=0), []

        def forward(self, x):
            if self.training:
                self.seen.append(x.clone())
            return self.layers(x)

    def seen(**settings):
        module = Seeing()
        train(module, dataset, replace(SETTINGS, epochs=2, **settings))
        return module.seen

    plain, mixed, again = seen(), seen(mixup=1.0), seen(mixup=1.0)
    assert all(torch.equal(a, b) for a, b in zip(mixed, again, strict=True))
    shares = []
    for before, after in zip(plain, mixed, strict=True):
        others = before.roll(1, 0)
        share = ((after - others) / (before - others)).nanmedian().item()
        torch.testing.assert_close(after, share * before + (1 - share) * others)
        shares.append(round(share, 4))
    assert len(set(shares)) == len(shares) == 8


# ---------------------------------------------------------------- a teacher


def taught(seed=3):
    torch.manual_seed(seed)
    module = network(dropout=0)
    nn.init.normal_(module[-1].weight)
    return module


@limits(deadline=None)
@given(st.floats(0.25, 8), st.floats(0, 1), SEEDS)
def test_the_loss_with_a_teacher_is_a_mixture_of_both(temperature, weight, seed):
    generator = torch.Generator().manual_seed(seed % 2**31)
    inputs = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (6,), generator=generator)
    settings = replace(SETTINGS, temperature=temperature, label_weight=weight)
    batch = MixedBatch(inputs, labels, 1.0)
    teacher = nn.Identity()
    teacher.register_parameter("own", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    loss, _ = Objective(settings, teacher, labelled=True)(logits, batch)
    theirs = (inputs / temperature).softmax(1)
    ours = (logits / temperature).softmax(1)
    distance = temperature**2 * (theirs * (theirs / ours).log()).sum(1).mean()
    on_labels = -logits.log_softmax(1)[torch.arange(6), labels].mean()
    expected = weight * on_labels + (1 - weight) * distance
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)


def test_a_network_learns_from_a_teacher_without_labels(dataset):  # noqa: F811
    teacher = taught().half()
    before = copy.deepcopy(teacher.state_dict())
    images = TensorImages("x", [dataset.batch(torch.arange(65))], None)
    module = network(dropout=0)
    result = train(module, images, replace(SETTINGS, epochs=10, lr=0.05), teacher=teacher)
    assert result.history[-1].loss < 0.3 * result.history[0].loss
    assert result.history[-1].accuracy > 80
    inputs = next(iter(Batches(images, PRESETS["half"], batch_size=65)))[0]
    with torch.no_grad():
        answers = [own.eval().float()(inputs).argmax(1) for own in (module, teacher)]
    assert (answers[0] == answers[1]).float().mean() > 0.8
    teacher.half()
    assert all(torch.equal(own, before[name]) for name, own in teacher.state_dict().items())


def test_a_teacher_keeps_its_mode_and_its_statistics(dataset):  # noqa: F811
    teacher = taught().train()
    before = copy.deepcopy(teacher.state_dict())
    train(network(), dataset, replace(SETTINGS, epochs=1), teacher=teacher)
    assert all(part.training for part in teacher.modules())
    assert all(torch.equal(own, before[name]) for name, own in teacher.state_dict().items())
    assert all(own.grad is None for own in teacher.parameters())


def test_with_a_teacher_labels_count_as_much_as_is_said(dataset):  # noqa: F811
    wrong = TensorImages("x", [dataset.batch(torch.arange(65))], (dataset.labels + 1) % 4)
    settings = replace(SETTINGS, epochs=1)

    def trained(images, **changes):
        module = network()
        train(module, images, replace(settings, **changes), teacher=taught())
        return module

    assert same(trained(dataset), trained(wrong))
    assert not same(trained(dataset, label_weight=0.5), trained(wrong, label_weight=0.5))
    alone = network()
    train(alone, dataset, settings)
    assert same(alone, trained(dataset, label_weight=1.0))


@pytest.mark.parametrize(
    ("teacher", "weight", "message"),
    [
        (None, 0.0, "x has no labels to train on"),
        (taught(), 0.5, "x has no labels to train on"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 0.0, "teacher gives 5 logits, the"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 4)), 0.0, "does not take inputs"),
        (nn.Conv2d(3, 4, 1), 0.0, "only networks that classify"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(dataset, teacher, weight, message):  # noqa: F811
    images = TensorImages("x", [dataset.batch(torch.arange(65))], None)
    settings = replace(SETTINGS, label_weight=weight)
    with pytest.raises(DataError) as caught:
        train(network(), images, settings, teacher=teacher)
    assert message in f"{caught.value.message} {caught.value.tip}"


# ---------------------------------------------------------------- averages


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_the_average_of_the_weights_is_what_results(dataset, kept):  # noqa: F811
    def masked():
        module = network()
        module.register_buffer("mask", torch.full((2,), -math.inf))
        return module

    module, plain, seen = masked(), masked(), []
    averages = [own.detach().clone() for own in plain.state_dict().values()]

    def follow(_):
        for at, own in enumerate(plain.state_dict().values()):
            if own.is_floating_point():
                averages[at] = kept * averages[at] + (1 - kept) * own
            else:
                averages[at] = own.clone()
        seen.append(1)

    train(plain, dataset, SETTINGS, progress=follow)
    train(module, dataset, replace(SETTINGS, ema=kept))
    assert len(seen) == 12
    for name, expected in zip(module.state_dict(), averages, strict=True):
        if name != "mask":
            torch.testing.assert_close(module.state_dict()[name], expected)
    assert bool((module.mask == -math.inf).all())


# ---------------------------------------------------------------- judges


@limits(deadline=None)
@given(st.integers(2, 400), st.floats(0, 0.99), st.integers(0, 9))
def test_images_are_divided_without_loss(count, share, seed):
    settings = replace(SETTINGS, held_back=share, seed=seed)
    judging = round(share * count)
    if count - judging < 2 or (share > 0 and judging == 0):
        with pytest.raises(DataError):
            divided(count, settings)
        return
    judges, trained = divided(count, settings)
    assert len(judges) == judging
    assert sorted([*judges.tolist(), *trained.tolist()]) == list(range(count))
    assert judges.tolist() == sorted(judges.tolist())


def test_judges_are_not_trained_on_and_the_best_weights_result(dataset):  # noqa: F811
    settings = replace(SETTINGS, epochs=6, lr=0.1, held_back=0.25, milestones=())
    module, seen = network(), []
    result = train(module, dataset, settings, progress=seen.append)
    assert {event.total for event in seen} == {18}
    losses = [own.validation_loss for own in result.history]
    assert result.kept == 1 + losses.index(min(losses))
    judges = dataset.subset(divided(65, settings)[0])
    found = measure_quality(module, Batches(judges, PRESETS["half"], batch_size=16))
    assert found.loss == pytest.approx(min(losses), rel=1e-5, abs=1e-6)
    kept = result.history[result.kept - 1]
    assert found.top1 == pytest.approx(kept.validation_accuracy)


def test_other_images_may_judge(dataset):  # noqa: F811
    judges = dataset.subset(torch.arange(7))
    settings, states = replace(SETTINGS, patience=2), []
    module, again = network(), network()
    result = train(module, dataset, settings, judges=judges, keep=states.append)
    found = measure_quality(module, Batches(judges, PRESETS["half"], batch_size=16))
    kept = result.history[result.kept - 1]
    assert found.loss == pytest.approx(kept.validation_loss, rel=1e-5, abs=1e-6)
    state = through_a_file(states[1])
    train(again, dataset, settings, judges=judges, resume=state)
    assert same(module, again)
    for other in (None, dataset.subset(torch.arange(8))):
        with pytest.raises(OptionError, match="other images that judge"):
            train(network(), dataset, replace(settings), judges=other, resume=state)
    with pytest.raises(OptionError, match="no images judge when the training is to end"):
        train(network(), dataset, settings)
    with pytest.raises(OptionError, match="and others are to be held back"):
        train(network(), dataset, replace(settings, held_back=0.1), judges=judges)


def test_averages_are_judged_where_they_are_kept(dataset):  # noqa: F811
    settings = replace(SETTINGS, epochs=2, held_back=0.25, ema=0.9)
    module = network()
    result = train(module, dataset, settings)
    judges = dataset.subset(divided(65, settings)[0])
    found = measure_quality(module, Batches(judges, PRESETS["half"], batch_size=16))
    assert found.loss == pytest.approx(result.history[result.kept - 1].validation_loss, rel=1e-5)


def test_a_training_ends_when_patience_does(dataset):  # noqa: F811
    noise = TensorImages("x", [dataset.batch(torch.arange(65))], dataset.labels.flip(0))
    settings = replace(SETTINGS, epochs=60, lr=0.5, held_back=0.3, patience=2, milestones=())
    states, module, again = [], network(), network()
    result = train(module, noise, settings, keep=states.append)
    assert len(result.history) == result.kept + 2 < 60
    later = train(again, noise, settings, resume=states[-1])
    assert len(later.history) == len(result.history)
    assert same(module, again)


def test_judges_without_labels_agree_with_the_teacher(dataset):  # noqa: F811
    images = TensorImages("x", [dataset.batch(torch.arange(65))], None)
    settings = replace(SETTINGS, epochs=4, lr=0.05, held_back=0.25)
    result = train(network(), images, settings, teacher=taught())
    losses = [own.validation_loss for own in result.history]
    assert losses[-1] < losses[0]


# ---------------------------------------------------------------- precision


def test_bfloat16_leaves_weights_in_float32_and_trains_nearly_the_same(dataset):  # noqa: F811
    seen = []

    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = network(dropout=0)

        def forward(self, x):
            y = self.layers(x)
            if self.training:
                seen.append(y.dtype)
            return y

    module, plain = Noting(), network(dropout=0)
    train(module, dataset, replace(SETTINGS, precision="bfloat16"))
    train(plain, dataset, SETTINGS)
    assert set(seen) == {torch.bfloat16}
    assert {own.dtype for own in module.parameters()} == {torch.float32}
    for a, b in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.2)
        assert not torch.equal(a, b)


def test_float16_needs_cuda(dataset):  # noqa: F811
    with pytest.raises(OptionError, match="training in float16 needs CUDA, and this is cpu"):
        train(network(), dataset, replace(SETTINGS, precision="float16"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_cuda_trains_in_half_precision_and_goes_on_with_its_scaler(dataset, precision):  # noqa: F811
    settings, states = replace(SETTINGS, precision=precision, clip_norm=1.0), []
    device = torch.device("cuda")
    train(network(), dataset, settings, device=device, keep=states.append)
    assert (states[0].scaler is not None) == (precision == "float16")
    state = TrainingState.from_dict(states[0].to_dict())
    assert len(train(network(), dataset, settings, device=device, resume=state).history) == 3


@pytest.mark.slow
def test_compiled_steps_do_what_the_others_do(dataset):  # noqa: F811
    settings = replace(SETTINGS, ema=0.8, held_back=0.25)
    teacher, states = taught(), []
    plain, compiled, resumed = (network(dropout=0) for _ in range(3))
    expected = train(plain, dataset, settings, teacher=teacher)
    settings = replace(settings, compile=True)
    found = train(compiled, dataset, settings, teacher=teacher, keep=states.append)
    for one, other in zip(expected.history, found.history, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
        assert other.validation_loss == pytest.approx(one.validation_loss, rel=1e-4)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    state = through_a_file(states[0])
    train(resumed, dataset, settings, teacher=teacher, resume=state)
    assert same(compiled, resumed)


def test_only_full_batches_are_compiled(dataset, monkeypatch):  # noqa: F811
    sizes = []

    def compiler(module, **_options):
        def run(inputs):
            sizes.append(len(inputs))
            return module(inputs)

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    images = dataset.subset(torch.arange(3 * SETTINGS.batch_size + 5))
    plain, compiled = network(), network()
    train(plain, images, replace(SETTINGS, epochs=1))
    train(compiled, images, replace(SETTINGS, epochs=1, compile=True))
    assert same(plain, compiled)
    assert sizes == [SETTINGS.batch_size] * 3


@pytest.mark.slow
def test_what_cannot_be_compiled_is_told(tmp_path, digits):
    nowhere = {"CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    done = subprocess.run(
        [sys.executable, "-m", "alds_cli", "retrain", str(digits / "model.pt"), "--data",
         f"tensors:{digits / 'data.safetensors'}", "--epochs", "1", "--compile", "--device", "cpu",
         "-o", str(tmp_path / "x.pt")],
        check=False, capture_output=True, text=True, env={**os.environ, **nowhere},
    )  # fmt: skip
    assert done.returncode == 2
    assert "the network cannot be compiled here" in done.stderr
    assert "leave out --compile" in done.stderr
    assert not (tmp_path / "x.pt").exists()


# ---------------------------------------------------------------- resuming, and what is refused

EVERYTHING = {
    "mixup": {"mixup": 0.5},
    "both": {"mixup": 0.5, "cutmix": 1.0},
    "ema": {"ema": 0.8},
    "judged": {"held_back": 0.25},
    "precision": {"precision": "bfloat16"},
    "all": {
        "optimiser": "adamw",
        "mixup": 0.5,
        "cutmix": 1.0,
        "ema": 0.8,
        "held_back": 0.25,
        "patience": 3,
        "clip_norm": 1.0,
        "precision": "bfloat16",
        "label_weight": 0.5,
        "label_smoothing": 0.1,
    },
}


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state.to_dict(), file)
    file.seek(0)
    return TrainingState.from_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("name", EVERYTHING)
def test_resuming_gives_the_bits_of_the_uninterrupted_run(dataset, name):  # noqa: F811
    settings = replace(SETTINGS, augmentation="auto", **EVERYTHING[name])
    teacher = taught() if name == "all" else None
    states, whole, resumed = [], network(), network()
    result = train(whole, dataset, settings, teacher=teacher, keep=states.append)
    nn.init.zeros_(resumed[0].weight)
    state = through_a_file(states[1])
    again = train(resumed, dataset, settings, teacher=teacher, resume=state)
    assert same(whole, resumed)
    assert again.kept == result.kept
    assert [replace(own, seconds=0) for own in again.history] == [
        replace(own, seconds=0) for own in result.history
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"averages": None},
        {"averages": []},
        {"averages": [torch.zeros(1)] * 9},
        {"best": None},
        {"best": {}},
        {"best": {"0.weight": torch.zeros(2)}},
        {"scaler": {"scale": 2.0}},
        {"scaler": {"scale": "x"}},
        {"scaler": 3},
        {"averages": 3},
        {"averages": [3] * 9},
        {"best": 3},
    ],
)
def test_damaged_states_are_refused_and_change_nothing(dataset, change):  # noqa: F811
    settings, states = replace(SETTINGS, epochs=2, ema=0.5, held_back=0.25), []
    train(network(), dataset, settings, keep=states.append)
    module = network()
    damaged = {**states[0].to_dict(), **change}
    with pytest.raises(CheckpointError, match="training state"):
        train(module, dataset, settings, resume=TrainingState.from_dict(damaged))
    assert same(module, network())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixup": -0.1}, "mixup -0.1"),
        ({"cutmix": 1e-9}, "cutmix 1e-09 is neither 0 nor in"),
        ({"mixup": math.nan}, "mixup nan"),
        ({"temperature": 0}, "temperature 0"),
        ({"label_weight": 1.5}, "label weight 1.5"),
        ({"ema": 1}, "ema 1"),
        ({"precision": "float8"}, "precision 'float8' is none of float32, bfloat16, float16"),
        ({"held_back": 1}, "held back 1"),
        ({"patience": 0, "held_back": 0.1}, "patience 0"),
    ],
)
def test_settings_without_sense_are_refused(values, message):
    with pytest.raises(OptionError, match=message):
        RetrainSettings(**{"epochs": 3, **values})
