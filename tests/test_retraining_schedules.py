"""Learning rates of whole schedules, and of runs that repeat the end of one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, lr_scheduler

from alds_cli.errors import OptionError
from alds_cli.retraining import RetrainSettings, learning_rate

PER_EPOCH = 7


def rates(chosen, per_epoch=PER_EPOCH):
    return [learning_rate(chosen, step, per_epoch) for step in range(chosen.epochs * per_epoch)]


def of_torch(schedule, steps):
    """The rates of a scheduler of PyTorch that is stepped after every step, from a rate of 1."""
    optimiser = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    made = schedule(optimiser)
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        made.step()
    return found


@pytest.mark.parametrize(
    ("values", "schedule"),
    [
        (
            {"milestones": (0.25, 0.5), "gamma": 0.2},
            lambda own: lr_scheduler.MultiStepLR(own, [14, 28], 0.2),
        ),
        (
            {"schedule": "step", "decay_every": 3, "gamma": 0.5},
            lambda own: lr_scheduler.StepLR(own, 3 * PER_EPOCH, 0.5),
        ),
        (
            {"schedule": "exponential", "decay_every": 1 / PER_EPOCH, "gamma": 0.98},
            lambda own: lr_scheduler.ExponentialLR(own, 0.98),
        ),
        (
            {"schedule": "polynomial", "power": 0.9},
            lambda own: lr_scheduler.PolynomialLR(own, 8 * PER_EPOCH, 0.9),
        ),
        (
            {"schedule": "cosine"},
            lambda own: lr_scheduler.CosineAnnealingLR(own, 8 * PER_EPOCH),
        ),
        ({"schedule": "warm"}, lambda own: lr_scheduler.CosineAnnealingLR(own, 8 * PER_EPOCH)),
    ],
)
def test_schedules_are_those_of_pytorch(values, schedule):
    found = rates(RetrainSettings(epochs=8, lr=1.0, **values))
    assert found == pytest.approx(of_torch(schedule, 8 * PER_EPOCH), abs=1e-12)


SHAPES = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(["multistep", "step", "exponential", "polynomial", "cosine"]),
        "gamma": st.floats(0.1, 1),
        "decay_every": st.floats(0.3, 9),
        "power": st.floats(0.2, 3),
        "milestones": st.lists(
            st.sampled_from([k / 20 for k in range(1, 20)]), max_size=3, unique=True
        ).map(lambda found: tuple(sorted(found))),
    }
)


@settings(deadline=None)
@given(
    SHAPES,
    st.integers(1, 20),
    st.integers(0, 20),
    st.integers(1, 9),
    st.floats(0, 1),
)
def test_rewinding_repeats_the_end_of_the_schedule(shape, epochs, skipped, per_epoch, warm):
    whole = epochs + skipped
    shape = {**shape, "lr": 0.3, "warmup_epochs": warm * whole}
    expected = rates(RetrainSettings(epochs=whole, **shape), per_epoch)[skipped * per_epoch :]
    found = rates(RetrainSettings(epochs=epochs, schedule_epochs=whole, **shape), per_epoch)
    assert found == expected


@settings(deadline=None)
@given(SHAPES, st.integers(1, 20), st.integers(1, 9), st.floats(0, 1))
def test_rates_rise_from_zero_and_then_never_rise_again(shape, epochs, per_epoch, warm):
    found = rates(
        RetrainSettings(epochs=epochs, lr=0.3, warmup_epochs=warm * epochs, **shape), per_epoch
    )
    assert all(0 < rate <= 0.3 for rate in found)
    after = found[math.ceil(warm * epochs * per_epoch) :]
    assert after == sorted(after, reverse=True)


def test_the_warm_up_is_a_line_from_zero():
    found = rates(RetrainSettings(epochs=8, lr=0.8, warmup_epochs=2, milestones=()))
    assert found[:14] == pytest.approx([0.8 * (step + 1) / 14 for step in range(14)])
    assert set(found[14:]) == {0.8}


def test_a_warm_start_forgets_the_schedule_and_keeps_its_warm_up_short():
    chosen = RetrainSettings(
        epochs=10, lr=1.0, schedule="warm", schedule_epochs=182, warmup_epochs=5
    )
    found = rates(chosen)
    assert found[0] == pytest.approx(1 / PER_EPOCH)
    assert found[PER_EPOCH] == pytest.approx(0.5 * (1 + math.cos(math.pi / 10)))
    assert found == rates(RetrainSettings(epochs=10, lr=1.0, schedule="cosine", warmup_epochs=1))
    RetrainSettings(epochs=3, schedule="warm", warmup_epochs=5)


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(2, 400), st.integers(1, 400))
def test_a_milestone_is_at_the_first_step_of_its_epoch(first, more, per_epoch):
    """Rounding of the fraction moves it by no step."""
    epochs = first + more
    chosen = RetrainSettings(
        epochs=epochs, lr=1.0, milestones=(first / epochs,), schedule="multistep"
    )
    assert learning_rate(chosen, first * per_epoch, per_epoch) == 0.1
    assert learning_rate(chosen, first * per_epoch - 1, per_epoch) == 1


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 400))
def test_a_decay_is_at_the_first_step_of_its_epoch(every, times, per_epoch):
    chosen = RetrainSettings(epochs=1000, lr=1.0, schedule="step", decay_every=every, gamma=0.5)
    at = times * every * per_epoch
    assert learning_rate(chosen, at, per_epoch) == 0.5**times
    assert learning_rate(chosen, at - 1, per_epoch) == 0.5 ** (times - 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "falling"}, "schedule 'falling' is none of multistep, step"),
        ({"optimiser": "lion"}, "optimiser 'lion' is none of sgd, rmsprop, adamw"),
        ({"schedule_epochs": 2}, "3 epochs do not fit into a schedule of 2"),
        ({"schedule_epochs": 10**9}, "3 epochs do not fit into a schedule of 1000000000"),
        ({"schedule_epochs": 9, "warmup_epochs": 10}, "warm-up of 10 epochs does not fit into 9"),
        ({"decay_every": 0}, "decay every 0"),
        ({"decay_every": math.nan}, "decay every nan"),
        ({"power": 0}, "power 0"),
        ({"power": math.inf}, "power inf"),
        ({"smoothing": 1}, "smoothing 1"),
        ({"smoothing": -0.1}, "smoothing -0.1"),
        ({"clip_norm": 0}, "clip norm 0"),
        ({"clip_norm": math.nan}, "clip norm nan"),
        ({"optimiser": "adamw", "nesterov": True}, "nesterov goes with the optimiser sgd"),
    ],
)
def test_settings_without_sense_are_refused(values, message):
    with pytest.raises(OptionError, match=message):
        RetrainSettings(**{"epochs": 3, **values})
