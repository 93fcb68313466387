"""Attention with pairs in it, against `nn.MultiheadAttention` in every way to call it."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from decomposing import decompose, install_random, randomised, rank_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from alds_cli.errors import PlanError
from alds_cli.numerics.fold import pair_macs
from alds_cli.records import Choice
from alds_cli.surgery import (
    PairedAttention,
    dense_state,
    find_layers,
    require_fitting,
    reshape_network,
    weight_at,
)
from alds_cli.tracing.trace import count_parameters, trace

WIDTH, HEADS, LENGTH, KEYS, BATCH = 12, 3, 5, 4, 2


class Around(nn.Module):
    """A network with one attention in it, which hands on whatever it is given."""

    def __init__(self, **arguments):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **arguments)

    def forward(self, *inputs, **arguments):
        return self.attention(*inputs, **arguments)


def full_rank_copy(network, names=("in_proj", "out_proj"), k=1):
    """The same network with pairs of full rank, in which nothing is lost."""
    found = copy.deepcopy(network)
    for name in names:
        spec = find_layers(network)[f"attention.{name}"]
        decompose(found, spec.name, 0, k, rank_of(spec, 0, k))
    return found


@st.composite
def ways_to_call(draw):
    """(arguments of the attention, inputs, arguments of the call)."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    batched, first = draw(st.booleans()), draw(st.booleans())
    sort = draw(st.sampled_from(["self", "memory", "three", "keys are queries"]))
    keys = LENGTH if sort in {"self", "keys are queries"} else KEYS

    def rows(length):
        shape = (length, WIDTH)
        if batched:
            shape = (BATCH, length, WIDTH) if first else (length, BATCH, WIDTH)
        return torch.randn(shape, dtype=torch.float64)

    query, memory, other = rows(LENGTH), rows(keys), rows(keys)
    inputs = {
        "self": (query, query, query),
        "memory": (query, memory, memory),
        "three": (query, memory, other),
        "keys are queries": (query, query, other),
    }[sort]
    call = {"need_weights": draw(st.booleans()), "average_attn_weights": draw(st.booleans())}
    boolean = draw(st.booleans())

    def mask(*shape):
        if not boolean:
            return torch.randn(shape, dtype=torch.float64)
        found = torch.rand(shape) < 0.4
        found[..., 0] = False  # a row with nothing to attend to has no meaning
        return found

    batch = BATCH if batched else 1
    if draw(st.booleans()):
        shape = (LENGTH, keys) if draw(st.booleans()) else (batch * HEADS, LENGTH, keys)
        call["attn_mask"] = mask(*shape)
        call["is_causal"] = draw(st.booleans())
    if draw(st.booleans()):
        call["key_padding_mask"] = mask(batch, keys) if batched else mask(keys)
    return {"bias": draw(st.booleans()), "batch_first": first}, inputs, call


@settings(max_examples=250, deadline=None)
@given(
    ways_to_call(),
    st.sampled_from([("in_proj",), ("out_proj",), ("in_proj", "out_proj")]),
    st.sampled_from([1, 2]),
)
def test_whatever_it_is_given_it_answers_as_before(way, names, k):
    arguments, inputs, call = way
    network = randomised(Around(**arguments)).eval()
    expected, expected_weights = network(*inputs, **call)
    found, weights = full_rank_copy(network, names, k)(*inputs, **call)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    if expected_weights is None:
        assert weights is None
    else:
        torch.testing.assert_close(weights, expected_weights, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("boolean", ["attn_mask", "key_padding_mask"])
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_masks_of_different_types_are_added(boolean):
    network = randomised(Around(batch_first=True)).eval()
    rows = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    call = {
        "attn_mask": torch.randn(LENGTH, LENGTH),
        "key_padding_mask": torch.randn(BATCH, LENGTH),
    }
    call = {name: mask.double() for name, mask in call.items()}
    call[boolean] = call[boolean] > 1
    call[boolean][..., 0] = False
    expected, _ = network(rows, rows, rows, **call)
    found, _ = full_rank_copy(network)(rows, rows, rows, **call)
    torch.testing.assert_close(found, expected)


def test_dropout_falls_on_the_weights_in_training_only():
    network = randomised(Around(dropout=0.5, batch_first=True)).eval()
    rows = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    small = full_rank_copy(network)
    assert torch.equal(small(rows, rows, rows)[0], small(rows, rows, rows)[0])
    small.train()
    network.train()
    output, weights = small(rows, rows, rows, average_attn_weights=False)
    dense, dense_weights = network(rows, rows, rows, average_attn_weights=False)
    share = 100 * BATCH * HEADS * LENGTH**2
    lost = sum(
        int((small(rows, rows, rows, average_attn_weights=False)[1] == 0).sum()) for _ in range(100)
    )
    assert abs(lost / share - 0.5) < 0.02
    assert output.shape == dense.shape
    assert weights.shape == dense_weights.shape
    fast = [small(rows, rows, rows, need_weights=False)[0] for _ in range(2)]
    assert not torch.equal(*fast)


@pytest.mark.parametrize("masks", [{}, {"key_padding_mask"}])
def test_a_causal_hint_needs_its_mask(masks):
    network = randomised(Around(batch_first=True))
    rows = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    call = dict.fromkeys(masks, torch.zeros(BATCH, LENGTH, dtype=torch.bool))
    for attention in (network, full_rank_copy(network)):
        with pytest.raises(RuntimeError, match="Need attn_mask"):
            attention(rows, rows, rows, is_causal=True, **call)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("attn_mask", (1, LENGTH)),
        ("attn_mask", (BATCH, LENGTH, LENGTH)),
        ("attn_mask", (LENGTH, LENGTH - 1)),
        ("key_padding_mask", (1, LENGTH)),
        ("key_padding_mask", (BATCH, LENGTH - 1)),
        ("key_padding_mask", (LENGTH,)),
    ],
)
def test_masks_that_would_only_spread_by_accident_are_refused(name, shape):
    network = full_rank_copy(randomised(Around(batch_first=True)))
    rows = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=name):
        network(rows, rows, rows, **{name: torch.zeros(shape, dtype=torch.bool)})


def test_gradients_are_those_of_the_attention():
    network = randomised(Around())
    small = full_rank_copy(network)
    rows = torch.randn(LENGTH, BATCH, WIDTH, dtype=torch.float64)
    memory = torch.randn(KEYS, BATCH, WIDTH, dtype=torch.float64)
    for own in (network, small):
        own(rows, memory, memory)[0].square().sum().backward()
    pair, dense = small.attention.in_proj, network.attention
    # d/dB of f(A·B) is Aᵀ times what d/dW is for the product.
    expected = pair.second.weight.T @ dense.in_proj_weight.grad
    torch.testing.assert_close(pair.first.weight.grad, expected)
    torch.testing.assert_close(pair.second.bias.grad, dense.in_proj_bias.grad)


PARTS = [*itertools.product([True, False], [("in_proj",), ("out_proj",), ("in_proj", "out_proj")])]


@pytest.mark.parametrize(("bias", "names"), PARTS)
def test_state_dicts_are_named_and_come_back(bias, names):
    torch.manual_seed(0)
    network = randomised(Around(bias=bias)).eval()
    small, choices = copy.deepcopy(network), {}
    for name in names:
        choices[f"attention.{name}"] = Choice(0, 1, 3)
        install_random(small, f"attention.{name}", choices[f"attention.{name}"])
    state = small.state_dict()
    expected = set()
    for name in ("in_proj", "out_proj"):
        paired = name in names
        inside = [".first.weight", ".second.weight"] if paired else [".weight"]
        inside += [".second.bias" if paired else ".bias"] if bias else []
        expected |= {f"attention.{name}{own}" for own in inside}
    assert set(state) == expected

    with torch.device("meta"):
        fresh = Around(bias=bias).eval()
    reshape_network(fresh, choices)
    assert {n: t.shape for n, t in fresh.state_dict().items()} == {
        n: t.shape for n, t in state.items()
    }
    fresh.load_state_dict(state, assign=True)
    rows = torch.randn(LENGTH, BATCH, WIDTH, dtype=torch.float64)
    assert torch.equal(fresh(rows, rows, rows)[0], small(rows, rows, rows)[0])

    dense = dense_state(Around(bias=bias), state, choices)
    assert set(dense) == set(network.state_dict())
    for name in {"in_proj", "out_proj"} - set(names):
        kept = "in_proj_weight" if name == "in_proj" else "out_proj.weight"
        assert dense[f"attention.{kept}"] is state[f"attention.{name}.weight"]
    network.load_state_dict(dense)
    torch.testing.assert_close(network(rows, rows, rows)[0], small(rows, rows, rows)[0])


def test_what_is_kept_keeps_its_very_parameters():
    network = Around().eval()
    network.attention.in_proj_weight.requires_grad_(requires_grad=False)
    before = dict(network.named_parameters())
    install_random(network, "attention.out_proj", Choice(0, 1, 2))
    attention = network.attention
    assert isinstance(attention, PairedAttention)
    assert not attention.training
    assert attention.in_proj.weight is before["attention.in_proj_weight"]
    assert attention.in_proj.bias is before["attention.in_proj_bias"]
    assert attention.out_proj.second.bias is before["attention.out_proj.bias"]
    install_random(network, "attention.in_proj", Choice(0, 1, 2))
    assert network.attention is attention
    assert not attention.in_proj.first.weight.requires_grad
    assert attention.out_proj.first.weight.requires_grad


def test_the_weight_of_the_packed_projection_is_found_before_and_after():
    network = Around()
    weight = network.attention.in_proj_weight
    assert weight_at(network, "attention.in_proj").data_ptr() == weight.data_ptr()
    install_random(network, "attention.out_proj", Choice(0, 1, 2))
    assert weight_at(network, "attention.in_proj").data_ptr() == weight.data_ptr()
    # What is left of it may still become a pair, used in parts or called.
    assert find_layers(network)["attention.in_proj"].reason is None


class Crossing(nn.Module):
    """Attends to a part of what it is given, or to all of it."""

    def __init__(self, sort):
        super().__init__()
        self.sort = sort
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, rows, **call):
        key = rows if self.sort == "self" else rows[:, :KEYS]
        value = key + 1 if self.sort == "three" else key
        return self.attention(rows, key, value, **call)[0]


@pytest.mark.parametrize("sort", ["self", "memory", "three"])
@pytest.mark.parametrize("decomposed", ["attention.in_proj", "attention.out_proj", None])
def test_projections_stay_decomposable(sort, decomposed):
    network = Crossing(sort)
    if decomposed is not None:
        install_random(network, decomposed, Choice(0, 1, 2))
    for seen in (None, trace(network, (LENGTH, WIDTH))):
        specs = find_layers(network, seen)
        for name in {"attention.in_proj", "attention.out_proj"} - {decomposed}:
            assert specs[name].reason is None


@pytest.mark.parametrize("sort", ["self", "memory", "three"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_macs_are_those_of_the_formula(sort, need_weights):
    class Net(Crossing):
        def forward(self, rows):
            return super().forward(rows, need_weights=need_weights)

    network = Net(sort)
    before = trace(network, (LENGTH, WIDTH))
    specs = find_layers(network, before)
    saved = 0
    for name, k, j in (("attention.in_proj", 2, 2), ("attention.out_proj", 1, 2)):
        choice = Choice(0, k, j)
        install_random(network, name, choice)
        saved += before.calls[name].macs - pair_macs(specs[name], before.calls[name].shapes, choice)
        assert before.macs - trace(network, (LENGTH, WIDTH)).macs == saved


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"add_bias_kv": True}, "adds a key"),
        ({"add_zero_attn": True}, "adds a key"),
        ({"kdim": 4}, "another size"),
        ({"vdim": 4}, "another size"),
    ],
)
def test_attentions_that_stay_as_they_are(arguments, reason):
    specs = find_layers(Around(**arguments))
    assert set(specs) <= {"attention.in_proj", "attention.out_proj"}
    assert "attention.out_proj" in specs
    for spec in specs.values():
        assert reason in spec.reason
    with pytest.raises(PlanError, match=reason):
        require_fitting(specs, {"attention.out_proj": Choice(0, 1, 1)})


class OwnAttention(nn.MultiheadAttention):
    """Somebody's own, which may do anything."""


class Sharing(nn.Module):
    """Attentions that cannot be changed one at a time, or at all."""

    def __init__(self):
        super().__init__()
        self.own = OwnAttention(WIDTH, HEADS)
        self.one = nn.MultiheadAttention(WIDTH, HEADS)
        self.two = nn.MultiheadAttention(WIDTH, HEADS)
        self.two.in_proj_weight = self.one.in_proj_weight
        self.same = self.again = nn.MultiheadAttention(WIDTH, HEADS)
        self.normed = nn.MultiheadAttention(WIDTH, HEADS)
        nn.utils.parametrizations.weight_norm(self.normed, "in_proj_weight")
        self.normed_inside = nn.MultiheadAttention(WIDTH, HEADS)
        nn.utils.parametrizations.weight_norm(self.normed_inside.out_proj)
        self.pruned = nn.MultiheadAttention(WIDTH, HEADS)
        prune.identity(self.pruned, "in_proj_weight")
        self.unused = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, rows):
        for part in (self.own, self.one, self.two, self.same):
            rows = part(rows, rows, rows)[0]
        for part in (self.normed, self.normed_inside, self.pruned):
            rows = part(rows, rows, rows)[0]
        packed = self.unused.in_proj_weight
        return rows + nn.functional.linear(rows, packed[:WIDTH])


def test_shared_and_computed_weights_of_attentions_are_kept():
    network = Sharing().eval()
    specs = find_layers(network, trace(network, (WIDTH,)))
    reasons = {name: spec.reason for name, spec in specs.items()}
    assert {name for name, reason in reasons.items() if reason is None} == {
        "one.out_proj",
        "two.out_proj",
        "normed_inside.in_proj",
    }
    assert "OwnAttention" in reasons["own.in_proj"]
    assert "shared" in reasons["one.in_proj"]
    assert "shared" in reasons["same.out_proj"]
    assert "weight norm" in reasons["normed.out_proj"]
    assert "weight norm" in reasons["normed_inside.out_proj"]
    assert "pruned.in_proj" not in reasons
    assert "masked" in reasons["pruned.out_proj"]
    assert "without calling" in reasons["unused.in_proj"]
    expected = network(torch.ones(1, WIDTH))
    decompose(network, "normed_inside.in_proj", 0, 1, WIDTH)
    torch.testing.assert_close(network(torch.ones(1, WIDTH)), expected, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_itself_an_attention_is_left_alone():
    specs = find_layers(nn.MultiheadAttention(WIDTH, HEADS))
    assert set(specs) == {"in_proj", "out_proj"}
    assert all("whole network" in spec.reason for spec in specs.values())


ENCODER = {"d_model": WIDTH, "nhead": 2, "dim_feedforward": 16, "batch_first": True}
PLACES = ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2"]


def encoder(layers=2, **arguments):
    network = nn.Module()
    layer = nn.TransformerEncoderLayer(**ENCODER, **arguments)
    network.body = nn.TransformerEncoder(layer, layers)
    network.forward = network.body.forward
    return randomised(network)


@pytest.mark.parametrize("place", [f"layers.{n}.{own}" for n in (0, 1) for own in PLACES])
@pytest.mark.parametrize("mode", ["eval", "inference", "train"])
@pytest.mark.parametrize("masked", ["nothing", "padding", "causal"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_encoders_do_without_the_fused_kernels_where_a_pair_is(place, mode, masked):
    """In evaluation mode PyTorch hands the weights of whole layers to one kernel."""
    torch.manual_seed(0)
    network = encoder(dropout=0.0).train(mode == "train")
    rows = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    call = {}
    seen = slice(None)
    if masked == "padding":
        padding = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        padding[:, -2:] = True
        call, seen = {"src_key_padding_mask": padding}, slice(LENGTH - 2)
    elif masked == "causal":
        causal = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64)
        call = {"mask": causal, "is_causal": True}
    with torch.inference_mode(mode == "inference"):
        expected = network(rows, **call)[:, seen]
    name = f"body.{place}"
    decompose(network, name, 0, 1, rank_of(find_layers(network)[name], 0, 1))
    with torch.inference_mode(mode == "inference"):
        torch.testing.assert_close(network(rows, **call)[:, seen], expected)


@pytest.mark.parametrize("place", ["layers.0.linear1", "layers.1.self_attn.in_proj"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.filterwarnings("ignore:`torch.jit.script", "ignore:enable_nested_tensor is True")
def test_torchscript_compiles_encoders_with_pairs(place, norm_first):
    torch.manual_seed(0)
    network = encoder(norm_first=norm_first).eval()
    decompose(network, f"body.{place}", 0, 1, 2)
    compiled = torch.jit.script(network.body)
    rows = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    padding = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    padding[:, -1] = True
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64)
    for call in ({}, {"src_key_padding_mask": padding}, {"mask": causal, "is_causal": True}):
        torch.testing.assert_close(compiled(rows, **call), network.body(rows, **call))


def test_encoders_untouched_keep_the_fused_kernels():
    network = nn.Module()
    network.one, network.two = encoder().body, encoder().body
    decompose(network, "one.layers.0.linear1", 0, 1, 2)
    assert not network.one.use_nested_tensor
    assert network.two.use_nested_tensor
    assert network.one.layers[1].activation_relu_or_gelu
    assert not network.one.layers[0].activation_relu_or_gelu


@pytest.mark.parametrize("train", [True, False])
def test_decoders_attend_to_themselves_and_to_a_memory(train):
    torch.manual_seed(0)
    network = nn.Module()
    layer = nn.TransformerDecoderLayer(**ENCODER, dropout=0.0)
    network.body = nn.TransformerDecoder(layer, 2)
    network = randomised(network).train(train)
    rows = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    memory = torch.randn(BATCH, KEYS, WIDTH, dtype=torch.float64)
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64)
    call = {"tgt_mask": causal, "tgt_is_causal": True}
    expected = network.body(rows, memory, **call)
    specs = find_layers(network)
    assert sum(name.endswith("_proj") for name in specs) == 8
    before = count_parameters(network)
    for name, spec in specs.items():
        decompose(network, name, 0, 1, rank_of(spec, 0, 1))
    assert count_parameters(network) > before
    torch.testing.assert_close(network.body(rows, memory, **call), expected)


@pytest.mark.parametrize("names", [("in_proj",), ("out_proj",), ("in_proj", "out_proj")])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_torchscript_compiles_it(names, first, bias):
    network = full_rank_copy(
        randomised(Around(bias=bias, batch_first=first)).eval(), names, k=1 + bias
    ).attention
    compiled = torch.jit.script(network)
    query, key, value = (torch.randn(BATCH, BATCH, WIDTH, dtype=torch.float64) for _ in range(3))
    padding = torch.zeros(BATCH, BATCH, dtype=torch.bool)
    padding[0, 1] = True
    mask = torch.randn(BATCH, BATCH, dtype=torch.float64)
    for inputs in ((query, query, query), (query, key, key), (query, key, value)):
        for call in (
            {},
            {"need_weights": False},
            {"average_attn_weights": False, "key_padding_mask": padding},
            {"attn_mask": mask, "key_padding_mask": padding},
            {"attn_mask": mask, "is_causal": True, "need_weights": False},
        ):
            expected, weights = network(*inputs, **call)
            found, found_weights = compiled(*inputs, **call)
            torch.testing.assert_close(found, expected)
            assert (weights is None) == (found_weights is None)
            if weights is not None:
                torch.testing.assert_close(found_weights, weights)
    with pytest.raises(torch.jit.Error, match="should have"):
        compiled(query, key, value, attn_mask=mask[:1])
