"""From files to networks that run, and nothing else that runs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import pytest
import torch
from torch import nn

from alds_cli import api
from alds_cli.architectures import build
from alds_cli.checkpoint import Document, write_artefact
from alds_cli.errors import (
    AldsError,
    ArchitectureError,
    BadWeightsError,
    CheckpointError,
    OptionError,
    PlanError,
    UnsafeCheckpointError,
)
from alds_cli.network.loading import load_network
from alds_cli.network.networks import require_sound
from alds_cli.records import Architecture, Choice, Plan


def digits():
    torch.manual_seed(0)
    return build(Architecture("digits_cnn")).eval()


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A module of the user's own in the current directory."""
    (tmp_path / "own_network_of_test.py").write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        "def make(width=16):\n"
        "    Path('called').touch()\n"
        "    net = nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 32))\n"
        "    net.input_shape = (12,)\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "own_network_of_test:make"
    sys.modules.pop("own_network_of_test", None)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("arch", [None, "digits_cnn"])
def test_names_with_wrappers_load(prefix, arch, tmp_path):
    net = digits()
    torch.save({prefix + k: v for k, v in net.state_dict().items()}, tmp_path / "model.pt")
    found = api.load(tmp_path / "model.pt", arch=arch)
    assert not found.training
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(found(inputs), net(inputs))


def test_wrong_architectures_are_told(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(digits().state_dict(), path)
    with pytest.raises(ArchitectureError, match="does not belong to cifar_resnet20") as caught:
        api.load(path, arch="cifar_resnet20")
    assert "digits_cnn" in caught.value.tip
    with pytest.raises(ArchitectureError, match="digits_cn"):
        api.load(path, arch="digits_cn")
    with pytest.raises(OptionError, match="but no architecture"):
        api.load(path, arch_args=["num_classes=3"])
    with pytest.raises(OptionError, match="weights come from the checkpoint"):
        api.load(path, arch="resnet18", arch_args={"weights": "DEFAULT"})
    api.compress(path, ratio=0.5, output=tmp_path / "small.pt")
    with pytest.raises(OptionError, match="states that it is digits_cnn"):
        api.load(tmp_path / "small.pt", arch="cifar_resnet20")


def test_modules_are_saved_only_if_they_can_be_loaded(tmp_path):
    path = tmp_path / "model.pt"
    api.save(digits(), path)
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(api.load(path)(inputs), digits()(inputs))
    small = api.compress(digits(), ratio=0.5).network
    api.save(small, path)
    assert torch.equal(api.load(path)(inputs), small.module(inputs))
    for module, arch in (
        (small.module, "digits_cnn"),
        (digits(), "cifar_resnet20"),
        (small.module, None),
        (nn.Linear(3, 3), None),
    ):
        with pytest.raises(ArchitectureError):
            api.save(module, tmp_path / "other.pt", arch=arch)
    assert not (tmp_path / "other.pt").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("os:system", {"command": "touch exploded"}),
        ("subprocess:call", {"args": "touch exploded"}),
        ("own_network_of_test:make", {}),
    ],
)
def test_code_that_an_artefact_names_does_not_run(name, arguments, suffix, factory, tmp_path):
    del factory
    path = tmp_path / f"model{suffix}"
    write_artefact({"a": torch.ones(1)}, Document(Architecture(name, arguments), Plan({})), path)
    for call in (api.load, api.inspect, api.profile):
        with pytest.raises(UnsafeCheckpointError, match="run that code") as caught:
            call(path)
        assert f"--arch {name}" in caught.value.tip
    with pytest.raises(OptionError, match="states that it is"):
        api.load(path, arch="digits_cnn")
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "called").exists()
    assert "own_network_of_test" not in sys.modules


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("resnet18", {"weights": "DEFAULT"}),
        Architecture("timm:hf-hub:someone/network"),
        Architecture("timm:resnet18", {"checkpoint_path": "/etc/passwd"}),
        Architecture("digits_cnn", {"num_classes": [1, 2]}),
        Architecture("digits_cnn", {"not a name": 1}),
        Architecture("no_such_network"),
        Architecture(""),
    ],
)
def test_what_an_artefact_may_not_ask_for(architecture, tmp_path):
    path = tmp_path / "model.pt"
    write_artefact(digits().state_dict(), Document(Architecture("digits_cnn"), Plan({})), path)
    content = torch.load(path, weights_only=True)
    document = json.loads(content["alds"]) | {"architecture": asdict(architecture)}
    torch.save({**content, "alds": json.dumps(document)}, path)
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        api.load(path)


def test_own_factories_from_checkpoint_to_artefact(factory, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 32)).eval()
    torch.save(net.state_dict(), "model.pt")
    named = api.Source(arch=factory, arch_args=["width=24"])
    result = api.compress("model.pt", named, ratio=0.3, output="small.pt")
    inputs = torch.randn(2, 12)
    found = api.load("small.pt", arch=factory, arch_args=["width=24"])
    assert torch.equal(found(inputs), result.network.module(inputs))
    found = api.load("small.pt", allow_pickle=True)
    assert torch.equal(found(inputs), result.network.module(inputs))
    with pytest.raises(OptionError, match="states that it is") as caught:
        api.load("small.pt", arch=factory)
    assert "--arch-arg width=24" in caught.value.tip
    assert (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("choices", "error"),
    [
        ({"features.3": Choice(0, 3, 1)}, PlanError),
        ({"features.3": Choice(0, 1, 5)}, ArchitectureError),
        ({"nowhere": Choice(0, 1, 1)}, PlanError),
        ({"features.3": Choice(0, 2**53, 2**53)}, PlanError),
    ],
)
def test_artefacts_whose_plan_does_not_fit(choices, error, tmp_path):
    path = tmp_path / "model.pt"
    document = Document(Architecture("digits_cnn"), Plan(choices))
    write_artefact(digits().state_dict(), document, path)
    with pytest.raises(error):
        api.load(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
def test_compressed_networks_come_back_the_same(suffix, scheme, tmp_path):
    plan = Plan({"features.3": Choice(scheme, 2, 3), "features.7": Choice(scheme, 1, 5)})
    path = tmp_path / f"model{suffix}"
    result = api.compress(digits(), plan=plan, output=path)
    inputs = torch.randn(3, 1, 8, 8)
    found = api.load(path)
    assert torch.equal(found(inputs), result.network.module(inputs))
    assert {type(m).__module__.split(".")[0] for m in found.children()} == {"torch"}
    info = api.inspect(path)
    assert info.params == result.report.params_after
    assert info.params_before == result.report.params_before
    assert info.network.plan.decomposed == plan.decomposed


@pytest.mark.parametrize("damage", ["shape", "missing", "extra", "nan"])
def test_artefacts_with_other_tensors(damage, tmp_path):
    path = tmp_path / "model.pt"
    api.compress(digits(), ratio=0.5, output=path)
    content = torch.load(path, weights_only=True)
    name = next(key for key in content["state_dict"] if key.endswith("first.weight"))
    tensor = content["state_dict"][name]
    if damage == "shape":
        content["state_dict"][name] = tensor[:1]
    elif damage == "missing":
        del content["state_dict"][name]
    elif damage == "extra":
        content["state_dict"]["extra"] = tensor
    else:
        content["state_dict"][name] = tensor * float("nan")
    torch.save(content, path)
    with pytest.raises(AldsError, match="extra" if damage == "extra" else name):
        api.load(path)


@pytest.mark.parametrize(
    ("name", "value", "sound"),
    [
        ("limit", float("inf"), True),
        ("limit", float("-inf"), True),
        ("limit", float("nan"), False),
        ("norm.running_var", float("inf"), False),
        ("weight", float("inf"), False),
    ],
)
def test_limits_may_be_infinite_but_nothing_that_is_trained(name, value, sound):
    network = nn.Module()
    network.weight = nn.Parameter(torch.zeros(3))
    network.norm = nn.BatchNorm1d(3)
    network.register_buffer("limit", torch.zeros(3))
    with torch.no_grad():
        network.state_dict()[name][1] = value
    if sound:
        require_sound(network, "it")
    else:
        with pytest.raises(BadWeightsError, match=name):
            require_sound(network, "it")


def test_documents_are_sorted_json(tmp_path):
    path = tmp_path / "model.pt"
    api.compress(digits(), ratio=0.5, output=path)
    text = torch.load(path, weights_only=True)["alds"]
    content = json.loads(text)
    assert content["schema"] == 1
    assert text == json.dumps(content, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_weights(dtype, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(digits().to(dtype).state_dict(), path)
    result = api.compress(path, ratio=0.5, output=tmp_path / "small.pt")
    found = api.load(tmp_path / "small.pt")
    assert {p.dtype for p in found.parameters()} == {dtype}
    assert result.report.max_relative_error <= result.report.max_error_bound + 0.02


def test_network_that_checks_the_version_of_its_own_state_is_loaded(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.mnasnet0_5(num_classes=3).eval()
    torch.save(dict(network.state_dict()), tmp_path / "mnasnet.pt")
    loaded = load_network(tmp_path / "mnasnet.pt").module
    inputs = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(inputs), network(inputs))


def test_weights_beyond_what_can_be_squared_are_refused():
    network = nn.Sequential(nn.Linear(4, 4)).double()
    with torch.no_grad():
        network[0].weight[0, 0] = 1e200
    with pytest.raises(BadWeightsError, match=r"0\.weight"):
        require_sound(network, "it")
