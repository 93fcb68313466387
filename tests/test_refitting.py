"""Pairs fitted again, in the order of the forward pass, to correct what has changed before."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from alds_cli import api
from alds_cli.calibration import draw_sample
from alds_cli.calibration.cross_moments import cross_moments
from alds_cli.calibration.lockstep import in_lockstep
from alds_cli.cli import documents, rendering
from alds_cli.compression import refitting
from alds_cli.compression.held_back import Judge, Judged
from alds_cli.datasets import TensorImages
from alds_cli.errors import DataError, OptionError
from alds_cli.numerics import corrected_fit
from alds_cli.numerics.corrected_fit import corrected_factors
from alds_cli.numerics.data_norm import data_factors
from alds_cli.options.model_source import Source
from alds_cli.records import SLICED, Choice, Plan, Preprocessing
from alds_cli.surgery import dense_copy, find_layers

PREPARED = Preprocessing((0.5,) * 3, (0.25,) * 3)


def network(seed=0):
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 7),
    ).eval()
    made[1].running_mean.normal_()
    return made


def judged(divergence, agreement):
    return Judged(torch.full((4,), divergence, dtype=torch.float64), agreement)


PLAN = Plan(
    {"0": Choice(0, 1, 4), "3": Choice(0, 2, 1), "5": Choice(0, 4, 4), "9": Choice(0, 1, 3)},
    method="alds",
)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (60, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return TensorImages("drawn", [pixels.permute(0, 3, 1, 2)], torch.zeros(60, dtype=torch.long))


def compressed(images, module=None, **options):
    usual = {"samples": 40, "preprocessing": PREPARED, "source": Source(input_shape=(3, 8, 8))}
    usual |= {"cache": False, "device": "cpu", "refit": True}
    if "method" not in options:
        usual["plan"] = PLAN
    return api.compress(module or network(), data=images, **{**usual, **options})


def fitted_inputs(images, count=36):
    """The images that pairs are fitted to, as inputs in float64."""
    drawn, _ = draw_sample(len(images), count, 0)
    pixels = torch.stack([images.image(int(at)) for at in drawn]).double() / 255
    return (pixels - 0.5) / 0.25


def seen(module, name, inputs):
    """What a layer of a network is given, and what it gives."""
    found = []
    part = module.get_submodule(name)
    hook = part.register_forward_hook(lambda _, given, output: found.append((given[0], output)))
    with torch.no_grad():
        module(inputs)
    hook.remove()
    return found[0]


# ---------------------------------------------------------------- two networks side by side


def test_changes_at_a_layer_are_seen_by_those_after_it():
    first, second = network(), network(1)
    batches = list(torch.randn(5, 3, 8, 8).split(2))
    visits = []

    def visit(name, before, after):
        for inputs, own, other in zip(batches, before, after, strict=True):
            torch.testing.assert_close(own, seen(first, name, inputs)[0])
            torch.testing.assert_close(other, seen(second, name, inputs)[0])
        visits.append(name)
        with torch.no_grad():
            second.get_submodule(name).weight.mul_(0.5)

    in_lockstep(first, second, ["9", "0", "3"], batches, visit)
    assert visits == ["0", "3", "9"]


def test_a_failure_ends_all_threads():
    def visit(*_):
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        in_lockstep(network(), network(1), ["0", "3"], [torch.randn(1, 3, 8, 8)] * 3, visit)
    with pytest.raises(DataError):
        in_lockstep(network(), network(1), ["3"], [torch.randn(1, 5, 8, 8)] * 3, lambda *_: None)
    assert not [thread for thread in threading.enumerate() if thread.name == "alds-pass"]


# ---------------------------------------------------------------- moments and factors


LAYERS = {
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), (3, 4, 7, 7)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (3, 4, 5, 5)),
    "tokens": (nn.Linear(6, 5), (3, 9, 6)),
}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_moments_give_the_error_of_outputs(kind, centred):
    layer, shape = LAYERS[kind]
    layer = copy.deepcopy(layer).double()
    (spec,) = find_layers(nn.Sequential(layer)).values()
    before, after = (torch.randn(2, *shape, dtype=torch.float64) + 1 for _ in range(2))
    found = cross_moments(layer, spec, list(before), list(after), centred=centred)
    other = copy.deepcopy(layer)
    nn.init.normal_(other.weight)
    layer.bias.data.zero_()
    other.bias.data.zero_()
    with torch.no_grad():
        apart = layer(before.flatten(0, 1)) - other(after.flatten(0, 1))
    if kind == "transposed":
        # Its patches are at every place that the kernel reaches, and so are its outputs.
        assert found.count == apart[:, 0].numel()
    channels = apart.movedim(-1 if kind == "tokens" else 1, 0).flatten(1)
    if centred:
        channels = channels - channels.mean(dim=1, keepdim=True)
    weight = refitting._by_group(refitting.canonical(other.weight.detach(), other), spec)
    wanted = float(channels.square().sum(dim=0).mean())
    assert found.error(weight) == pytest.approx(wanted, rel=1e-9)
    several = cross_moments(
        layer,
        spec,
        [*before[:, :1], *before[:, 1:]],
        [*after[:, :1], *after[:, 1:]],
        centred=centred,
    )
    torch.testing.assert_close(several.moments, found.moments)
    torch.testing.assert_close(several.cross, found.cross)


def moments_of(weight, before, after):
    return weight @ before @ after.mT / before.shape[-1], after @ after.mT / after.shape[-1]


def test_what_can_be_undone_is_undone(monkeypatch):
    monkeypatch.setattr(corrected_fit, "DAMPING", 1e-12)
    weight, before = torch.randn(2, 4, 6).double(), torch.randn(2, 6, 50).double()
    after = torch.randn(2, 6, 6).double() @ before
    cross, moments = moments_of(weight, before, after)
    left, right = corrected_factors(weight, cross, moments, 3, 1, 4, torch.float64)
    torch.testing.assert_close(left @ right @ after, weight @ before, rtol=1e-6, atol=1e-6)


def test_unchanged_inputs_leave_the_usual_fit():
    weight, before = torch.randn(2, 4, 6).double(), torch.randn(2, 6, 50).double()
    cross, moments = moments_of(weight, before, before)
    left, right = corrected_factors(weight, cross, moments, 3, 1, 2, torch.float64)
    damped = moments + corrected_fit.DAMPING * moments.diagonal(dim1=1, dim2=2).mean() * torch.eye(
        6
    )
    usual = data_factors(weight.reshape(8, 3, 2), damped, 1, 2)
    torch.testing.assert_close(left @ right, usual.left @ usual.right)


def test_inputs_that_have_become_zero_leave_the_weight():
    weight, nothing = torch.randn(1, 4, 6).double(), torch.zeros(1, 6, 50).double()
    cross, moments = moments_of(weight, nothing, nothing)
    left, right = corrected_factors(weight, cross, moments, 3, 1, 4, torch.float64)
    torch.testing.assert_close(left @ right, weight)


# ---------------------------------------------------------------- whole networks


def test_no_layer_fits_worse_than_before(images, monkeypatch):
    answers = iter([(2.0, 0.0), (1.0, 0.0)])
    monkeypatch.setattr(Judge, "measured", lambda *_: judged(*next(answers)))
    original, inputs = network().double(), fitted_inputs(images)
    usual = compressed(images, refit=False).network.module.double()
    result = compressed(images)
    refitted = result.network.module.double()
    assert result.report.refit.kept
    assert result.report.refit.pairs == 4
    assert (result.report.refit.images, result.report.refit.held_back) == (36, 4)
    norms = {"0": "1"}
    for name in PLAN.decomposed:
        wanted = seen(original, norms.get(name, name), inputs)[1]
        given = seen(refitted, name, inputs)[0]
        ends = []
        for module in (refitted, usual):
            with torch.no_grad():
                output = module.get_submodule(name)(given)
                output = module.get_submodule(norms[name])(output) if name in norms else output
            ends.append(float((output - wanted).square().sum()))
        assert ends[0] < ends[1], name
        means = seen(refitted, norms.get(name, name), inputs)[1].transpose(0, 1).flatten(1).mean(1)
        torch.testing.assert_close(
            means, wanted.transpose(0, 1).flatten(1).mean(1), rtol=0, atol=1e-5
        )


def test_what_is_worse_on_images_held_back_is_left_out(images, monkeypatch):
    usual = compressed(images, refit=False)
    answers = iter([(1.0, 50.0), (2.0, 25.0)])
    monkeypatch.setattr(Judge, "measured", lambda *_: judged(*next(answers)))
    result = compressed(images)
    assert not result.report.refit.kept
    assert result.report.refit.divergence_after == 2
    assert result.report.layers == usual.report.layers
    for name, tensor in usual.network.module.state_dict().items():
        assert torch.equal(result.network.module.state_dict()[name], tensor), name


def test_fitting_again_helps_here_and_reports_true_errors(images):
    result = compressed(images)
    refit = result.report.refit
    assert refit.kept
    assert refit.divergence_after < refit.divergence_before
    dense = dense_copy(network(), result.network.module.state_dict(), PLAN.decomposed)
    lost, whole = (network()[9].weight - dense[9].weight).detach(), network()[9].weight.detach()
    wanted = torch.linalg.matrix_norm(lost, 2) / torch.linalg.matrix_norm(whole, 2)
    (layer,) = (layer for layer in result.report.layers if layer.name == "9")
    assert layer.error == pytest.approx(float(wanted), rel=1e-4)
    assert result.report.max_error_bound is None


def test_the_bits_do_not_depend_on_the_number_of_threads(images, monkeypatch):
    monkeypatch.setattr(refitting, "_TOGETHER", 7)
    states, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            states.append(compressed(images).network.module.state_dict())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Twice(nn.Module):
    """A network that calls one layer twice, and another by keyword."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 7)

    def forward(self, x):
        x = self.again(self.again(self.stem(x)).relu()).relu()
        return self.head(input=x.mean(dim=(2, 3)))


def test_a_layer_that_is_called_twice_stays_as_it_is(images, monkeypatch):
    answers = iter([(2.0, 0.0), (1.0, 0.0)])
    monkeypatch.setattr(Judge, "measured", lambda *_: judged(*next(answers)))
    plan = Plan({name: Choice(0, 1, 2) for name in ("stem", "again", "head")}, method="alds")
    module = Twice().eval()
    usual = compressed(images, module, plan=plan, refit=False).network.module.state_dict()
    found = compressed(images, module, plan=plan).network.module.state_dict()
    changed = {name.split(".")[0] for name in usual if not torch.equal(usual[name], found[name])}
    assert changed == {"stem", "head"}


class Tokens(nn.Module):
    """A classifier of sequences with a packed attention."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(24, 3, 32, dropout=0.5, batch_first=True)
        self.head = nn.Linear(24, 7)

    def forward(self, x):
        return self.head(self.encoder(x.movedim(1, -1).flatten(2)).mean(dim=1))


def test_attention_on_sequences_is_fitted_again(images):
    names = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    plan = Plan({f"encoder.{name}": Choice(0, 1, 5) for name in names}, method="alds")
    torch.manual_seed(0)
    refit = compressed(images, Tokens().eval(), plan=plan).report.refit
    assert refit.pairs == 4
    assert refit.divergence_after < refit.divergence_before


def test_the_report_says_what_was_done(images):
    result = compressed(images)
    refit = result.report.refit
    told = [line for line in rendering._facts(result.report) if line.startswith("fitted again")]
    start = f"fitted again: divergence of the answers {refit.divergence_before:.3g} → "
    assert len(told) == 1
    assert told[0].startswith(start)
    assert told[0].endswith("on 4 samples held back")
    assert documents.compression(result).refit == refit


def test_tuning_starts_from_what_was_fitted_again(images):
    report = compressed(images, tune_steps=2).report
    assert report.refit.kept
    assert report.tuning.steps == 2
    assert report.tuning.held_back == 4


def test_progress_counts_layers(images):
    events = []
    compressed(images, progress=events.append)
    counted = [(event.done, event.total) for event in events if event.task == "refit"]
    assert counted == [(done, 4) for done in range(1, 5)]


def test_clustered_pairs_stay_as_they_are(images, monkeypatch):
    answers = iter([(2.0, 0.0), (1.0, 0.0)])
    monkeypatch.setattr(Judge, "measured", lambda *_: judged(*next(answers)))
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 7)).eval()
    found = compressed(images, module, method="messi", ratio=0.6)
    usual = compressed(images, module, method="messi", ratio=0.6, refit=False)
    assert found.plan.choices["1"].scheme not in SLICED
    assert found.report.refit.pairs == 0
    first, second = (own.network.module.state_dict() for own in (found, usual))
    changed = {name for name in second if not torch.equal(first[name], second[name])}
    assert changed == {"3.bias"}  # of a layer that is kept


def test_of_pairs_in_other_schemes_the_means_are_corrected(images, monkeypatch):
    answers = iter([(2.0, 0.0), (1.0, 0.0)])
    monkeypatch.setattr(Judge, "measured", lambda *_: judged(*next(answers)))
    plan = Plan({"0": Choice(1, 1, 2)}, method="alds-simple")
    usual = compressed(images, plan=plan, refit=False).network.module.state_dict()
    result = compressed(images, plan=plan)
    found = result.network.module.state_dict()
    changed = {name for name in usual if not torch.equal(usual[name], found[name])}
    assert changed == {"1.running_mean", "3.bias", "5.bias", "9.bias"}
    assert result.report.refit.pairs == 0
    original, inputs = network().double(), fitted_inputs(images)
    for name in ("1", "3", "5", "9"):
        ends = [
            seen(module, name, inputs)[1].transpose(0, 1).flatten(1).mean(1)
            for module in (original, result.network.module.double())
        ]
        torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-5)


def test_half_precision_stays_half(images):
    result = compressed(images, network().half())
    types = {tensor.dtype for tensor in result.network.module.parameters()}
    assert types == {torch.float16}
    assert result.report.refit.divergence_after < result.report.refit.divergence_before


def test_fewer_images_are_fitted_to_where_memory_is_short(images, monkeypatch):
    monkeypatch.setattr(refitting, "_HELD_BYTES", 4 * 10 * 4 * 16 * 8 * 8)
    assert compressed(images).report.refit.images == 10


def test_what_cannot_be_done_is_said_before_any_work(images):
    with pytest.raises(OptionError, match="none are named"):
        api.compress(network(), ratio=0.4, method="alds", refit=True)
    with pytest.raises(OptionError, match="ft removes filters"):
        compressed(images, method="ft", ratio=0.4)
    with pytest.raises(OptionError, match="two images"):
        compressed(images, samples=1)
