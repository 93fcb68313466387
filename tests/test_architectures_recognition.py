"""Finding a network by its names and shapes, and saying what fits best where none does."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alds_cli.architectures import (
    build,
    current_names,
    recognise,
    require_match,
)
from alds_cli.architectures.index import Index, is_derived, load_index
from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture

SAMPLE = [
    Architecture("alexnet"),
    Architecture("cifar_densenet22"),
    Architecture("cifar_resnet110", {"in_channels": 1}),
    Architecture("convnext_tiny"),
    Architecture("deeplabv3_resnet50", {"aux_loss": True}),
    Architecture("densenet121"),
    Architecture("digits_cnn", {"in_channels": 3}),
    Architecture("efficientnet_b0"),
    Architecture("googlenet"),
    Architecture("googlenet", {"aux_logits": False}),
    Architecture("inception_v3"),
    Architecture("inception_v3", {"aux_logits": False}),
    Architecture("maxvit_t"),
    Architecture("mobilenet_v2"),
    Architecture("mvit_v2_s"),
    Architecture("r3d_18"),
    Architecture("regnet_y_400mf"),
    Architecture("resnext50_32x4d"),
    Architecture("squeezenet1_1"),
    Architecture("swin_v2_t"),
    Architecture("vgg16_bn"),
    Architecture("vit_b_16"),
    Architecture("vit_b_16", {"image_size": 384}),
]
EVERY = [Architecture(entry.name, entry.arguments) for entry in load_index().entries]


def with_classes(architecture: Architecture, classes: int) -> Architecture:
    return Architecture(architecture.name, {**architecture.arguments, "num_classes": classes})


@cache
def _shapes(name: str, arguments: tuple[tuple[str, object], ...]) -> dict[str, tuple[int, ...]]:
    network = build(Architecture(name, dict(arguments)), device="meta")
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def shapes_of(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return dict(_shapes(architecture.name, tuple(architecture.arguments.items())))


def shapes(name: str, **arguments: object) -> dict[str, tuple[int, ...]]:
    return dict(_shapes(name, tuple(arguments.items())))


def round_trip(architecture: Architecture) -> None:
    assert recognise(shapes_of(architecture)) == architecture
    for classes in (1, 37):
        assert recognise(shapes_of(with_classes(architecture, classes))) == with_classes(
            architecture, classes
        )


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize("architecture", SAMPLE, ids=str)
def test_a_network_is_recognised_with_its_classes(architecture):
    round_trip(architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", EVERY, ids=str)
def test_every_indexed_network_is_recognised_with_its_classes(architecture):
    round_trip(architecture)


@given(classes=st.integers(1, 30_000), channels=st.integers(1, 64), seed=st.integers())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_number_of_classes_and_channels_in_any_order(classes, channels, seed):
    entries = shapes("cifar_resnet20")
    entries["linear.weight"] = (classes, 64)
    entries["linear.bias"] = (classes,)
    entries["conv1.weight"] = (16, channels, 3, 3)
    order = list(entries)
    random.Random(seed).shuffle(order)
    found = recognise({name: entries[name] for name in order})
    assert found.name == "cifar_resnet20"
    assert {"num_classes": 10, "in_channels": 3, **found.arguments} == {
        "num_classes": classes,
        "in_channels": channels,
    }


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "swin_v2_t", "cifar_resnet20"])
def test_derived_buffers_may_be_absent(name):
    entries = shapes(name)
    lean = {key: shape for key, shape in entries.items() if not is_derived(key)}
    assert len(lean) < len(entries)
    assert recognise(lean) == recognise(entries) == Architecture(name)
    require_match(Architecture(name), entries, lean)


def test_running_statistics_may_not_be_absent():
    entries = shapes("resnet18")
    del entries["layer1.0.bn1.running_mean"]
    with pytest.raises(ArchitectureError, match=r"1 missing .*layer1\.0\.bn1\.running_mean"):
        recognise(entries)


def test_shapes_may_be_torch_sizes():
    entries = {key: torch.Size(shape) for key, shape in shapes("resnet18").items()}
    assert recognise(entries) == Architecture("resnet18")


def test_an_extra_entry_is_named():
    entries = shapes("resnet50", num_classes=12) | {"projector.weight": (3, 4)}
    with pytest.raises(ArchitectureError) as caught:
        recognise(entries)
    assert "compared with resnet50(num_classes=12), 267 of whose 267 tensors match" in str(
        caught.value
    )
    assert "1 not in the network: projector.weight" in str(caught.value)
    assert "--arch package.module:factory" in caught.value.tip


def test_a_wrong_shape_is_named():
    entries = shapes("mobilenet_v2") | {"features.0.0.weight": (32, 1, 3, 3)}
    with pytest.raises(
        ArchitectureError, match=r"features\.0\.0\.weight is 32×1×3×3, not 32×3×3×3"
    ):
        recognise(entries)


def test_heads_that_disagree_on_the_classes_are_not_recognised():
    entries = shapes("googlenet", num_classes=37) | {"aux1.fc2.bias": (36,)}
    with pytest.raises(ArchitectureError, match="googlenet"):
        recognise(entries)


@pytest.mark.parametrize("classes", [(0,), (), (10, 1, 1)])
def test_a_classifier_of_an_impossible_shape_is_not_recognised(classes):
    entries = shapes("resnet18") | {"fc.bias": classes}
    with pytest.raises(ArchitectureError, match="resnet18"):
        recognise(entries)


@pytest.mark.parametrize("architecture", SAMPLE, ids=str)
def test_a_near_miss_has_the_right_nearest_network(architecture):
    entries = shapes_of(architecture)
    victim = sorted(key for key in entries if not is_derived(key))[len(entries) // 3]
    entries[victim] = (*entries[victim], 7)
    with pytest.raises(ArchitectureError) as caught:
        recognise(entries)
    assert f"; the nearest are {architecture.name}" in str(caught.value)
    assert victim in str(caught.value)


def test_a_narrower_network_is_near_its_own_family():
    with pytest.raises(ArchitectureError) as caught:
        recognise(shapes("mobilenet_v2", width_mult=0.5))
    assert "; the nearest are mobilenet_v2 (" in str(caught.value)


@pytest.mark.parametrize("entries", [{}, {"bn1.num_batches_tracked": ()}])
def test_a_checkpoint_without_weights_is_refused(entries):
    with pytest.raises(ArchitectureError, match="no weights"):
        recognise(entries)


@pytest.mark.parametrize("entries", [{"": ()}, {"a.b": (3,)}, {"fc.weight": (10, 3, 3, 3, 3)}])
def test_a_stranger_is_refused(entries):
    with pytest.raises(ArchitectureError) as caught:
        recognise(entries)
    assert "no known network" in str(caught.value)


def test_networks_that_fit_equally_are_all_named(monkeypatch):
    index = load_index()
    (entry,) = (entry for entry in index.entries if entry.name == "resnet18")
    twin = Index(index.torchvision, (entry, type(entry)(**_fields(entry) | {"name": "twin18"})))
    monkeypatch.setattr("alds_cli.architectures.recognition.load_index", lambda: twin)
    with pytest.raises(ArchitectureError, match=r"2 networks: resnet18\(.*twin18") as caught:
        recognise(shapes("resnet18", num_classes=5))
    assert "--arch twin18 --arch-arg num_classes=5" in caught.value.tip


def _fields(entry: object) -> dict[str, object]:
    return {name: getattr(entry, name) for name in entry.__slots__}


def test_no_two_networks_of_the_index_fit_equally():
    digests = [entry.digest for entry in load_index().entries]
    assert len(set(digests)) == len(digests)


def test_the_nearest_network_may_be_unknown_to_the_installed_torchvision(monkeypatch):
    def fail(*_args, **_keywords):
        raise ArchitectureError("no such network")

    entries = shapes("resnet18") | {"extra": (1,)}
    monkeypatch.setattr("alds_cli.architectures.recognition.build", fail)
    with pytest.raises(ArchitectureError, match=r"resnet18 \(about 100%") as caught:
        recognise(entries)
    assert "compared with" not in str(caught.value)


def test_names_of_old_densenet_files():
    old = {
        key.replace(".norm1", ".norm.1").replace(".norm2", ".norm.2")
        .replace(".conv1", ".conv.1").replace(".conv2", ".conv.2")
        if "denselayer" in key
        else key: shape
        for key, shape in shapes("densenet121").items()
        if not is_derived(key)
    }  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert recognise(old) == Architecture("densenet121")
    names = current_names(Architecture("densenet121"), old)
    require_match(
        Architecture("densenet121"),
        shapes("densenet121"),
        {names[key]: shape for key, shape in old.items()},
    )


def test_names_of_old_vision_transformer_files():
    old = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): shape
        for key, shape in shapes("vit_b_32").items()
    }
    assert any("linear_1" in key for key in old)
    assert recognise(old) == Architecture("vit_b_32")
    assert set(current_names(Architecture("vit_b_32"), old).values()) == shapes("vit_b_32").keys()


def test_names_of_other_networks_stay():
    names = ["encoder_layer_0.mlp.linear_1.weight", "denselayer1.conv.2.weight"]
    for owner in ("timm:resnet18", "mine:factory"):
        assert current_names(Architecture(owner), names) == {name: name for name in names}
    both = ["denselayer1.conv.2.weight", "denselayer1.conv2.weight"]
    assert current_names(Architecture("densenet121"), both) == {name: name for name in both}


def test_require_match_lists_every_sort_of_difference():
    expected = shapes("resnet18")
    given_shapes = dict(expected)
    for layer in (1, 2, 3):
        del given_shapes[f"layer{layer}.0.conv1.weight"]
        del given_shapes[f"layer{layer}.1.conv1.weight"]
    given_shapes["head.weight"] = (2, 2)
    given_shapes["conv1.weight"] = (64, 3, 3, 3)
    with pytest.raises(ArchitectureError) as caught:
        require_match(Architecture("resnet18"), expected, given_shapes)
    message = str(caught.value)
    assert "6 missing from the checkpoint: layer1.0.conv1.weight" in message
    assert "layer3" not in message
    assert "1 not in the network: head.weight" in message
    assert "1 of another shape: conv1.weight is 64×3×3×3, not 64×3×7×7" in message
    assert caught.value.tip is None  # it was named, and no other fits


def test_require_match_recognises_the_checkpoint_of_another_network():
    with pytest.raises(ArchitectureError, match="does not belong to resnet18") as caught:
        require_match(
            Architecture("resnet18"), shapes("resnet18"), shapes("resnet34", num_classes=4)
        )
    assert caught.value.tip == "it fits --arch resnet34 --arch-arg num_classes=4"


def test_require_match_checks_derived_buffers_that_are_there():
    entries = shapes("swin_t")
    (name,) = (key for key in entries if key.endswith("1.0.attn.relative_position_index"))
    with pytest.raises(ArchitectureError, match="1 of another shape"):
        require_match(Architecture("swin_t"), entries, entries | {name: (1,)})
    with pytest.raises(ArchitectureError, match="1 not in the network"):
        require_match(Architecture("swin_t"), entries, entries | {"x.num_batches_tracked": ()})
