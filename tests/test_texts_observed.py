"""Statistics of layers on texts, against sums over single tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_texts import WORDS, Encoder, Words, language_network
from torch import nn

from alds_cli.calibration.fisher_traces import gather_fisher_traces
from alds_cli.calibration.input_moments import gather_input_moments
from alds_cli.calibration.lockstep import in_lockstep
from alds_cli.calibration.responses import gather_responses
from alds_cli.datasets import TokenBatches, TokenBlocks
from alds_cli.surgery import find_layers
from alds_cli.tracing.tokens import Tokens, without_padding

NAMES = ("query", "wide", "narrow")


@st.composite
def texts(draw):
    """Some texts of any lengths, as blocks."""
    lengths = torch.tensor(draw(st.lists(st.integers(1, 6), min_size=1, max_size=7)))
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    ids = torch.randint(WORDS, real.shape, generator=generator)
    return TokenBlocks("texts", ids, real)


def each_alone(network, blocks):
    """The inputs of every layer, token by token, where every text is alone and has no padding."""
    given = {name: [] for name in NAMES}
    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: given[name].append(args[0][0])
        )
        for name in NAMES
    ]
    real = torch.ones_like(blocks.ids) == 1 if blocks.real is None else blocks.real
    with torch.no_grad():
        for ids, mask in zip(blocks.ids, real, strict=True):
            network(ids[mask][None])
    for handle in handles:
        handle.remove()
    return {name: torch.cat(own) for name, own in given.items()}


def double_network(kind):
    network = language_network(kind=kind).double()
    return network, {name: find_layers(network)[name] for name in NAMES}


@settings(max_examples=15, deadline=None)
@given(texts(), st.integers(1, 5), st.sampled_from([Words, Encoder]))
def test_moments_are_those_of_all_tokens_and_of_no_padding(blocks, size, kind):
    network, specs = double_network(kind)
    batches = TokenBatches(blocks, batch_size=size)
    expected = each_alone(network, blocks)
    found = gather_input_moments(network, specs, batches, centred=False)
    responses = gather_responses(network, specs, batches)
    for name, rows in expected.items():
        own = found[name]
        assert own.count == responses[name].count == len(rows)
        second = rows.T @ rows / len(rows)
        mean = rows.mean(0)
        torch.testing.assert_close(own.mean[0], mean, rtol=1e-9, atol=1e-9)
        about = second - torch.outer(mean, mean)
        torch.testing.assert_close(own.covariance[0], about, rtol=1e-9, atol=1e-9)
        given = network.get_submodule(name)(rows).detach()
        torch.testing.assert_close(responses[name].mean, given.mean(0), rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(texts(), st.integers(1, 5))
def test_fishers_traces_do_not_see_padding(blocks, size):
    """The energies are those of the tokens; gradients at tokens behind the text are zero."""
    network, specs = double_network(Words)
    found = gather_fisher_traces(network, specs, TokenBatches(blocks, batch_size=size))
    for name, rows in each_alone(network, blocks).items():
        outputs = rows @ network.get_submodule(name).weight.detach().T
        energy = float((outputs - outputs.mean(0)).square().sum(1).mean())
        assert abs(found[name].energy - energy) <= 1e-9 * max(1, energy)
        assert 0 <= found[name].gradients < float("inf")


def test_answers_at_padding_have_no_gradient():
    """With answers for padding, gradients of the last layer would count those, too."""
    network, specs = double_network(Words)
    specs = {"head": find_layers(network)["head"]}
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    real = torch.tensor([[True, False, False, False, False, False]])
    alone = gather_fisher_traces(
        network, specs, TokenBatches(TokenBlocks("", ids[:, :1]), batch_size=1)
    )
    both = TokenBlocks("", ids, real)
    together = gather_fisher_traces(
        network, specs, [(Tokens(both.ids, both.real), torch.tensor([-1]))]
    )
    assert abs(alone["head"].gradients - together["head"].gradients) < 1e-12


@settings(max_examples=10, deadline=None)
@given(texts(), st.integers(1, 4))
def test_two_networks_meet_at_the_same_tokens(blocks, size):
    first, _ = double_network(Words)
    second, _ = double_network(Words)
    met = {}

    def visit(name, before, after):
        met[name] = torch.cat([own.flatten(0, -2) for own in before])
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))

    batches = [inputs for inputs, _ in TokenBatches(blocks, batch_size=size)]
    in_lockstep(first, second, NAMES, batches, visit)
    for name, rows in each_alone(first, blocks).items():
        torch.testing.assert_close(met[name], rows, rtol=1e-9, atol=1e-9)


def test_padding_is_found_wherever_tokens_lie():
    real = torch.tensor([[True, True, False], [True, False, False]])
    inputs, layer = Tokens(torch.zeros(2, 3).long(), real), nn.Linear(4, 4)
    values = torch.arange(24.0).view(2, 3, 4)
    expected = values[real]
    assert torch.equal(without_padding(values, layer, inputs)[0], expected)
    turned = without_padding(values.transpose(0, 1), layer, inputs)[0]
    assert sorted(turned.tolist()) == sorted(expected.tolist())
    assert torch.equal(without_padding(values.flatten(0, 1), layer, inputs), expected)
    for other in (values[:, 0], torch.zeros(2, 4), torch.zeros(5, 3, 4)):
        assert without_padding(other, layer, inputs) is other
    assert without_padding(values, nn.Conv1d(3, 3, 1), inputs) is values
    assert without_padding(values, layer, torch.zeros(2, 3)) is values
