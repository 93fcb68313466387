"""No artefact takes its name that computes something else than its weights stand for.

The networks here do with their layers what this tool cannot see, or not at the time: the plan is
given, so that nothing but the verification stands between them and a wrong file.
"""

from __future__ import annotations

import random
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import alds_cli
from alds_cli import architectures
from alds_cli.api import Source
from alds_cli.checkpoint import mapped_files
from alds_cli.checkpoint.mapped_files import weights_in_files
from alds_cli.errors import OptionError, VerificationError
from alds_cli.inputs import InputSpec, parse_inputs
from alds_cli.network import verification
from alds_cli.network.networks import Network
from alds_cli.network.verification import verify
from alds_cli.records import Architecture, Choice, Plan
from alds_cli.surgery import reshape_network


class Plain(nn.Module):
    """Three layers, one after the other."""

    input_shape = (32,)

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 32)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Nested(Plain):
    """Takes a dictionary and whole numbers, and gives a mapping of lists."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 32)

    def forward(self, batch, *, ids, scale):
        made = super().forward(batch["image"] + self.table(ids).mean(1)) * scale
        return {"made": [made, (made.argmax(-1),)]}


class Counting(Plain):
    """Runs another way where it has more parts than three layers."""

    def forward(self, x):
        factor = 1.0 if sum(1 for _ in self.modules()) == 4 else 1.5
        return super().forward(x) * factor


class Quiet(Plain):
    """Changes a weight as it is loaded, in a layer that its outputs hardly show."""

    def __init__(self):
        super().__init__()
        self.register_load_state_dict_pre_hook(self._double)

    @staticmethod
    def _double(_module, state, *_rest):
        if "b.weight" in state:
            state["b.weight"] = 2 * state["b.weight"]

    def forward(self, x):
        shown = torch.relu(self.a(x))
        return self.c(shown + 1e-9 * self.b(shown))


class Breaking(Plain):
    """Does not run without the weight of a layer."""

    def forward(self, x):
        return super().forward(x) + self.b.weight.sum()


class Drawing(Plain):
    """Draws random numbers in two ways as it goes."""

    def forward(self, x):
        noise = torch.rand(32) + random.random()
        return super().forward(x) + noise


class Different(Plain):
    """Is another network every time it is built."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.rand(32), persistent=False)

    def forward(self, x):
        return super().forward(x * self.mask)


class Magnifying(Plain):
    """Makes much of rounding."""

    def forward(self, x):
        made = super().forward(x)
        return (made * 1e5).sin()


class Endless(Plain):
    """Gives infinities, and numbers beside them."""

    def forward(self, x):
        made = super().forward(x)
        return torch.where(made > 0, made, torch.inf)


class Chaotic(Plain):
    """Makes so much of rounding that float64 alone does not decide either."""

    def forward(self, x):
        return (super().forward(x) * 1e11).sin()


class Turning(Plain):
    """Multiplies by complex numbers, and makes much of rounding, so that float64 decides."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.ones(17, dtype=torch.cfloat))

    def forward(self, x):
        made = torch.fft.irfft(torch.fft.rfft(super().forward(x)) * self.turn, n=32)
        return (made * 1e5).sin()


def network_of(kind, choices, inputs=None, dtype=torch.float32, **arguments):
    """A network with pairs of random weights, as a compression would leave it."""
    torch.manual_seed(0)
    module = kind().eval()
    reshape_network(module, choices)
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    for name, buffer in module.named_buffers():
        buffer.copy_(dict(kind().named_buffers())[name])
    return Network(
        module if dtype == torch.float32 else module.to(dtype),
        Architecture(f"{__name__}:{kind.__name__}"),
        Plan(choices),
        inputs=inputs or InputSpec.of_sample((32,)),
        **arguments,
    )


ONE = {"b": Choice(0, 1, 8)}
SLICED = {"a": Choice(0, 2, 4), "b": Choice(0, 4, 3), "c": Choice(0, 1, 8)}


@pytest.mark.parametrize("choices", [ONE, SLICED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [Plain, Drawing, Endless])
def test_what_is_right_passes(kind, choices, dtype):
    found = verify(network_of(kind, choices, dtype=dtype))
    assert found.difference < 1e-3
    assert found.reason is None


def test_several_and_nested_inputs_and_outputs_are_compared():
    inputs = parse_inputs("{image:float[1,32]},ids:int64[1,7]<10,scale:float[]")
    assert verify(network_of(Nested, SLICED, inputs)).difference < 1e-3


@pytest.mark.parametrize("kind", [Magnifying, Turning])
def test_rounding_that_a_network_magnifies_is_told_from_errors(kind):
    assert verify(network_of(kind, SLICED)).difference < 1e-6  # as float64 shows


def test_rounding_that_is_magnified_beyond_float64_is_measured_on_the_reference():
    found = verify(network_of(Chaotic, SLICED))
    assert 1e-7 < found.difference < 1e-3


@pytest.mark.parametrize("share", [1e-9, 1e-3])
def test_errors_that_are_magnified_are_told_from_rounding_that_is(share, monkeypatch):
    damage_what_is_reopened(monkeypatch, 1 + share)
    with pytest.raises(VerificationError, match="gives something else"):
        verify(network_of(Chaotic, SLICED, dtype=torch.float64))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Counting, "gives something else"),
        (Quiet, "layer b"),
        (Breaking, "does not run"),
        (Different, "gives something else"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_what_is_wrong_is_refused(kind, message, dtype):
    with pytest.raises(VerificationError, match=message) as caught:
        verify(network_of(kind, ONE, dtype=dtype), unverified=True)
    assert caught.value.exit_code == 1


def test_a_state_that_the_artefact_would_not_hold_is_refused():
    network = network_of(Plain, ONE)
    network.module.a.extra = nn.Parameter(torch.ones(1))
    with pytest.raises(VerificationError, match="could not be loaded again"):
        verify(network)


def test_weights_that_are_shared_only_in_memory_come_back_shared():
    network = network_of(Plain, ONE)
    network.module.a.bias = network.module.b.second.bias
    assert network.document().shared == {"b.second.bias": "a.bias"}
    verify(network)


def damage_what_is_reopened(monkeypatch, factor):
    """Multiply the weight of one half of a pair in what is built from the artefact."""
    reopened = verification.reopened

    def damaged(network):
        found = reopened(network)
        found.module.b.second.weight = nn.Parameter(found.module.b.second.weight * factor)
        return found

    monkeypatch.setattr(verification, "reopened", damaged)


def test_wrong_numbers_in_one_layer_are_refused_by_its_name(monkeypatch):
    damage_what_is_reopened(monkeypatch, 1.01)
    with pytest.raises(VerificationError, match="layer b"):
        verify(network_of(Plain, SLICED))


@pytest.mark.parametrize("inputs", [None, InputSpec.of_sample((31,)), parse_inputs("int64[1,32]")])
def test_what_cannot_be_run_needs_the_users_word(inputs):
    network = network_of(Plain, ONE)
    network.inputs = inputs
    with pytest.raises(OptionError) as caught:
        verify(network)
    assert "--unverified" in caught.value.tip
    found = verify(network, unverified=True)
    assert found.difference is None
    assert found.reason


def test_random_numbers_after_it_are_as_they_would_have_been():
    network = network_of(Drawing, ONE)
    torch.manual_seed(5)
    random.seed(5)
    wanted = torch.rand(3), random.random()
    torch.manual_seed(5)
    random.seed(5)
    verify(network)
    assert torch.equal(torch.rand(3), wanted[0])
    assert random.random() == wanted[1]


def test_the_network_itself_is_left_as_it_was():
    network = network_of(Plain, SLICED).module.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    whole = network_of(Plain, SLICED)
    whole.module = network
    verify(whole)
    assert network.training
    assert not any(part._forward_hooks for part in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_network_handed_in_is_what_its_architecture_makes(tmp_path):
    def save(network):
        return alds_cli.save(network, tmp_path / "saved.pt")

    torch.manual_seed(0)
    network = architectures.build(architectures.parse_architecture("digits_cnn")).eval()
    assert save(network) > 0
    (tmp_path / "saved.pt").unlink()
    for name, part in network.features.named_children():
        if isinstance(part, nn.ReLU):
            network.features[int(name)] = nn.GELU()  # no name or shape of a tensor tells
    with pytest.raises(VerificationError, match="handed in"):
        save(network)
    assert not list(tmp_path.iterdir())
    with pytest.raises(VerificationError, match="handed in"):
        alds_cli.compress(network, ratio=0.2, output=tmp_path / "small.pt", cache=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [Counting, Plain])
def test_networks_that_nobody_could_build_are_compared_with_themselves(kind):
    torch.manual_seed(0)
    source = Source(input_shape=(32,))
    network = kind().eval()

    def compressed():
        return alds_cli.compress(network, source, plan=Plan(ONE), cache=False)

    if kind is Plain:
        report = compressed().report
        assert report.verified
        assert report.verified_difference < 1e-4
    else:
        with pytest.raises(VerificationError):
            compressed()


IDS = """
import torch
from torch import nn


class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 32)

    def forward(self, ids):
        return self.down(torch.relu(self.up(self.table(ids))))
"""


@pytest.fixture
def ids_file(tmp_path, monkeypatch):
    """A checkpoint of a network that takes whole numbers, in the folder of what builds it."""
    (tmp_path / "idsnet.py").write_text(IDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "idsnet", raising=False)
    network = architectures.build(architectures.parse_architecture("idsnet:Ids"))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def rank_slices(report):
    return {layer.choice.k for layer in report.layers if layer.choice is not None}


def test_a_network_of_whole_numbers_is_compressed_by_its_specification(ids_file, run):
    arguments = ("--arch", "idsnet:Ids", "-r", "0.4", "--json", "-o", "small.pt")
    code, out, err = run("compress", ids_file, *arguments, "--input-spec", "int64[1,7]<50")
    assert code == 0, err
    assert '"verified": true' in out
    assert '"macs_before": 57344' in out
    network = alds_cli.load("small.pt", arch="idsnet:Ids")
    assert network(torch.ones(2, 7, dtype=torch.long)).shape == (2, 7, 32)
    code, out, _ = run("inspect", "small.pt", "--arch", "idsnet:Ids", "--json")
    assert code == 0
    assert '"inputs": "int64[1,7]<50"' in out


@pytest.mark.parametrize("extra", [(), ("--input-shape", "7"), ("--input-spec", "int64[1,7]<999")])
def test_nothing_unrun_is_written_unless_the_user_says_so(ids_file, run, extra):
    arguments = (
        "compress",
        ids_file,
        "--arch",
        "idsnet:Ids",
        "-r",
        "0.4",
        "-o",
        "small.pt",
        *extra,
    )
    code, out, err = run(*arguments)
    assert code == 2
    assert "--unverified" in err
    assert not (ids_file.parent / "small.pt").exists()
    code, out, err = run(*arguments, "--unverified", "-v")
    assert code == 0, err
    assert out.index("not verified") < out.index("parameters")
    network = alds_cli.load("small.pt", arch="idsnet:Ids")
    assert network(torch.ones(2, 7, dtype=torch.long)).shape == (2, 7, 32)


def test_an_unverified_network_may_have_several_slices_in_linear_layers(ids_file):
    source = Source(arch="idsnet:Ids")
    found = alds_cli.compress(ids_file, source, ratio=0.4, unverified=True, cache=False)
    assert max(rank_slices(found.report)) > 1
    assert found.report.verified is False
    assert found.report.ratio >= 0.4


class OwnParameter(nn.Parameter):
    """A parameter of a class of its own."""


@pytest.mark.parametrize("put_aside", [False, True])
def test_a_changed_copy_leaves_its_network_alone(put_aside, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_files, "_LARGE", 64)
    network = Plain()
    network.b.weight = OwnParameter(network.b.weight.detach())
    network.c.bias.requires_grad_(False)
    network.register_buffer("count", torch.tensor(3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with weights_in_files(tmp_path) if put_aside else nullcontext():
        copied = verification._copied(network, lambda weight: weight.double() + 1)
    assert type(copied.b.weight) is OwnParameter
    assert not copied.c.bias.requires_grad
    for name, weight in copied.named_parameters():
        torch.testing.assert_close(weight, before[name].double() + 1, rtol=0, atol=0)
    with torch.no_grad():
        for tensor in copied.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
