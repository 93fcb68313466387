"""Parameters and MACs: published numbers, hand formulas, and a network left as it was."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torchvision
from torch import nn

from alds_cli.tracing.trace import (
    count_macs,
    count_parameters,
    evaluation_mode,
    meta_copy,
    trace,
    training_mode,
)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("resnet18", 11_689_512, 1_814_073_344),
        ("mobilenet_v2", 3_504_872, 300_774_272),
        ("vgg16", 138_357_544, 15_470_264_320),
        # Attention's two products are counted: 2 · 197² · 768 MACs in each of 12 layers.
        ("vit_b_16", 86_567_656, 17_563_828_224),
        ("swin_t", 28_288_354, 4_490_566_656),
    ],
)
def test_published_networks_have_their_published_costs(name, params, macs):
    with torch.device("meta"):
        module = torchvision.models.get_model(name)
    assert count_parameters(module) == params
    assert count_macs(module, (3, 224, 224)) == macs


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(6, 8, 3, bias=False), (6, 10, 12), 8 * 8 * 10 * 6 * 9),
        (nn.Conv2d(6, 8, 3, groups=2), (6, 10, 12), 8 * 8 * 10 * 3 * 9),
        (nn.Conv2d(6, 6, (3, 1), groups=6, stride=(2, 1), padding=(1, 0)), (6, 9, 4), 6 * 20 * 3),
        (nn.Conv1d(4, 6, 5, dilation=2), (4, 20), 6 * 12 * 4 * 5),
        (nn.Conv3d(2, 4, 2), (2, 3, 4, 5), 4 * 2 * 3 * 4 * 2 * 8),
        (nn.Linear(7, 5), (7,), 35),
        (nn.Linear(7, 5), (3, 7), 105),
        (nn.ReLU(), (3, 7), 0),
    ],
)
def test_single_layers_follow_the_formula(layer, shape, macs):
    seen = trace(layer, shape)
    assert seen.macs == macs
    assert seen.calls[""].macs == macs
    assert seen.calls[""].input_shape == (1, *shape)


class Branches(nn.Module):
    """A layer called twice, one never called, one used by its weight only, one shared."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.never = nn.Linear(2, 2)
        self.weight_only = nn.Linear(3, 4)
        self.again = self.twice
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))

    def forward(self, x):
        x = self.again(self.twice(x)).mean((2, 3))
        return self.head(nn.functional.linear(x, self.weight_only.weight))


def test_calls_tell_which_layers_run_as_modules():
    calls = trace(Branches(), (3, 5, 5)).calls
    assert set(calls) == {"twice", "head.0", "head.1"}
    assert calls["twice"].calls == 2
    assert calls["twice"].macs == 2 * 25 * 81
    assert calls["twice"].output_shape == (1, 3, 5, 5)
    assert calls["twice"].shapes == 2 * (((1, 3, 5, 5), (1, 3, 5, 5)),)


def test_attention_applies_its_projections_without_calling_them():
    with torch.device("meta"):
        vit = torchvision.models.vit_b_16()
        swin = torchvision.models.swin_t()
    seen = trace(vit, (3, 224, 224))
    block = "encoder.layers.encoder_layer_0"
    packed, joined = (
        seen.calls[f"{block}.self_attention.{own}"] for own in ("in_proj", "out_proj")
    )
    assert packed.macs == 197 * 768 * 3 * 768
    assert packed.shapes == (((1, 197, 768), (1, 197, 3 * 768)),)
    assert joined.macs == 197 * 768 * 768
    assert seen.calls[f"{block}.mlp.0"].input_shape == (1, 197, 768)
    # All that is left are the products of attention itself.
    assert seen.macs - sum(call.macs for call in seen.calls.values()) == 12 * 2 * 197**2 * 768
    calls = trace(swin, (3, 224, 224)).calls
    assert not any(name.endswith(".qkv") for name in calls)
    assert calls["features.1.0.mlp.0"].input_shape == (1, 56, 56, 96)


class Attends(nn.Module):
    """An attention given one tensor, two or three different ones, twice each time."""

    def __init__(self, inputs, **arguments):
        super().__init__()
        self.inputs = inputs
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **arguments)

    def forward(self, rows):
        short = rows[:, :3]
        key = rows if self.inputs == 1 else short
        value = {1: rows, 2: short, 3: short + 1}[self.inputs]
        self.attention(rows, key, value=value)
        return self.attention(query=rows, value=value, key=key)[0]


@pytest.mark.parametrize(
    ("inputs", "applied"),
    [(1, [(5, 24)]), (2, [(5, 8), (3, 16)]), (3, [(5, 8), (3, 8), (3, 8)])],
)
@pytest.mark.parametrize("arguments", [{}, {"bias": False}])
def test_different_tensors_pass_the_rows_that_they_need(inputs, applied, arguments):
    seen = trace(Attends(inputs, **arguments), (5, 8))
    call = seen.calls["attention.in_proj"]
    assert call.calls == 2
    assert call.shapes == 2 * tuple(((1, n, 8), (1, n, rows)) for n, rows in applied)
    assert call.macs == 2 * sum(n * 8 * rows for n, rows in applied)
    keys = 5 if inputs == 1 else 3
    products = 2 * (2 * 5 * keys * 8)
    assert seen.macs == call.macs + seen.calls["attention.out_proj"].macs + products


def test_attention_without_a_packed_projection_enters_only_what_it_has():
    calls = trace(Attends(1, kdim=8, vdim=8), (5, 8)).calls
    assert set(calls) == {"attention.in_proj", "attention.out_proj"}
    other = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = other

        def forward(self, rows):
            return self.attention(rows, rows[..., :4], rows[..., :4])[0]

    assert set(trace(Other(), (8,)).calls) == {"attention.out_proj"}


class Resizes(nn.Module):
    """A layer handed more than its input."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 3, stride=2)
        self.plain = nn.ConvTranspose2d(3, 4, 3, stride=2)

    def forward(self, image):
        return self.plain(image).sum() + self.up(image, output_size=(10, 11)).sum()


def test_calls_tell_what_is_handed_more_than_its_input():
    calls = trace(Resizes(), (3, 4, 5)).calls
    assert calls["plain"].alone
    assert not calls["up"].alone


def fingerprint(module):
    return (
        [(name, id(p), p._version, p.requires_grad, p.device) for name, p in _tensors(module)],
        [part.training for part in module.modules()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        [sorted(vars(part)) for part in module.modules()],
    )


def _tensors(module):
    return [*module.named_parameters(), *module.named_buffers()]


@pytest.mark.parametrize("shape", [(3, 32, 32), (5, 1, 1)])
def test_the_network_is_left_as_it_was(shape):
    module = torchvision.models.resnet18(num_classes=3)
    module.layer1.eval()
    before, values = fingerprint(module), copy.deepcopy(module.state_dict())
    rng = torch.get_rng_state()
    trace(module, shape)
    assert fingerprint(module) == before
    assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_tied_parameters_count_once():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert count_parameters(nn.Sequential(first, second)) == 16
    assert count_macs(nn.Sequential(first, second), (4,)) == 32


class NeedsValues(nn.Module):
    """Cannot run without real numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        if float(x.sum()) > -1e6:
            x = self.layer(x)
        return self.attention(x, x, x, need_weights=False)[0]


def test_a_network_that_needs_values_runs_for_real():
    module = NeedsValues()
    module.layer.eval()
    before = fingerprint(module)
    seen = trace(module, (3, 4))
    # A linear layer, three projections in, two products of 3 × 3 × 4, one projection out.
    assert seen.macs == 3 * 16 * (1 + 3 + 1) + 2 * 3 * 3 * 4
    assert seen.calls["layer"].calls == 1
    assert fingerprint(module) == before
    assert torch.backends.mha.get_fastpath_enabled()


class LazyCache(nn.Module):
    """Makes a plain tensor on its first call, as positional encodings do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.table = torch.ones(4)
        self.cache = None

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.zeros(4, device=x.device)
        return self.layer(x) + self.cache + self.table


def test_what_a_network_caches_stays_out_of_it():
    module = LazyCache()
    assert count_macs(module, (4,)) == 16
    assert module.cache is None
    assert module.table.device.type == "cpu"


class Wary(nn.Module):
    """Runs, but not while anybody watches what PyTorch does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        if x.is_meta or torch._C._len_torch_dispatch_stack():
            raise RuntimeError("somebody is watching")
        return self.layer(x)


def test_a_network_that_cannot_be_counted_is_observed_all_the_same():
    seen = trace(Wary(), (4,))
    assert seen.macs is None
    assert seen.failure is None
    assert seen.calls["layer"].output_shape == (1, 4)


class Handing(nn.Module):
    """Hands a parameter to a layer as it is."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.token) + x


@pytest.mark.parametrize("asking", [True, False])
def test_a_parameter_handed_to_a_layer_is_counted(asking):
    module = Handing().requires_grad_(asking)
    assert count_macs(module, (4,)) == 16
    assert all(parameter.requires_grad == asking for parameter in module.parameters())


def test_a_network_that_cannot_run_has_no_macs_and_says_why(caplog):
    module = nn.Linear(4, 4)
    with caplog.at_level(logging.WARNING):
        seen = trace(module, (5,))
    assert seen.macs is None
    assert not seen.calls
    assert "float[1,5]" in caplog.text
    assert not module._forward_hooks
    assert module.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_is_counted(dtype):
    assert count_macs(nn.Conv2d(3, 4, 1).to(dtype), (3, 2, 2)) == 48


def test_parametrised_layers_are_still_layers():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert trace(nn.Sequential(layer), (4,)).calls["0"].macs == 16


@pytest.mark.parametrize(("mode", "inside"), [(evaluation_mode, False), (training_mode, True)])
def test_modes_come_back_after_an_error(mode, inside):
    module = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    module[0].eval()

    def fail():
        with mode(module):
            assert all(part.training is inside for part in module.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [part.training for part in module.modules()] == [True, False, True]


def test_the_copy_that_is_counted_never_holds_values():
    module = LazyCache()
    module.register_buffer("buffer", torch.ones(3))
    with torch.no_grad():
        module.derived = module.layer.weight * 2
    copied = meta_copy(module)
    tensors = [*copied.parameters(), *copied.buffers(), copied.table, copied.derived]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert isinstance(copied.layer.weight, nn.Parameter)
