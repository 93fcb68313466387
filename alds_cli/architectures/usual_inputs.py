"""What a network is fed: the shape of one sample and the preprocessing of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from alds_cli.architectures import from_timm, from_torchvision
from alds_cli.architectures.index import load_index
from alds_cli.architectures.zoo import ZOO
from alds_cli.inputs import InputSpec
from alds_cli.records import Architecture, Preprocessing


def input_shape(
    architecture: Architecture, module: nn.Module | None = None
) -> tuple[int, ...] | None:
    """Give the shape of one sample without the batch: (c, h, w), or (c, t, h, w) for video.

    It is the shape the network's published weights are evaluated at, with `image_size`,
    `in_channels` and timm's `img_size` and `in_chans` respected.

    Args:
        architecture: the network.
        module: the network built, asked only where the architecture is a factory: for
            an `input_shape`, an `input_size`, or timm's `default_cfg`.

    Returns:
        The shape, or None for a factory whose module does not tell.

    Raises:
        MissingExtraError: the architecture is timm's, and timm is not installed.
        ArchitectureError: timm has no such network.
    """
    if architecture.name in ZOO:
        channels, height, width = ZOO[architecture.name].input_shape
        return (_whole(architecture, "in_channels", channels), height, width)
    if architecture.name.startswith(from_timm.PREFIX):
        return from_timm.input_shape(architecture)
    entry = load_index().entry(architecture)
    if entry is None:
        return None if module is None else _told_by(module)
    *leading, height, width = entry.input_shape
    size = architecture.arguments.get("image_size")
    return (*leading, size, size) if isinstance(size, int) else (*leading, height, width)


def default_inputs(architecture: Architecture, module: nn.Module | None = None) -> InputSpec | None:
    """Give all that the network takes: one sample of `input_shape`, or what is more than that.

    Args:
        architecture: the network.
        module: the network built; see `input_shape`.

    Returns:
        The inputs, or None for a factory whose module does not tell.

    Raises:
        MissingExtraError: the architecture is timm's, and timm is not installed.
        ArchitectureError: timm has no such network.
    """
    shape = input_shape(architecture, module)
    if shape is not None:
        return InputSpec.of_sample(shape)
    return None if ":" in architecture.name else from_torchvision.inputs(architecture)


def default_preprocessing(architecture: Architecture) -> Preprocessing | None:
    """Give the preprocessing that the network's published weights are evaluated with.

    torchvision's is that of its default weights, or of those for the `image_size` given;
    the CIFAR networks' has no resizing.

    Returns:
        The preprocessing; None for a factory, for video, and for images with another
        number of channels than the published weights'.

    Raises:
        MissingExtraError: the architecture is timm's, and timm is not installed.
        ArchitectureError: timm has no such network.
    """
    if architecture.name in ZOO:
        network = ZOO[architecture.name]
        channels = _whole(architecture, "in_channels", network.input_shape[0])
        return network.preprocessing if channels == len(network.preprocessing.mean) else None
    if architecture.name.startswith(from_timm.PREFIX):
        return from_timm.preprocessing(architecture)
    entry = load_index().entry(architecture)
    if entry is None or entry.preprocessing is None:
        return None
    size = architecture.arguments.get("image_size")
    if isinstance(size, int) and size != entry.input_shape[-1]:
        return replace(entry.preprocessing, resize=size, crop=size)
    return entry.preprocessing


def _whole(architecture: Architecture, name: str, default: int) -> int:
    value = architecture.arguments.get(name, default)
    return value if isinstance(value, int) else default


def _told_by(module: nn.Module) -> tuple[int, ...] | None:
    configuration = getattr(module, "default_cfg", None)
    listed = configuration.get("input_size") if isinstance(configuration, Mapping) else None
    for value in (
        getattr(module, "input_shape", None),
        getattr(module, "input_size", None),
        listed,
    ):
        if isinstance(value, Sequence) and value and all(isinstance(n, int) for n in value):
            return tuple(value)
    return None
