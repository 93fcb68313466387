"""Retraining: exact to resume, honest when it fails, and the network's surroundings kept."""

from __future__ import annotations

import copy
import io
import itertools
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from alds_cli import retraining
from alds_cli.datasets import (
    PRESETS,
    Batches,
    TensorImages,
    open_dataset,
)
from alds_cli.errors import (
    CheckpointError,
    ContractError,
    DataError,
    OptionError,
)
from alds_cli.evaluation import measure_quality
from alds_cli.retraining import (
    RetrainSettings,
    TrainingState,
    learning_rate,
    retrain,
)

CPU = torch.device("cpu")
SETTINGS = RetrainSettings(epochs=3, batch_size=16, lr=0.02, warmup_epochs=1)


def network(*, dropout=0.2):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


@pytest.fixture(scope="module")
def dataset():
    """Four classes told apart by which quarter of the image is bright; 65 images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(65) % 4
    images = torch.randint(0, 80, (65, 3, 8, 8), dtype=torch.uint8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[:, row : row + 4, column : column + 4] += 150
    return TensorImages("quarters", [images], labels)


def train(module, dataset, settings=SETTINGS, **options):
    return retrain(module, dataset, settings, preprocessing=PRESETS["half"], **options)


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_every_public_name_exists():
    assert all(hasattr(retraining, name) for name in retraining.__all__)


def test_the_network_learns(dataset):
    module = network(dropout=0)
    settings = RetrainSettings(epochs=12, batch_size=16, lr=0.1, augmentation="none")
    result = train(module, dataset, settings)
    assert [record.epoch for record in result.history] == list(range(1, 13))
    assert result.history[-1].loss < 0.5 * result.history[0].loss
    assert result.history[-1].accuracy > 80
    batches = Batches(dataset, PRESETS["half"], batch_size=65)
    assert measure_quality(module, batches, device=CPU).top1 > 80


def test_two_steps_are_those_of_plain_pytorch():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    dataset = TensorImages("four", [images], torch.arange(4))
    settings = RetrainSettings(
        epochs=2,
        batch_size=4,
        lr=0.1,
        nesterov=True,
        weight_decay=0.01,
        warmup_epochs=2,
        milestones=(),
        augmentation="none",
        label_smoothing=0.1,
    )
    module, expected = network(dropout=0).double(), network(dropout=0).double()
    train(module, dataset, settings)

    optimiser = torch.optim.SGD(
        expected.parameters(), lr=1, momentum=0.9, nesterov=True, weight_decay=0.01
    )
    inputs = (images / 255 - 0.5) / 0.5
    for lr in (0.05, 0.1):
        optimiser.param_groups[0]["lr"] = lr
        logits = expected.train()(inputs.double())
        loss = nn.functional.cross_entropy(logits, torch.arange(4), label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for a, b in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_gives_the_bits_of_the_uninterrupted_run(dataset, stop):
    states = []
    whole = network()
    result = train(whole, dataset, keep=states.append)

    file = io.BytesIO()
    torch.save(states[stop - 1].to_dict(), file)
    file.seek(0)
    state = TrainingState.from_dict(torch.load(file, weights_only=True))
    assert state.epoch == stop

    torch.manual_seed(99)
    resumed = network()
    nn.init.zeros_(resumed[0].weight)
    torch.rand(7)
    later = []
    again = train(resumed, dataset, resume=state, keep=later.append)
    assert same(whole, resumed)
    assert [replace(r, seconds=0) for r in again.history] == [
        replace(r, seconds=0) for r in result.history
    ]
    assert len(later) == 3 - stop


def test_a_kept_state_does_not_change_while_training_goes_on(dataset):
    states, copies = [], []

    def keep(state):
        states.append(state)
        copies.append(copy.deepcopy(state.to_dict()))

    train(network(), dataset, keep=keep)
    for state, early in zip(states, copies, strict=True):
        for name, tensor in state.model.items():
            assert torch.equal(tensor, early["model"][name])
        for index, entry in state.optimiser["state"].items():
            kept = early["optimiser"]["state"][index]["momentum_buffer"]
            assert torch.equal(entry["momentum_buffer"], kept)


def stopping(after):
    """Keep what a run keeps between steps, and the bytes of each such state."""
    states = []

    def keep(state):
        file = io.BytesIO()
        torch.save(state.to_dict(), file)
        file.seek(0)
        states.append(TrainingState.from_dict(torch.load(file, weights_only=True)))

    steps = itertools.count(1)
    return {"keep": keep, "due": lambda: next(steps) in after}, states


RICH = {"ema": 0.9, "held_back": 0.2, "mixup": 0.4, "cutmix": 0.4, "optimiser": "adamw"}


@pytest.mark.parametrize("more", [{}, RICH], ids=["plain", "rich"])
def test_resuming_between_steps_gives_the_bits_of_the_uninterrupted_run(dataset, more):
    settings = replace(SETTINGS, **more)
    asked, states = stopping({1, 6, 11})
    whole = network()
    result = train(whole, dataset, settings, **asked)
    within = [state for state in states if state.within.step]
    assert len(within) == 3
    assert len({state.at for state in within}) == 3
    for state in within:
        torch.manual_seed(99)
        resumed = network()
        nn.init.zeros_(resumed[0].weight)
        again = train(resumed, dataset, settings, resume=state)
        assert same(whole, resumed)
        assert [replace(r, seconds=0) for r in again.history] == [
            replace(r, seconds=0) for r in result.history
        ]


@pytest.mark.usefixtures("heeded_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_the_step_with_its_state(dataset, number):
    asked, states = stopping(())

    def interrupt(event):
        if event.done == 5:
            os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(network(), dataset, progress=interrupt, **asked)
    finally:
        handler = signal.signal(signal.SIGTERM, before)
    assert handler is not before
    last = states[-1]
    assert (last.epoch, last.within.step) == (1, 1)
    resumed, whole = network(), network()
    train(whole, dataset)
    train(resumed, dataset, resume=last)
    assert same(whole, resumed)


@pytest.mark.usefixtures("heeded_interrupts")
def test_a_signal_while_images_judge_ends_a_run_before_its_epoch_does(dataset, monkeypatch):
    settings = replace(SETTINGS, held_back=0.4)
    asked, states = stopping(())
    judged = retraining.objective.Objective.judged

    def interrupted(self, *given):
        if states:
            os.kill(os.getpid(), signal.SIGINT)
        return judged(self, *given)

    monkeypatch.setattr(retraining.objective.Objective, "judged", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(network(), dataset, settings, **asked)
    monkeypatch.undo()
    assert (states[-1].epoch, states[-1].within.step > 0) == (1, True)
    resumed, whole = network(), network()
    result = train(whole, dataset, settings)
    again = train(resumed, dataset, settings, resume=states[-1])
    assert same(whole, resumed)
    assert [replace(r, seconds=0) for r in again.history] == [
        replace(r, seconds=0) for r in result.history
    ]


def test_no_state_is_kept_whose_weights_are_not_finite(dataset):
    asked, states = stopping(range(100))
    module = network()

    def spoil(event):
        if event.done == 5:
            module[0].weight.data[0] = math.inf

    with pytest.raises(ContractError, match="epoch 2"):
        train(module, dataset, progress=spoil, **asked)
    assert states[-1].at == "epoch 1"
    assert all(own.isfinite().all() for own in states[-1].model.values())


def test_a_run_may_go_on_at_another_rate(dataset, caplog):
    states = []
    train(network(), dataset, keep=states.append)
    train(network(), dataset, replace(SETTINGS, lr=1e-3), resume=states[0])
    assert "lr was 0.02, now is 0.001" in caplog.text


def test_a_state_serves_twice(dataset):
    states = []
    train(network(), dataset, keep=states.append)
    first, second = network(), network()
    train(first, dataset, resume=states[0])
    train(second, dataset, resume=states[0])
    assert same(first, second)


def test_the_seed_decides_and_the_global_generator_is_untouched(dataset):
    one, two, other = network(), network(), network()
    state = torch.get_rng_state()
    train(one, dataset)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    train(two, dataset)
    train(other, dataset, replace(SETTINGS, seed=1))
    assert same(one, two)
    assert not same(one, other)


class Drawing(nn.Module):
    """Notes what its layers would draw from the global generator."""

    def __init__(self):
        super().__init__()
        self.layers, self.drawn = network(), []

    def forward(self, x):
        if self.training:
            self.drawn.append(torch.rand(()).item())
        return self.layers(x)


def test_dropout_draws_anew_in_every_epoch(dataset):
    first, second = Drawing(), Drawing()
    train(first, dataset)
    train(second, dataset, replace(SETTINGS, seed=1))
    assert len(set(first.drawn + second.drawn)) == 2 * 3 * 4


def test_workers_do_not_change_the_result(dataset):
    settings = replace(SETTINGS, epochs=1, augmentation="resized-crop-flip")
    one, two = network(), network()
    train(one, dataset, settings)
    train(two, dataset, settings, workers=2)
    assert same(one, two)


def test_surroundings_are_kept(dataset):
    module = network().eval()
    module[3].train()
    module[0].weight.requires_grad_(False)
    before = module[0].weight.clone()
    identities = [id(parameter) for parameter in module.parameters()]
    train(module, dataset, replace(SETTINGS, epochs=1))
    assert [part.training for part in module] == [False, False, False, True, False, False, False]
    assert [parameter.requires_grad for parameter in module.parameters()] == [False] + [True] * 4
    assert all(parameter.grad is None for parameter in module.parameters())
    assert [id(parameter) for parameter in module.parameters()] == identities
    assert not torch.equal(module[0].weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains_on_float32_weights(dataset, dtype):
    half = network().to(dtype)
    master = copy.deepcopy(half).float()
    states = []
    train(half, dataset, keep=states.append)
    train(master, dataset)
    assert {p.dtype for p in half.parameters()} == {dtype}
    assert half[1].running_mean.dtype == dtype
    assert half[1].num_batches_tracked.dtype == torch.int64
    assert same(half, master.to(dtype))
    assert states[0].model["0.weight"].dtype == torch.float32
    resumed = network().to(dtype)
    train(resumed, dataset, resume=states[0])
    assert same(half, resumed)


def test_tied_weights_stay_tied(dataset):
    module = network()
    tied = nn.Sequential(module[0], *[nn.Sequential(layer) for layer in module[1:]])
    tied.append(nn.Linear(4, 4, bias=False))
    tied.append(nn.Linear(4, 4, bias=False))
    tied[-1].weight = tied[-2].weight
    train(tied.half(), dataset, replace(SETTINGS, epochs=1))
    assert tied[-1].weight is tied[-2].weight


def test_a_last_batch_of_one_image_is_no_problem_for_batch_normalisation():
    images = torch.randint(0, 256, (5, 3, 1, 1), dtype=torch.uint8)
    dataset = TensorImages("five", [images], torch.arange(5) % 4)
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 4))
    settings = RetrainSettings(epochs=1, batch_size=4, augmentation="none")
    assert len(train(module, dataset, settings).history) == 1


def test_the_first_of_several_outputs_is_trained(dataset):
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side = network(), nn.Linear(4, 4)

        def forward(self, x):
            x = self.main(x)
            return (x, self.side(x)) if self.training else x

    module = Auxiliary()
    before = module.side.weight.clone()
    train(module, dataset, replace(SETTINGS, epochs=1, weight_decay=0))
    assert torch.equal(module.side.weight, before)


def test_progress_counts_steps_of_the_whole_run(dataset):
    events = []
    train(network(), dataset, replace(SETTINGS, epochs=2), progress=events.append)
    # 65 images in batches of 16 leave one over, which joins the fourth batch.
    assert [event.done for event in events] == list(range(1, 9))
    assert {(event.task, event.total) for event in events} == {("retrain", 8)}
    assert set(events[0].figures) == {"loss", "accuracy", "lr", "epoch"}
    assert [event.figures["epoch"] for event in events] == [1] * 4 + [2] * 4


@pytest.mark.parametrize("lr", [1e10, 1e38])
def test_divergence_is_told_with_epoch_step_and_rate(dataset, lr):
    settings = replace(SETTINGS, lr=lr, warmup_epochs=0)
    module = network().half().eval()
    states = []
    with pytest.raises(ContractError, match=r"epoch \d+, step \d+, at a learning rate of") as e:
        train(module, dataset, settings, keep=states.append)
    assert "--lr" in e.value.tip
    assert e.value.exit_code == 1
    assert module[0].weight.dtype == torch.float16
    assert not any(part.training for part in module.modules())
    assert all(t.isfinite().all() for state in states for t in state.model.values())


def test_divergence_is_noticed_at_the_step_it_shows(dataset):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.step = network(), 0

        def forward(self, x):
            self.step += self.training
            return self.layers(x) * (math.nan if self.step == 6 else 1)

    module = Failing()
    with pytest.raises(ContractError, match=r"epoch 2, step 2, at a learning rate of 0\.02"):
        train(module, dataset)
    assert module.step == 6


def test_an_epochs_last_update_is_checked_before_its_state_is_kept(dataset):
    settings = RetrainSettings(epochs=1, batch_size=65, lr=3e38, momentum=0, weight_decay=1e30)
    states = []
    with pytest.raises(ContractError, match="epoch 1, step 1"):
        train(network(), dataset, settings, keep=states.append)
    assert not states


@pytest.mark.parametrize(
    ("labels", "message"), [([0, 1, 7, 1], "label 7"), ([0, -1, 1, 1], "label -1")]
)
def test_labels_outside_the_classes_are_named(labels, message):
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match=f"{message} is outside the network's 4 classes"):
        train(network(), TensorImages("x", [images], torch.tensor(labels)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(3, 4, 1), "not logits of shape"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 4)), "cannot train on inputs of shape"),
        (nn.Flatten(), "no parameters"),
    ],
)
def test_networks_that_do_not_fit_are_refused(dataset, module, message):
    with pytest.raises(DataError, match=message):
        train(module, dataset)


def test_one_image_is_too_few():
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match="too few"):
        train(network(), TensorImages("x", [images], torch.tensor([0])))


def test_a_state_of_another_run_is_refused(dataset):
    states = []
    train(network(), dataset, replace(SETTINGS, epochs=1), keep=states.append)
    with pytest.raises(OptionError, match=r"epochs was 1, now is 3; momentum was .*, now is 0\.5"):
        train(network(), dataset, replace(SETTINGS, momentum=0.5), resume=states[0])
    fewer = TensorImages("x", [dataset.batch(torch.arange(20))], dataset.labels[:20])
    with pytest.raises(OptionError, match="number of images was 65, now is 20"):
        train(network(), fewer, replace(SETTINGS, epochs=1), resume=states[0])
    with pytest.raises(OptionError, match=r"mean was \(0\.5, 0\.5, 0\.5\), now is"):
        retrain(
            network(),
            dataset,
            replace(SETTINGS, epochs=1),
            preprocessing=PRESETS["cifar10"],
            resume=states[0],
        )
    with pytest.raises(CheckpointError, match="belongs to another network"):
        train(
            nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
            dataset,
            replace(SETTINGS, epochs=1),
            resume=states[0],
        )


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("model", lambda _: {}),
        ("model", lambda m: {**m, "more": torch.ones(1)}),
        ("model", lambda m: {**m, 3: torch.ones(1)}),
        ("model", lambda m: dict.fromkeys(m, 5)),
        ("model", lambda m: {name: t.to(torch.float64) for name, t in m.items()}),
        ("model", lambda m: {name: t.to("meta") for name, t in m.items()}),
        ("model", lambda m: {name: t[None] for name, t in m.items()}),
        ("model", lambda m: {name: torch.full_like(t, 2) / 0 for name, t in m.items()}),
        ("model", lambda m: {name: t * math.nan for name, t in m.items()}),
        ("model", lambda m: {name: t.to_sparse() for name, t in m.items()}),
        ("optimiser", lambda _: {}),
        ("optimiser", lambda o: {**o, "state": None}),
        ("optimiser", lambda o: {**o, "state": {**o["state"], 1: None}}),
        ("optimiser", lambda o: {**o, "state": {99: o["state"][0]}}),
        ("optimiser", lambda o: {**o, "state": {"0": o["state"][0]}}),
        ("optimiser", lambda o: {**o, "state": {0: {"momentum_buffer": 3}}}),
        ("optimiser", lambda o: {**o, "state": {0: {"momentum_buffer": torch.ones(3)}}}),
        ("optimiser", lambda o: {**o, "state": {0: {**o["state"][0], "step": torch.ones(1)}}}),
        (
            "optimiser",
            lambda o: {
                **o,
                "state": {0: {"momentum_buffer": o["state"][0]["momentum_buffer"] * math.inf}},
            },
        ),
    ],
)
def test_a_state_with_other_tensors_is_refused_and_changes_nothing(dataset, part, damage):
    states = []
    settings = replace(SETTINGS, epochs=1, momentum=0.9)
    train(network(), dataset, settings, keep=states.append)
    damaged = replace(states[0], **{part: damage(getattr(states[0], part))})
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match="training state"):
        train(module, dataset, settings, resume=damaged)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_state_does_not_decide_the_settings_of_the_optimiser(dataset):
    states, whole, resumed = [], network(), network()
    settings = replace(SETTINGS, epochs=2)
    train(whole, dataset, settings, keep=states.append)
    groups = [{**group, "momentum": 0.1} for group in states[0].optimiser["param_groups"]]
    changed = {**states[0].optimiser, "param_groups": groups}
    train(resumed, dataset, settings, resume=replace(states[0], optimiser=changed))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def nested(depth):
    found = {}
    for _ in range(depth):
        found = {"": found}
    return found


def doubled(times):
    found = []
    for _ in range(times):
        found = [found, found]
    return found


def cyclic():
    found = {}
    found["settings"] = found
    return found


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: None,
        lambda _: {},
        lambda d: {**d, "format": 1},
        lambda d: {**d, "format": torch.zeros(3)},
        lambda d: {**d, "format": True},
        lambda d: {**d, "settings": {**d["settings"], "lr": -1}},
        lambda d: {**d, "settings": {**d["settings"], "unheard_of": 1}},
        lambda d: {key: value for key, value in d.items() if key != "images"},
        lambda d: {**d, "fingerprint": {"images": "x"}},
        lambda d: {key: value for key, value in d.items() if key != "fingerprint"},
        lambda d: {**d, "history": [{"epoch": 1}]},
        lambda d: {**d, "preprocessing": {"mean": (0.5,), "std": (0.0,)}},
        lambda d: {**d, "images": float("inf")},
        lambda d: {**d, "images": True},
        lambda d: {**d, "history": []},
        lambda d: {**d, "history": [{**d["history"][0], "seconds": [1]}]},
        lambda d: {**d, "history": 2 * d["history"]},
        lambda d: {**d, "settings": nested(10**5)},
        lambda d: {**d, "settings": doubled(60)},
        lambda d: {**d, "settings": cyclic()},
        lambda d: {**d, "images": torch.ones(1)},
        lambda d: {**d, "model": 5},
        lambda d: {**d, "optimiser": None},
    ],
)
def test_a_damaged_state_is_refused(dataset, damage):
    states = []
    train(network(), dataset, replace(SETTINGS, epochs=1), keep=states.append)
    with pytest.raises(CheckpointError, match="not a training state") as caught:
        TrainingState.from_dict(damage(states[0].to_dict()))
    assert caught.value.tip


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.float32, {"lr": 1e15, "epochs": 1}),  # the weights are finite, the loss is not
        (torch.float32, {"lr": 1e15, "epochs": 2, "batch_size": 65}),
        (torch.float16, {"lr": 1e7, "epochs": 1}),  # finite only as long as they are wide
        (torch.float32, {"lr": 1.0, "weight_decay": 1e30, "momentum": 0, "epochs": 1}),
    ],
)
def test_a_run_whose_last_step_diverged_gives_nothing(dataset, dtype, settings):
    settings = RetrainSettings(**{"batch_size": 65, "milestones": (), **settings})
    module, states = network(dropout=0).to(dtype), []
    with pytest.raises(ContractError, match=r"epoch \d, step 1"):
        train(module, dataset, settings, keep=states.append)
    assert all(state.epoch < settings.epochs for state in states)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_statistics_that_diverge_in_the_last_step_are_noticed(dataset, value):
    class Spoiling(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = network()
            self.register_buffer("seen", torch.zeros(2))

        def forward(self, x):
            if self.training:
                self.seen[0] = value
            return self.layers(x)

    with pytest.raises(ContractError, match="diverged"):
        train(Spoiling(), dataset, replace(SETTINGS, epochs=1))


def test_infinities_from_the_start_are_no_divergence(dataset):
    def masked():
        module = network()
        module.register_buffer("mask", torch.full((2, 2), -math.inf))
        return module

    states = []
    whole, module = masked(), masked()
    train(whole, dataset, keep=states.append)
    train(module, dataset, resume=states[0])
    assert same(whole, module)


def test_the_check_of_an_epochs_end_changes_no_bit(dataset, monkeypatch):
    checked, unchecked = network(), network()
    train(checked, dataset)
    monkeypatch.setattr(retraining.epochs.Epochs, "_sound", lambda *_: True)
    train(unchecked, dataset)
    assert same(checked, unchecked)


def moved(images, labels, **_):
    """The same images, in two other tensors with other strides."""
    last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return TensorImages("elsewhere", [last[:7], last[7:]], labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: TensorImages("inverted", [255 - x], y), "other images than those of inv"),
        (lambda x, y: TensorImages("x", [x.flip(0)], y), "other images than"),
        (lambda x, y: TensorImages("x", [x], 3 - y), "other labels than"),
        (lambda x, y: TensorImages("x", [x.flip(0)], y.flip(0)), "other images and labels than"),
        (lambda x, y: TensorImages("x", [x.flip(2)], y), "other images than"),
    ],
)
def test_other_images_do_not_continue_a_run(dataset, change, message):
    states = []
    images = dataset.batch(torch.arange(65))
    train(network(), dataset, keep=states.append)
    with pytest.raises(OptionError, match=message):
        train(network(), change(images.clone(), dataset.labels), resume=states[0])


def test_the_same_images_elsewhere_continue_a_run(dataset):
    states, whole, module = [], network(), network()
    train(whole, dataset, keep=states.append)
    train(module, moved(dataset.batch(torch.arange(65)), dataset.labels), resume=states[0])
    assert same(whole, module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: None, None),
        (lambda root: root.rename(root.with_name("elsewhere")), None),
        (lambda root: (root / "a/0.bmp").rename(root / "a/9.bmp"), "other images"),
        (lambda root: (root / "a").rename(root / "c"), "other images and labels"),
        (lambda root: Image.new("RGB", (8, 8), "blue").save(root / "b/1.bmp"), "other images"),
    ],
)
def test_image_files_are_told_apart_by_their_bytes(tmp_path, change, message):
    root = tmp_path / "set"
    for number in range(8):
        path = root / ("a" if number < 5 else "b") / f"{number % 5}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    states = []
    train(network(), open_dataset(f"imagefolder:{root}"), keep=states.append)
    change(root)
    (place,) = tmp_path.iterdir()
    images = open_dataset(f"imagefolder:{place}")
    if message is None:
        train(network(), images, resume=states[1])
        return
    with pytest.raises(OptionError, match=message):
        train(network(), images, resume=states[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"epochs": 10**400}, "epochs 10+ is not"),
        ({"batch_size": 1}, "batch size 1"),
        ({"batch_size": 10**30}, "batch size 10+ is not"),
        ({"lr": 1e308}, r"lr 1e\+308 is not in \(0, 3e\+38\]"),
        ({"weight_decay": 1e308}, r"weight decay 1e\+308 is not in"),
        ({"weight_decay": math.nan}, "weight decay nan"),
        ({"momentum": -1e308}, r"momentum -1e\+308"),
        ({"label_smoothing": 1e308}, r"label smoothing 1e\+308"),
        ({"seed": 2**64}, "seed"),
        ({"lr": 0}, "lr 0"),
        ({"lr": math.nan}, "lr nan"),
        ({"lr": math.inf}, "lr inf"),
        ({"momentum": 1}, "momentum 1"),
        ({"momentum": 0, "nesterov": True}, "nesterov needs momentum"),
        ({"weight_decay": -1}, "weight decay -1"),
        ({"warmup_epochs": 4}, "warm-up of 4 epochs"),
        ({"warmup_epochs": -1}, "warm-up of -1 epochs"),
        ({"milestones": (0.5, 0.5)}, "milestones"),
        ({"milestones": (0.5, 0.2)}, "milestones"),
        ({"milestones": (1.0,)}, "milestones"),
        ({"milestones": (91, 136)}, "milestones"),
        ({"gamma": 0}, "gamma 0"),
        ({"augmentation": "mixup"}, "augmentation 'mixup'"),
        ({"label_smoothing": 1}, "label smoothing 1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_without_sense_are_refused(values, message):
    with pytest.raises(OptionError, match=message):
        RetrainSettings(**{"epochs": 3, **values})


def test_all_problems_are_named_at_once():
    with pytest.raises(OptionError) as caught:
        RetrainSettings(epochs=-1, lr=-1, gamma=2, seed=-5)
    for word in ("epochs -1", "lr -1", "gamma 2", "seed -5"):
        assert word in caught.value.message


def test_the_schedule_rises_per_step_and_falls_at_the_milestones():
    settings = RetrainSettings(
        epochs=10, lr=1, warmup_epochs=0.5, milestones=(0.5, 0.75), gamma=0.1
    )
    rates = [learning_rate(settings, step, 8) for step in range(80)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert set(rates[4:40]) == {1}
    assert rates[40:60] == pytest.approx([0.1] * 20)
    assert rates[60:] == pytest.approx([0.01] * 20)


def test_the_papers_schedule_can_be_written():
    """Supplement, table 3, ResNet20: 182 epochs, 0.1 at 91 and 136, five epochs' warm-up."""
    settings = RetrainSettings(
        epochs=182, lr=0.1, warmup_epochs=5, milestones=(91 / 182, 136 / 182)
    )
    starts = [learning_rate(settings, epoch * 10, 10) for epoch in range(182)]
    assert starts[0] == pytest.approx(0.1 / 50)
    assert starts[5:91] == pytest.approx([0.1] * 86)
    assert starts[91:136] == pytest.approx([0.01] * 45)
    assert starts[136:] == pytest.approx([0.001] * 46)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_trains_and_brings_the_network_back(dataset):
    module = network()
    state = torch.cuda.get_rng_state()
    train(module, dataset, device=torch.device("cuda"))
    assert {p.device for p in module.parameters()} == {CPU}
    assert torch.equal(state, torch.cuda.get_rng_state())


def shared(name):
    """A file of the real data that lies beside the repository, or a skip that says so."""
    root = Path(__file__).resolve().parents[1]
    places = [root.parent / "shared", root / "shared"]
    if "ALDS_SHARED" in os.environ:
        places.insert(0, Path(os.environ["ALDS_SHARED"]))
    for place in places:
        if (place / name).exists():
            return place / name
    pytest.skip(f"{name} is neither in ../shared nor where ALDS_SHARED points")


@pytest.mark.slow
def test_a_perturbed_resnet20_recovers():
    architectures = pytest.importorskip("alds_cli.architectures")
    if not hasattr(architectures, "build"):
        pytest.skip("this build has no architectures.build")
    from safetensors.torch import load_file  # noqa: PLC0415

    from alds_cli.records import Architecture  # noqa: PLC0415

    module = architectures.build(Architecture("cifar_resnet20"))
    module.load_state_dict(load_file(shared("weights/cifar10_resnet20.safetensors")))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(0.2 * weight.abs().mean() * noise)
    whole = open_dataset(f"tensors:{shared('data/cifar10/train-0.safetensors')}")
    chosen = torch.arange(2048)
    dataset = TensorImages("part", [whole.batch(chosen)], whole.labels[chosen])
    test = open_dataset(f"tensors:{shared('data/cifar10/test-dev.safetensors')}")
    batches = Batches(test.subset(torch.arange(1000)), PRESETS["imagenet-stats"], batch_size=250)
    before = measure_quality(module, batches, device=CPU)
    settings = RetrainSettings(epochs=1, lr=0.01)
    retrain(module, dataset, settings, preprocessing=PRESETS["imagenet-stats"])
    after = measure_quality(module, batches, device=CPU)
    assert after.top1 > before.top1
    assert after.loss < before.loss
