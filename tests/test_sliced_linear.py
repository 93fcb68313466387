"""The pairs of linear layers with several slices, on features with any axes before them."""

from __future__ import annotations

import copy

import pytest
import torch
from decomposing import install_random
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import alds_cli
from alds_cli.exporting.export_session import TOLERANCE
from alds_cli.numerics.fold import divisors, pair_macs
from alds_cli.records import Choice, Plan
from alds_cli.surgery import SlicedLinear, dense_state, find_layers
from alds_cli.tracing.trace import count_parameters, trace

FACTORY = "sequence_network:Sequences"

SOURCE = """
import torch
from torch import nn

class Sequences(nn.Module):
    '''Words through linear layers, of which one also sees single words.'''

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 12)
        self.wide = nn.Linear(12, 24)
        self.narrow = nn.Linear(24, 12)

    def forward(self, words):
        states = self.narrow(torch.relu(self.wide(self.embedding(words))))
        return self.narrow(torch.relu(self.wide(states.mean(1)))) + states[:, -1]
"""

PLAN = Plan({"wide": Choice(0, 4, 2), "narrow": Choice(0, 3, 2)})


@pytest.fixture
def sequences(tmp_path, monkeypatch):
    """A network with random weights, and how to read files of it."""
    (tmp_path / "sequence_network.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "sequence_network", raising=False)
    torch.manual_seed(0)
    network = __import__("sequence_network").Sequences().eval()
    return network, alds_cli.Source(arch=FACTORY, input_spec="int64[1,5]<11")


def words(*shape):
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(len(shape)))


@st.composite
def linear_layers(draw):
    """A linear layer, a choice for it and the axes before its features."""
    inputs, outputs = draw(st.sampled_from([2, 6, 12])), draw(st.integers(1, 9))
    choice = Choice(0, draw(st.sampled_from(divisors(inputs)[1:])), draw(st.integers(1, 3)))
    leading = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    return nn.Linear(inputs, outputs, bias=draw(st.booleans())).double(), choice, leading


@settings(max_examples=100, deadline=None)
@given(linear_layers())
def test_a_pair_computes_the_product_that_it_stands_for(drawn):
    layer, choice, leading = drawn
    network = nn.Sequential(layer)
    dense = copy.deepcopy(network)
    install_random(network, "0", choice)
    dense.load_state_dict(dense_state(dense, network.state_dict(), {"0": choice}))
    features = torch.randn(*leading, layer.in_features, dtype=torch.float64)
    torch.testing.assert_close(network(features), dense(features), rtol=1e-12, atol=1e-12)
    apart = features.movedim(0, -1).contiguous().movedim(-1, 0)  # of other strides
    torch.testing.assert_close(network(apart), dense(features), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12)])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_pairs_cost_what_the_formulas_say(shape, k):
    network, choice = (
        nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 12)),
        Choice(0, k, 1),
    )
    before, weights = trace(network, shape), count_parameters(network)
    spec = find_layers(network, before)["0"]
    install_random(network, "0", choice)
    after = trace(network, shape)
    saved = before.calls["0"].macs - pair_macs(spec, before.calls["0"].shapes, choice)
    assert before.macs - after.macs == saved > 0
    assert weights - count_parameters(network) == 12 * 20 - (20 * k + 12)
    assert (
        after.calls["0.first"].macs + after.calls["0.second"].macs == before.calls["0"].macs - saved
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradients_and_types_are_those_of_the_layers(dtype):
    layer = SlicedLinear(6, 3, 2, dtype=dtype)
    features = torch.randn(4, 5, 6).to(dtype).requires_grad_()
    made = layer(features)
    assert (made.dtype, made.shape) == (dtype, (4, 5, 6))
    made.sum().backward()
    for part, block in zip(layer.weight.grad.split(2), features.split(2, -1), strict=True):
        expected = block.detach().double().sum((0, 1)).expand(2, 2)
        torch.testing.assert_close(part.double(), expected, rtol=2e-2, atol=2e-1)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_torchscript_compiles_it_for_any_number_of_axes():
    layer = SlicedLinear(6, 3, 2)
    compiled = torch.jit.script(layer)
    for shape in ((6,), (4, 6), (2, 0, 6), (2, 3, 4, 6)):
        features = torch.randn(shape)
        torch.testing.assert_close(compiled(features), layer(features))


@pytest.mark.parametrize(
    "suffix", ["ts", *(pytest.param(own, marks=pytest.mark.slow) for own in ("pt2", "onnx"))]
)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_exported_it_gives_the_same(sequences, suffix, tmp_path):
    """Files are run with batches of other sizes before they take their names."""
    network, source = sequences
    small = alds_cli.compress(network, source=source, plan=PLAN).network
    kinds = [type(part) for part in small.module.modules()]
    assert kinds.count(SlicedLinear) == 2
    path = tmp_path / f"small.{suffix}"
    told = alds_cli.export(small, output=path)
    assert told.inputs[0].shape == ["batch", 5]
    expected = small.module(words(7, 5)).detach()
    if suffix == "onnx":
        import onnxruntime  # noqa: PLC0415 - slow to import

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"words": words(7, 5).numpy()})[0])
    else:
        module = torch.export.load(path).module() if suffix == "pt2" else torch.jit.load(path)
        found = module(words(7, 5))
    assert float((found - expected).detach().abs().max()) <= TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("multiply_back", [False, True])
def test_artefacts_of_the_first_versions_are_read(sequences, suffix, multiply_back, tmp_path):
    """There, the first half was a convolution of length one."""
    network, source = sequences
    small = tmp_path / f"small.{suffix}"
    alds_cli.compress(network, source=source, plan=PLAN, output=small)
    if suffix == "pt":
        content = torch.load(small, weights_only=True)
        tensors = content["state_dict"]
    else:
        with safe_open(small, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    for name in PLAN.choices:
        assert tensors[f"{name}.first.weight"].ndim == 2
        tensors[f"{name}.first.weight"] = tensors[f"{name}.first.weight"].unsqueeze(-1)
    earlier = tmp_path / f"earlier.{suffix}"
    if suffix == "pt":
        torch.save(content, earlier)
    else:
        save_file(tensors, earlier, metadata)
    opened = [
        alds_cli.network.opening.open_network(path, source, multiply_back=multiply_back)
        for path in (small, earlier)
    ]
    first, second = (own.module(words(3, 5)) for own in opened)
    assert torch.equal(first, second)


@pytest.mark.parametrize(("k", "shape"), [(2, (8, 12)), (3, (3, 8, 12))])
def test_planned_slices_of_layers_on_sequences_are_carried_out(k, shape):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12)).eval()
    source = alds_cli.Source(input_shape=shape)
    result = alds_cli.compress(
        network, source=source, ratio=0.3, method="alds-simple", method_args={"k": k}
    )
    chosen = result.network.plan.decomposed
    assert {choice.k for choice in chosen.values()} == {k}
    assert result.report.verified
