"""Results of every shape in exported files, which load without the classes that networks give."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import tiny_transformers
import torch
from test_exporting import run_onnx, with_onnx
from tiny_transformers import TINY
from torch import nn

import alds_cli
from alds_cli.exporting.plain_results import named_tensors, plain, traceable
from alds_cli.exporting.sample_calls import Sample
from alds_cli.inputs import parse_inputs
from alds_cli.network.observed_outputs import tensors_in

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

SIX = alds_cli.Source(input_shape=(6,))


@dataclass
class Answer:
    logits: torch.Tensor
    states: Any = None


class Both(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Held:
    def __init__(self, value):
        self.value = value


RESULTS = {
    "a dictionary": lambda y, z: {"a": y, "b": z},
    "a dictionary with an order": lambda y, z: OrderedDict(out=y, aux=z),
    "dictionaries within one": lambda y, z: {"a": {"c": y, "d": z}, "b": z},
    "a list within a dictionary": lambda y, z: {"a": [y, z], "b": z},
    "tuples within a tuple": lambda y, z: (y, (z, (y, z))),
    "lists": lambda y, z: [y, [z, y]],
    "dictionaries within a list": lambda y, z: [{"a": y, "b": z}, {"a": z}],
    "a dataclass": Answer,
    "a dataclass with a gap": lambda y, z: Answer(y + z),
    "dataclasses within a dictionary": lambda y, z: {"o": Answer(y, z), "p": y},
    "a named tuple": Both,
    "a named tuple within a tuple": lambda y, z: (y, Both(y, z)),
    "an object": lambda y, z: Held(y + z),
    "numbers and words": lambda y, z: (y, 3, "word", None, z),
    "words by name": lambda y, z: {"a": y, "name": "word", "b": z},
    "keys that are numbers": lambda y, z: {0: y, 1: z},
    "an empty list": lambda y, z: (y + z, []),
}


class Giving(nn.Module):
    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 6)
        self.name = name

    def forward(self, x):
        return RESULTS[self.name](self.layer(x), 2 * x)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_of_any_kind_is_in_a_program_and_in_torchscript(name, tmp_path):
    network, rows = Giving(name).eval(), torch.randn(4, 6)
    expected = list(tensors_in(network(rows)))
    for form in ("pt2", "ts"):
        path = tmp_path / f"x.{form}"
        told = alds_cli.export(network, SIX, output=path)
        assert told.difference == 0
        load = torch.jit.load if form == "ts" else lambda own: torch.export.load(own).module()
        found = list(tensors_in(load(path)(rows)))
        assert len(found) == len(expected) == len(told.outputs)
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=0)


@with_onnx
@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("name", ["dataclasses within a dictionary", "numbers and words", "lists"])
def test_a_result_of_any_kind_is_in_onnx(name, tmp_path):
    network, rows = Giving(name).eval(), torch.randn(4, 6)
    expected = list(tensors_in(network(rows)))
    told = alds_cli.export(network, SIX, output=tmp_path / "x.onnx")
    assert len(told.outputs) == len(expected)
    for own, other in zip(run_onnx(tmp_path / "x.onnx", rows), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_results_keep_their_structure_where_a_form_has_it():
    y, z = torch.zeros(1), torch.ones(1)
    assert plain(Both(y, z)) == (y, z)
    assert plain({"a": Answer(y), "n": 3, 4: [z, None, "word"]}) == {
        "a": {"logits": y},
        "4": [z, None, None],
    }
    assert plain("word") is None
    assert traceable({"a": [y, {"b": z}]}) == {"a.0": y, "a.1.b": z}
    assert traceable([y, None, {"b": z, "c": [y]}]) == (y, (z, (y,)))
    assert list(named_tensors((y, {"b": z}), "output")) == ["output.0", "output.1.b"]


def test_the_network_is_left_as_it_was(tmp_path):
    network = Giving("a dataclass").eval()
    alds_cli.export(network, SIX, output=tmp_path / "x.pt2")
    assert isinstance(network(torch.zeros(1, 6)), Answer)


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_a_program_of_a_network_of_transformers_is_loaded_without_the_library(tmp_path):
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    arch = "tiny_transformers:bert"
    network = tiny_transformers.bert().eval()
    source = alds_cli.Source(arch=arch, input_spec=TINY[arch])
    alds_cli.export(network, output=tmp_path / "x.pt2", source=source)
    code = (
        "import sys, torch\n"
        f"network = torch.export.load({str(tmp_path / 'x.pt2')!r}).module()\n"
        "ids = torch.ones(2, 9, dtype=torch.int64)\n"
        "made = network(input_ids=ids, attention_mask=ids)\n"
        "assert 'transformers' not in sys.modules\n"
        "print(type(made).__name__, *made, *made['last_hidden_state'].shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dict", "last_hidden_state", "pooler_output", "2", "9", "32"]


class Masking(nn.Module):
    def forward(self, ids, attention_mask):
        return ids * attention_mask


def test_the_mask_of_a_check_leaves_no_token_without_another_to_attend_to():
    """What such tokens give is not defined; in networks that look back they would be the first."""
    inputs = parse_inputs("ids:int64[1,9]<99,attention_mask:int64[1,9]<2")
    sample = Sample(Masking(), inputs, None)
    masks = [call.kwargs["attention_mask"] for call in (sample.example(), *sample.checks())]
    lengths = [row for mask in masks for row in mask.sum(1).tolist()]
    assert len(set(lengths)) > 1
    for mask in masks:
        assert bool((mask[:, 0] == 1).all())
        assert bool((mask[:, 1:] <= mask[:, :-1]).all())
