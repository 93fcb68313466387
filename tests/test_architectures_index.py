"""The index that ships, against the torchvision that is installed; inputs of networks."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files

import pytest
from torch import nn

from alds_cli.architectures import (
    build,
    default_inputs,
    default_preprocessing,
    input_shape,
)
from alds_cli.architectures.build_index import (
    is_supported,
    make_index,
    torchvision_entry,
    zoo_entry,
)
from alds_cli.architectures.index import DERIVED_BUFFERS, decode, encode, load_index
from alds_cli.architectures.zoo import ZOO
from alds_cli.errors import ArchitectureError, MissingExtraError
from alds_cli.records import Architecture, Preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SAMPLED = ["alexnet", "googlenet", "fcn_resnet50", "vit_b_16", "r3d_18", "regnet_x_400mf"]


@pytest.fixture
def same_torchvision():
    """Skip but for the release that the index is of; patches of it change no network."""
    installed, indexed = version("torchvision"), load_index().torchvision
    if installed.split(".")[:2] != indexed.split(".")[:2]:
        pytest.skip(f"the index is of torchvision {indexed}, {installed} is installed")


def text() -> str:
    return files("alds_cli.architectures").joinpath("index.json").read_text(encoding="utf-8")


def test_the_index_is_small_and_written_as_encoded():
    assert len(text()) < 200_000
    assert encode(load_index()) == text()
    assert decode(text()) == load_index()


@pytest.mark.usefixtures("same_torchvision")
@pytest.mark.parametrize(
    "entry",
    [entry for entry in load_index().entries if entry.name in SAMPLED],
    ids=lambda entry: f"{entry.name}-{dict(entry.arguments)}",
)
def test_a_sample_of_the_index_is_what_torchvision_gives(entry):
    assert torchvision_entry(entry.name, entry.arguments) == entry


@pytest.mark.parametrize("name", ZOO)
def test_the_index_is_what_the_zoo_gives(name):
    assert load_index().entry(Architecture(name)) == zoo_entry(name)


@pytest.mark.usefixtures("same_torchvision")
def test_every_supported_network_of_torchvision_is_in_the_index():
    from torchvision.models import list_models  # noqa: PLC0415 - slow to import

    supported = {name for name in list_models() if is_supported(name)}
    assert supported | set(ZOO) == set(load_index().names())


@pytest.mark.slow
@pytest.mark.usefixtures("same_torchvision")
def test_the_whole_index_is_what_torchvision_gives():
    found = replace(make_index(), torchvision=load_index().torchvision)
    assert encode(found) == text()


@pytest.mark.slow
@pytest.mark.usefixtures("same_torchvision")
@pytest.mark.parametrize("name", load_index().names())
def test_no_buffer_but_a_running_statistic_must_be_loaded(name):
    buffers = build(Architecture(name), device="meta").named_buffers()
    last_parts = {buffer.rpartition(".")[2] for buffer, _ in buffers}
    assert last_parts <= DERIVED_BUFFERS | {"running_mean", "running_var"}


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (Architecture("resnet18"), (3, 224, 224)),
        (Architecture("resnet18", {"num_classes": 5}), (3, 224, 224)),
        (Architecture("inception_v3", {"aux_logits": False}), (3, 299, 299)),
        (Architecture("efficientnet_b4"), (3, 380, 380)),
        (Architecture("swin_v2_t"), (3, 256, 256)),
        (Architecture("vit_h_14"), (3, 224, 224)),
        (Architecture("vit_h_14", {"image_size": 518}), (3, 518, 518)),
        (Architecture("vit_b_32", {"image_size": 256}), (3, 256, 256)),
        (Architecture("fcn_resnet50"), (3, 520, 520)),
        (Architecture("r3d_18"), (3, 16, 112, 112)),
        (Architecture("cifar_wrn16_8"), (3, 32, 32)),
        (Architecture("cifar_wrn16_8", {"in_channels": 1}), (1, 32, 32)),
        (Architecture("digits_cnn"), (1, 8, 8)),
        (Architecture("mine:factory"), None),
    ],
    ids=str,
)
def test_input_shape(architecture, shape):
    assert input_shape(architecture) == shape


@pytest.mark.parametrize(
    ("architecture", "inputs"),
    [
        (Architecture("vit_b_16"), "float[1,3,224,224]"),
        (Architecture("r3d_18"), "float[1,3,16,112,112]"),
        (Architecture("maskrcnn_resnet50_fpn"), "[float[3,800,800]]"),
        (Architecture("fcos_resnet50_fpn", {"min_size": 96}), "[float[3,96,96]]"),
        (Architecture("ssd300_vgg16"), "[float[3,300,300]]"),
        (Architecture("raft_small"), "float[1,3,256,256],float[1,3,256,256]"),
    ],
    ids=str,
)
def test_all_inputs(architecture, inputs):
    assert str(default_inputs(architecture)) == inputs


def test_inputs_of_a_factory_are_those_of_its_network():
    module = nn.Identity()
    assert default_inputs(Architecture("mine:factory"), module) is None
    module.input_shape = (3, 9)
    assert str(default_inputs(Architecture("mine:factory"), module)) == "float[1,3,9]"


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (Architecture("resnet18"), Preprocessing(**IMAGENET, resize=256, crop=224)),
        (Architecture("resnet50"), Preprocessing(**IMAGENET, resize=232, crop=224)),
        (Architecture("inception_v3"), Preprocessing(**IMAGENET, resize=342, crop=299)),
        (
            Architecture("efficientnet_v2_l"),
            Preprocessing((0.5,) * 3, (0.5,) * 3, 480, 480, interpolation="bicubic"),
        ),
        (
            Architecture("vit_b_16", {"image_size": 384}),
            Preprocessing(**IMAGENET, resize=384, crop=384, interpolation="bicubic"),
        ),
        (
            Architecture("vit_b_16", {"image_size": 256}),
            Preprocessing(**IMAGENET, resize=256, crop=256),
        ),
        (Architecture("fcn_resnet50"), Preprocessing(**IMAGENET, resize=520)),
        (Architecture("cifar_resnet20"), Preprocessing(**IMAGENET)),
        (Architecture("cifar_resnet20", {"in_channels": 1}), None),
        (Architecture("digits_cnn"), Preprocessing((0.5,), (0.5,))),
        (Architecture("r3d_18"), None),
        (Architecture("mine:factory"), None),
    ],
    ids=str,
)
def test_default_preprocessing(architecture, expected):
    assert default_preprocessing(architecture) == expected


def test_inputs_of_timm_networks():
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    vit = Architecture("timm:vit_base_patch16_224")
    assert input_shape(vit) == (3, 224, 224)
    assert default_preprocessing(vit) == Preprocessing(
        (0.5,) * 3, (0.5,) * 3, 248, 224, False, "bicubic"
    )
    larger = Architecture(vit.name, {"img_size": 384, "in_chans": 1})
    assert input_shape(larger) == (1, 384, 384)
    assert default_preprocessing(larger) is None
    with pytest.raises(ArchitectureError, match="resnet19"):
        input_shape(Architecture("timm:resnet19"))


def test_inputs_of_timm_networks_need_timm(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    for ask in (input_shape, default_preprocessing):
        with pytest.raises(MissingExtraError):
            ask(Architecture("timm:resnet18"))


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"input_shape": (1, 28, 28)}, (1, 28, 28)),
        ({"input_size": [3, 64, 64]}, (3, 64, 64)),
        ({"default_cfg": {"input_size": (3, 96, 96)}}, (3, 96, 96)),
        ({"input_size": 128}, None),
        ({"input_shape": ()}, None),
        ({"default_cfg": 3}, None),
        ({"input_shape": "abc"}, None),
        ({}, None),
    ],
)
def test_a_factorys_network_may_tell_its_input_shape(attributes, shape):
    module = nn.Identity()
    for name, value in attributes.items():
        setattr(module, name, value)
    assert input_shape(Architecture("mine:factory"), module) == shape
