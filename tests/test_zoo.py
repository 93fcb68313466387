"""Networks of other people's libraries end verified, or with a reason that is stated.

`benchmarks/zoo.py` does the same for all that there are; here is what a run of tests can afford.
"""

from __future__ import annotations

import pytest
import torch
from tiny_transformers import TINY
from torch import nn
from zoo_checks import compressed, distance, fitted_case, product, structure

from alds_cli.records import Choice
from alds_cli.surgery import make_pair

SMALL_KINDS = ["squeezenet1_1", "mnasnet0_5", "raft_small"]
"""The cheapest, one that looks at versions, and one that takes two images."""

KINDS = [
    "deeplabv3_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "lraspp_mobilenet_v3_large",
    "maskrcnn_resnet50_fpn_v2",
    "mc3_18",
    "retinanet_resnet50_fpn",
    "s3d",
    "ssdlite320_mobilenet_v3_large",
    "swin_v2_t",
]

STATED = {
    "tiny_transformers:gpt2": "shared with another layer",
}
"""Networks no layer of which may become a pair, and why."""

LAYERS = {
    "grouped": (nn.Conv2d(8, 12, (3, 5), groups=2), Choice(1, 2, 3), (8, 9, 9)),
    "sliced": (nn.Conv2d(8, 12, 3, stride=2, padding=1), Choice(2, 4, 2), (8, 9, 9)),
    "transposed": (nn.ConvTranspose2d(8, 12, (3, 2), groups=4), Choice(2, 2, 2), (8, 5, 5)),
    "row": (nn.ConvTranspose1d(8, 12, 3, groups=4), Choice(1, 1, 2), (8, 5)),
    "clip": (nn.Conv3d(8, 12, 3), Choice(3, 4, 2), (8, 5, 5, 5)),
    "linear": (nn.Linear(8, 12), Choice(0, 4, 2), (8,)),
    "whole": (nn.Linear(8, 12, bias=False), Choice(0, 1, 2), (8,)),
}


def require_sound(name, outcome):
    """Nothing but a verified artefact or a known reason passes."""
    if name in STATED:
        assert outcome.status == "kept"
        assert STATED[name] in outcome.reason
    else:
        assert (outcome.status, outcome.reason) == ("verified", "")
        assert outcome.pairs > 0
        assert outcome.params[1] < outcome.params[0]


@pytest.mark.parametrize("kind", LAYERS)
def test_pairs_are_multiplied_here_as_they_compute(kind):
    layer, choice, shape = LAYERS[kind]
    torch.manual_seed(0)
    pair = make_pair(layer, choice, "cpu")
    sample = torch.randn(2, *shape)
    with torch.no_grad():
        layer.weight.copy_(product(pair).reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(pair.second.bias)
        torch.testing.assert_close(pair(sample), layer(sample), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("found", "expected", "least"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.09),
        ([float("nan"), 2.0], [float("nan"), 2.0], 0.0),
        ([1.0, 2.0, 3.0], [1.0, 2.0], float("inf")),
    ],
)
def test_differences_are_told(found, expected, least):
    apart = distance([torch.tensor(found)], [torch.tensor(expected)])
    assert least <= apart <= (0.0 if least == 0 else float("inf"))


@pytest.mark.parametrize("name", SMALL_KINDS)
def test_torchvisions_networks_take_pairs_everywhere(name, tmp_path):
    require_sound(name, structure(fitted_case(name), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_more_of_torchvisions_networks_take_pairs_everywhere(name, tmp_path):
    require_sound(name, structure(fitted_case(name), tmp_path, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raft_small", "ssdlite320_mobilenet_v3_large"])
def test_networks_fed_with_more_than_one_image_are_compressed(name, tmp_path):
    require_sound(name, compressed(fitted_case(name), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
@pytest.mark.filterwarnings("ignore")  # the library's own
def test_transformers_networks_take_pairs_everywhere(name, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    require_sound(name, structure(fitted_case(name), tmp_path, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert_masked", "llama_tied", "t5", "whisper", "clip"])
@pytest.mark.filterwarnings("ignore")
def test_transformers_networks_are_compressed(name, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    case = fitted_case(f"tiny_transformers:{name}")
    require_sound(name, compressed(case, tmp_path, ratio=0.1))
