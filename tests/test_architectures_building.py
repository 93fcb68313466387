"""Names and arguments as the user writes them, and the networks built from them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from alds_cli import architectures
from alds_cli.architectures import (
    build,
    known_names,
    parse_architecture,
)
from alds_cli.architectures.building import SkeletonMode, materialise
from alds_cli.architectures.from_torchvision import caveat
from alds_cli.errors import ArchitectureError, MissingExtraError, OptionError
from alds_cli.records import Architecture


def test_exports_exactly_what_it_lists():
    assert architectures.__all__ == sorted(architectures.__all__)
    assert all(callable(getattr(architectures, name)) for name in architectures.__all__)


@pytest.mark.slow
def test_importing_leaves_torchvision_and_timm_alone():
    code = (
        "import sys, alds_cli.architectures as a; a.known_names(); "
        "a.parse_architecture('resnet18'); "
        "sys.exit(bool({'torchvision', 'timm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_known_names_are_sorted_and_hold_both_zoos():
    names = known_names()
    assert names == sorted(set(names))
    assert {"resnet18", "cifar_resnet20", "digits_cnn", "fcn_resnet50", "r3d_18"} <= set(names)
    assert not any(name.startswith(("quantized_", "fasterrcnn", "raft")) for name in names)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("None", None),
        ("null", None),
        ("same", "same"),
        ("a=b", "a=b"),
        ("", ""),
        ("nan", "nan"),
        ("inf", "inf"),
    ],
)
def test_argument_values(text, value):
    parsed = parse_architecture("resnet18", [f"key={text}"]).arguments["key"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "arguments", [["num_classes"], ["=3"], ["a b=3"], [""], ["a=1", "a=2"], ["weights=DEFAULT"]]
)
def test_malformed_arguments(arguments):
    with pytest.raises(OptionError, match="--arch-arg"):
        parse_architecture("resnet18", arguments)


def test_a_factory_may_take_any_argument():
    parsed = parse_architecture("mine:make", ["pretrained=false"])
    assert parsed == Architecture("mine:make", {"pretrained": False})


def test_timm_is_not_asked_for_its_own_weights():
    with pytest.raises(OptionError, match="pretrained"):
        parse_architecture("timm:resnet18", ["pretrained=true"])


@pytest.mark.parametrize(
    ("name", "meant"),
    [("resnet-18", "resnet18"), ("ResNet18", "resnet18"), ("cifar_resnet21", "cifar_resnet20")],
)
def test_unknown_names_bring_close_ones(name, meant):
    with pytest.raises(ArchitectureError) as caught:
        parse_architecture(name)
    assert meant in caught.value.tip


@pytest.mark.parametrize(
    "name", ["", "nothing_like_it", "timm:", "timm:hf-hub:a/b", ":f", "a:", "a b:c", "a:b:c"]
)
def test_names_that_cannot_be(name):
    with pytest.raises(ArchitectureError):
        parse_architecture(name)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_quantised_networks_are_refused_by_name(name):
    with pytest.raises(ArchitectureError, match="packed whole numbers") as caught:
        parse_architecture(f"quantized_{name}")
    assert f"compress {name}," in caught.value.tip


def test_a_kind_that_nobody_has_heard_of_is_refused(monkeypatch):
    monkeypatch.setattr("alds_cli.architectures.from_torchvision.kind", lambda _name: "audio")
    with pytest.raises(ArchitectureError, match="audio") as caught:
        parse_architecture("hearing")
    assert "package.module:factory" in caught.value.tip


@pytest.mark.parametrize("epsilon", [0, 0.0, 0.25])
def test_detectors_normalise_with_the_epsilon_that_is_named(epsilon):
    name = "retinanet_resnet50_fpn"
    network = build(parse_architecture(name, [f"norm_eps={epsilon}"]), device="meta")
    assert {part.eps for part in network.modules() if isinstance(part, nn.BatchNorm2d)} == {epsilon}


@pytest.mark.parametrize("epsilon", ["much", "-1", "none!"])
def test_an_epsilon_that_is_none_is_refused(epsilon):
    arch = parse_architecture("fasterrcnn_resnet50_fpn", [f"norm_eps={epsilon}"])
    with pytest.raises(ArchitectureError, match="norm_eps"):
        build(arch, device="meta")


def test_a_name_that_only_the_installed_torchvision_knows_is_accepted(monkeypatch):
    monkeypatch.setattr("alds_cli.architectures.naming.known_names", lambda: ["alexnet"])
    assert parse_architecture("resnet18") == Architecture("resnet18")


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3", "fcn_resnet50"])
def test_builds_without_downloads_or_warnings(name):
    network = build(Architecture(name, {"num_classes": 3}))
    assert all(torch.isfinite(value).all() for value in network.parameters())
    assert not any(value.is_meta for value in network.state_dict().values())


def test_the_meta_device_holds_nothing():
    network = build(Architecture("vit_h_14"), device="meta")
    assert all(value.is_meta for value in network.state_dict().values())


@pytest.mark.parametrize("name", ["swin_v2_t", "resnet18", "cifar_vgg16_bn", "convnext_tiny"])
def test_without_initialisation_shapes_and_buffers_are_as_with_it(name):
    usual, quick = build(Architecture(name)), build(Architecture(name), initialise=False)
    assert [(key, value.shape) for key, value in quick.named_parameters()] == [
        (key, value.shape) for key, value in usual.named_parameters()
    ]
    assert not any(value.is_meta for value in quick.parameters())
    buffers = dict(usual.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in quick.named_buffers())
    quick.load_state_dict(usual.state_dict())


def test_without_initialisation_no_random_numbers_are_drawn():
    before = torch.random.get_rng_state()
    build(Architecture("resnet18"), initialise=False)
    assert torch.equal(before, torch.random.get_rng_state())


def test_materialised_parameters_stay_tied():
    with SkeletonMode(keep_values=True):
        network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    materialise(network)
    assert network[2].weight is network[0].weight
    assert not network[0].weight.is_meta
    assert torch.equal(network[1].running_var, torch.ones(3))


def test_a_buffer_without_its_value_cannot_be_materialised():
    network = nn.Module()
    network.register_buffer("grid", torch.empty(3, device="meta"))
    with pytest.raises(ValueError, match="grid"):
        materialise(network)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ["resnet18", "cifar_resnet20"])
def test_an_unknown_argument_is_named(name, device):
    with pytest.raises(ArchitectureError, match=r"colour.*unexpected keyword argument 'colour'"):
        build(Architecture(name, {"colour": 3}), device=device)


@pytest.mark.parametrize("classes", ["many", -3, 2.5])
def test_a_senseless_argument_is_an_architecture_error(classes):
    with pytest.raises(ArchitectureError, match="num_classes"):
        build(Architecture("resnet18", {"num_classes": classes}))


def test_a_name_missing_from_the_installed_torchvision():
    with pytest.raises(ArchitectureError, match="installed torchvision") as caught:
        build(Architecture("resnet19"))
    assert "upgrade" in caught.value.tip


def test_timm_networks_are_built():
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    network = build(Architecture("timm:vit_tiny_patch16_224", {"num_classes": 5}), device="meta")
    assert network.get_parameter("head.weight").shape == (5, 192)
    with pytest.raises(ArchitectureError, match="resnet19") as caught:
        build(Architecture("timm:resnet19"))
    assert "timm:resnet18" in caught.value.tip


def test_timm_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="timm:resnet18") as caught:
        build(parse_architecture("timm:resnet18"))
    assert "alds-cli[timm]" in caught.value.tip


FACTORIES = """
import sys
from torch import nn
import {neighbour}

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(width, {neighbour}.CLASSES)

    @classmethod
    def create(cls):
        return cls(6)

def lazy():
    import {late}
    return Net({late}.WIDTH)

def needs(width): return Net(width)
def fails(): raise RuntimeError("no weights at hand")
def exits(): sys.exit(3)
def text(): return "not a network"
built = Net()
number = 3
"""


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A directory with a module `nets_of_test`, current but not on the path."""
    modules = (
        "nets_of_test",
        "neighbour_of_test",
        "late_of_test",
        "broken_of_test",
        "exits_of_test",
        "needs_of_test",
    )
    (tmp_path / "nets_of_test.py").write_text(
        FACTORIES.format(neighbour="neighbour_of_test", late="late_of_test")
    )
    (tmp_path / "neighbour_of_test.py").write_text("CLASSES = 9")
    (tmp_path / "late_of_test.py").write_text("WIDTH = 8")
    (tmp_path / "broken_of_test.py").write_text("def f(:")
    (tmp_path / "exits_of_test.py").write_text("raise SystemExit(2)")
    (tmp_path / "needs_of_test.py").write_text("import no_such_package_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    yield tmp_path
    for module in modules:
        sys.modules.pop(module, None)


@pytest.mark.parametrize(("factory", "width"), [("Net", 4), ("Net.create", 6), ("lazy", 8)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_factories_from_the_current_directory(workdir, factory, width, device):
    path = list(sys.path)
    network = build(parse_architecture(f"nets_of_test:{factory}"), device=device)
    assert network.fc.weight.shape == (9, width)
    assert network.fc.weight.device.type == device
    assert sys.path == path
    assert str(workdir) not in sys.path


@pytest.mark.usefixtures("workdir")
def test_factory_arguments():
    network = build(parse_architecture("nets_of_test:needs", ["width=5"]))
    assert network.fc.weight.shape == (9, 5)


@pytest.mark.usefixtures("workdir")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:f", "no module 'no_such_module_here'"),
        ("json.no_such_module:f", r"no module 'json\.no_such_module'"),
        ("broken_of_test:f", "SyntaxError"),
        ("exits_of_test:f", "SystemExit"),
        ("needs_of_test:f", "importing 'needs_of_test' failed: .*no_such_package_anywhere"),
        ("nets_of_test:nope", "no 'nope' there; public names are .*Net"),
        ("nets_of_test:Net.nope", "no 'Net.nope'"),
        ("nets_of_test:number", "is a int, not a factory"),
        ("nets_of_test:built", "is a Net, not a factory"),
        ("nets_of_test:needs", "TypeError: .*'width'"),
        ("nets_of_test:fails", "RuntimeError: no weights at hand"),
        ("nets_of_test:exits", "SystemExit: 3"),
        ("nets_of_test:text", "gave a str, not an nn.Module"),
    ],
)
def test_factories_that_fail(name, message):
    path = list(sys.path)
    with pytest.raises(ArchitectureError, match=message) as caught:
        build(parse_architecture(name))
    assert caught.value.tip
    assert sys.path == path


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_caveat_names_the_option_in_doubt(name):
    assert "--arch-arg transform_input=true" in caveat(Architecture(name))
    assert caveat(Architecture(name, {"transform_input": False})) is None
    assert caveat(Architecture("resnet18")) is None


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_caveat_names_the_epsilon_of_old_detectors(name):
    assert "--arch-arg norm_eps=0" in caveat(Architecture(name))
    assert caveat(Architecture(name, {"norm_eps": 0})) is None
    assert caveat(Architecture(f"{name}_v2")) is None
