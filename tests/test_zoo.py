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
    "lraspp_mobilenet_v3_large",
    "mc3_18",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
    "swin_v2_t",
]

SIXTY = [
    "bat_resnext26ts",
    "convit_tiny",
    "cpubone_b0_bfrobust",
    "csatv2",
    "cspnext_s",
    "densenetblur121d",
    "dpn48b",
    "edgenext_small_rw",
    "edgenext_x_small",
    "edgenext_xx_small",
    "efficientformerv2_s1",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_lite1",
    "efficientvit_m1",
    "efficientvit_m2",
    "ese_vovnet19b_dw",
    "ghostnetv3_050",
    "hardcorenas_c",
    "iformer_m",
    "iformer_s",
    "lcnet_150",
    "lcnetv2_large",
    "levit_128s",
    "levit_conv_192",
    "mambaout_femto",
    "mobilenet_edgetpu_v2_s",
    "mobilenetv2_035",
    "mobilenetv3_rw",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_aa_medium",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_small_050",
    "mobileone_s0",
    "mobileone_s3",
    "mobilevit_s",
    "pit_ti_distilled_224",
    "pit_xs_distilled_224",
    "regnety_008_tv",
    "repghostnet_080",
    "repghostnet_130",
    "repvit_m2",
    "resnetblur18",
    "rexnet_100",
    "rexnetr_100",
    "starnet_s100",
    "starnet_s3",
    "tf_efficientnet_b0",
    "tf_efficientnet_em",
    "tf_efficientnet_lite0",
    "tf_mixnet_m",
    "tf_mobilenetv3_large_075",
    "tf_mobilenetv3_large_100",
    "tinynet_a",
    "vit_pe_core_tiny_patch16_384",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_tiny_r_s16_p8_384",
    "xcit_nano_12_p16_224",
    "xcit_nano_12_p8_224",
    "xcit_tiny_12_p8_224",
]
"""Drawn at random, once, among timm's networks of at most 12 million parameters."""

LAYERS = {
    "grouped": (nn.Conv2d(8, 12, (3, 5), groups=2), Choice(1, 2, 3), (8, 9, 9)),
    "sliced": (nn.Conv2d(8, 12, 3, stride=2, padding=1), Choice(2, 4, 2), (8, 9, 9)),
    "transposed": (nn.ConvTranspose2d(8, 12, (3, 2), groups=4), Choice(2, 2, 2), (8, 5, 5)),
    "row": (nn.ConvTranspose1d(8, 12, 3, groups=4), Choice(1, 1, 2), (8, 5)),
    "clip": (nn.Conv3d(8, 12, 3), Choice(3, 4, 2), (8, 5, 5, 5)),
    "linear": (nn.Linear(8, 12), Choice(0, 4, 2), (8,)),
    "whole": (nn.Linear(8, 12, bias=False), Choice(0, 1, 2), (8,)),
}


def require_sound(outcome):
    """Nothing but a verified artefact passes."""
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
    require_sound(structure(fitted_case(name), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_more_of_torchvisions_networks_take_pairs_everywhere(name, tmp_path):
    require_sound(structure(fitted_case(name), tmp_path, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIXTY)
def test_timms_networks_take_pairs_everywhere(name, tmp_path):
    timm = pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    if not timm.is_model(name):
        pytest.skip(f"the installed timm has no {name}")
    require_sound(structure(fitted_case(f"timm:{name}"), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raft_small", "ssdlite320_mobilenet_v3_large"])
def test_networks_fed_with_more_than_one_image_are_compressed(name, tmp_path):
    require_sound(compressed(fitted_case(name), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
@pytest.mark.filterwarnings("ignore")  # the library's own
def test_transformers_networks_take_pairs_everywhere(name, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    require_sound(structure(fitted_case(name), tmp_path, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert_masked", "llama_tied", "t5", "whisper", "clip"])
@pytest.mark.filterwarnings("ignore")
def test_transformers_networks_are_compressed(name, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    case = fitted_case(f"tiny_transformers:{name}")
    require_sound(compressed(case, tmp_path, ratio=0.1))
