"""Names that wrappers made longer, entries of no layer, and what the user says of both."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from alds_cli import api
from alds_cli.architectures import build, resolve
from alds_cli.architectures.entry_names import HOLDERS, WRAPPERS, spellings
from alds_cli.errors import ArchitectureError, OptionError
from alds_cli.records import Architecture

ARCH = Architecture("cifar_resnet20")

NETWORK = build(ARCH)
STATE = NETWORK.state_dict()
SHAPES = {name: tuple(tensor.shape) for name, tensor in STATE.items()}


def written(tmp_path, tensors):
    path = tmp_path / "model.pt"
    torch.save({"state_dict": tensors}, path)
    return path


def wrapped_at(tensors, place, wrapper):
    """Names with a wrapper around the module of that name."""
    start = f"{place}." if place else ""
    return {
        f"{start}{wrapper}.{name.removeprefix(start)}" if name.startswith(start) else name: tensor
        for name, tensor in tensors.items()
    }


def require_plain(found):
    assert found.keys() == STATE.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, STATE[name]), name


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("arch", [None, "cifar_resnet20"])
@pytest.mark.parametrize(
    "place",
    [
        "",
        "layer1",
        pytest.param("layer1.0", marks=pytest.mark.slow),
        "layer2.1.conv1",
        pytest.param("linear", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("wrapper", sorted(WRAPPERS))
def test_wrappers_come_off_wherever_they_stand(wrapper, place, arch, tmp_path):
    path = written(tmp_path, wrapped_at(STATE, place, wrapper))
    require_plain(api.load(path, arch=arch).state_dict())


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("arch", [None, "cifar_resnet20"])
@pytest.mark.parametrize(
    "prefix",
    [
        *(f"{holder}." for holder in HOLDERS),
        "_forward_module.model.",
        "ema_model.module.",
        "module.student.backbone.",
        "model._orig_mod.net.",
    ],
)
def test_what_holds_a_network_comes_off(prefix, arch, tmp_path):
    path = written(tmp_path, {prefix + name: tensor for name, tensor in STATE.items()})
    require_plain(api.load(path, arch=arch).state_dict())


PLACES = ["", *(name for name, _ in NETWORK.named_modules() if name)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(sorted(WRAPPERS))), max_size=8))
def test_any_placement_of_wrappers_gives_the_plain_names_back(placed):
    names = {name: name.split(".") for name in STATE}
    # Innermost first, so that a place's own components still stand next to each other.
    for place, wrapper in sorted(placed, key=lambda each: -len(each[0])):
        parts = place.split(".") if place else []
        for own in names.values():
            if own[: len(parts)] == parts:
                own.insert(len(parts), wrapper)
    given_names = {".".join(own): STATE[name] for name, own in names.items()}
    assert len(given_names) == len(STATE)
    found = resolve(ARCH, SHAPES, given_names)
    assert not found.left_out
    for name, spelt in found.names.items():
        assert given_names[spelt] is STATE[name]


class Branch(nn.Module):
    """A network that has components of wrappers' names itself."""

    def __init__(self, own):
        super().__init__()
        self.add_module(own, nn.Linear(4, 4))
        self.out = nn.Linear(4, 2)


@pytest.mark.parametrize("own", ["module", "_orig_mod", "model", "backbone"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "model.", "module.model."])
def test_a_networks_own_components_stay(own, wrapper):
    state = Branch(own).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    spelt = {wrapper + name: tensor for name, tensor in state.items()}
    found = resolve(Architecture("own:Branch"), shapes, spelt)
    assert {name: spelt[given] for name, given in found.names.items()} == state


@pytest.mark.parametrize("place", ["", "layer1"])
def test_a_network_that_is_itself_wrapped_takes_plain_names(place):
    shapes = {
        name: tuple(tensor.shape) for name, tensor in wrapped_at(STATE, place, "_orig_mod").items()
    }
    found = resolve(ARCH, shapes, STATE)
    assert sorted(found.names.values()) == sorted(STATE)


HARMLESS = {
    "criterion.pos_weight": torch.ones(1),
    "criterion.vgg.features.0.weight": torch.ones(4, 3, 3, 3),
    "loss_fn.weight": torch.ones(10),
    "val_acc.confmat": torch.zeros(10, 10, dtype=torch.int64),
    "metrics.correct": torch.zeros(()),
    "position_ids": torch.arange(9),
    "layer1.0.total_ops": torch.zeros(1, dtype=torch.float64),
    "layer1.0.conv1._extra_state": torch.zeros(3, dtype=torch.uint8),
    "n_averaged": torch.zeros((), dtype=torch.int64),
    "class_weights": torch.ones(10),
}


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("arch", [None, "cifar_resnet20"])
@pytest.mark.parametrize("prefix", ["", "model.", "module."])
@pytest.mark.parametrize("extra", [[name] for name in HARMLESS] + [list(HARMLESS)])
def test_entries_of_no_layer_are_left_out_with_one_note(extra, prefix, arch, tmp_path, caplog):
    tensors = {prefix + name: tensor for name, tensor in STATE.items()}
    path = written(tmp_path, {**tensors, **{name: HARMLESS[name] for name in extra}})
    with caplog.at_level(logging.WARNING, logger="alds_cli"):
        require_plain(api.load(path, arch=arch).state_dict())
    (note,) = [record.message for record in caplog.records if "left out" in record.message]
    assert f"left out {len(extra)} entr" in note
    assert extra[0] in note


FOREIGN = {
    "head.weight": torch.ones(10, 64),
    "aux.weight": torch.ones(64),
    "layer4.0.conv1.weight": torch.ones(64, 64, 3, 3),
    "layer3.0.gate": torch.ones(64),
    "layer1.0.scale": torch.ones(()),
    "embedding": torch.ones(5, 5),
}


@pytest.mark.parametrize("arch", [None, "cifar_resnet20"])
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("name", FOREIGN)
def test_weights_that_the_network_does_not_have_are_no_leftovers(name, prefix, arch, tmp_path):
    tensors = {prefix + own: tensor for own, tensor in STATE.items()}
    path = written(tmp_path, {**tensors, prefix + name: FOREIGN[name]})
    with pytest.raises(ArchitectureError, match=name) as caught:
        api.load(path, arch=arch)
    tip = str(caught.value.tip)
    assert ("--arch NAME" in tip) == (arch is None)
    if arch is not None:
        pattern = tip.rpartition("--ignore ")[2].strip("'")
        require_plain(api.load(path, arch=arch, ignore=(prefix + name,)).state_dict())
        assert pattern.startswith((prefix or name)[:4])


def test_many_small_entries_of_unknown_meaning_are_none(tmp_path):
    path = written(tmp_path, {**STATE, **{f"x{n}": torch.ones(3) for n in range(17)}})
    with pytest.raises(ArchitectureError, match="17 not in the network"):
        api.load(path, arch="cifar_resnet20")
    require_plain(api.load(path, arch="cifar_resnet20", ignore="x?*").state_dict())


def test_averaged_models(tmp_path):
    averaged = AveragedModel(NETWORK)
    require_plain(api.load(written(tmp_path, averaged.state_dict())).state_dict())


@pytest.mark.parametrize("arch", [None, "cifar_resnet20"])
def test_of_two_copies_one_is_used_and_the_other_can_be_chosen(arch, tmp_path, caplog):
    doubled = {name: 2 * tensor for name, tensor in STATE.items()}
    tensors = {f"model.{name}": tensor for name, tensor in STATE.items()}
    tensors |= {f"ema_model.module.{name}": tensor for name, tensor in doubled.items()}
    path = written(tmp_path, tensors)
    with caplog.at_level(logging.WARNING, logger="alds_cli"):
        require_plain(api.load(path, arch=arch).state_dict())
    assert "--strip-prefix chooses" in caplog.text
    assert "'ema_model.'" in caplog.text
    caplog.clear()
    chosen = api.load(path, arch=arch, strip_prefix="ema_model").state_dict()
    assert torch.equal(chosen["conv1.weight"], doubled["conv1.weight"])
    assert "--strip-prefix" not in caplog.text


@pytest.mark.parametrize("arch", [None, "cifar_resnet20"])
@pytest.mark.parametrize("given_prefix", [("generator.",), ("generator",), ("gan.", "generator")])
def test_prefixes_that_are_no_wrappers_are_stripped(given_prefix, arch, tmp_path):
    start = "".join(f"{each.removesuffix('.')}." for each in given_prefix)
    tensors = {start + name: tensor for name, tensor in STATE.items()}
    path = written(tmp_path, {**tensors, "discriminator.0.weight": torch.ones(3, 3)})
    with pytest.raises(ArchitectureError) as caught:
        api.load(path, arch="cifar_resnet20")
    assert f"--strip-prefix {start.removesuffix('.')}" in caught.value.tip
    require_plain(api.load(path, arch=arch, strip_prefix=given_prefix).state_dict())


@pytest.mark.parametrize("command", ["inspect", "compress", "evaluate", "retrain", "profile"])
def test_every_command_takes_them(command, digits, tmp_path, run):
    state = torch.load(digits / "model.pt", weights_only=True)
    path = tmp_path / "odd.pt"
    spelt = {f"generator.{name}": tensor for name, tensor in state.items()}
    torch.save({**spelt, "generator.head.weight": torch.ones(3, 3)}, path)
    rest = {
        "compress": ["--ratio", "0.3", "--dry-run"],
        "evaluate": ["--data", f"tensors:{digits / 'data.safetensors'}"],
        "retrain": [
            "--data",
            f"tensors:{digits / 'data.safetensors'}",
            "--epochs",
            "1",
            "-o",
            tmp_path / "out.pt",
        ],
    }.get(command, [])
    choosing = ["--strip-prefix", "generator.", "--ignore", "generator.head.*"]
    code, _, err = run(command, path, *rest, *choosing, "-q")
    assert code == 0, err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"strip_prefix": "nothing."}, "no name begins with it"),
        ({"strip_prefix": "conv1.weight"}, "no name begins with it"),
        ({"ignore": "nothing.*"}, "matches no entry"),
        ({"ignore": "*"}, "leaves nothing"),
    ],
)
def test_slips_are_told(options, complaint, tmp_path):
    with pytest.raises(OptionError, match=complaint):
        api.load(written(tmp_path, STATE), **options)


def test_no_tip_names_what_was_done(tmp_path):
    path = written(tmp_path, {"a.weight": torch.ones(3, 3), "a.bias": torch.ones(3)})
    with pytest.raises(ArchitectureError) as caught:
        api.load(path, arch="cifar_resnet20")
    assert caught.value.tip is None
    with pytest.raises(ArchitectureError) as caught:
        api.load(path)
    assert "--arch" in caught.value.tip


@pytest.mark.parametrize("depth", [99, 101, 20_000])
def test_names_of_any_depth_are_looked_at(depth):
    name = "module." * depth + "weight"
    assert name in spellings([name])
    assert len(name) < sys.maxsize
