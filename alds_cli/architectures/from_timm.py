"""Networks of timm, named `timm:NAME`. The package is optional and imported when needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any, get_args

from torch import nn

from alds_cli.architectures.index import did_you_mean
from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture, ArgumentValue, Interpolation, Preprocessing
from alds_cli.runtime.user_code import importing_extra

PREFIX = "timm:"


def construct(name: str, arguments: Mapping[str, ArgumentValue]) -> nn.Module:
    """Build timm's network `name` (without the prefix) with random weights.

    Raises:
        MissingExtraError: timm is not installed.
        ArchitectureError: timm has no such network.
        Exception: whatever the network's constructor makes of its arguments.
    """
    timm = _timm(name)
    network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return network


def input_shape(architecture: Architecture) -> tuple[int, int, int]:
    """Return (c, h, w) of timm's configuration, with `in_chans` and `img_size` respected.

    Raises:
        MissingExtraError: timm is not installed.
        ArchitectureError: timm has no such network.
    """
    channels, height, width = _configuration(architecture)["input_size"]
    channels = architecture.arguments.get("in_chans", channels)
    size = architecture.arguments.get("img_size")
    height, width = (height, width) if size is None else (size, size)
    return int(channels), int(height), int(width)


def preprocessing(architecture: Architecture) -> Preprocessing | None:
    """Return timm's preprocessing for evaluation.

    Returns:
        The preprocessing; None if images do not have three channels, are not square, have a border
        added, or are resized in another way than `Preprocessing` can say.

    Raises:
        MissingExtraError: timm is not installed.
        ArchitectureError: timm has no such network.
    """
    configuration = _configuration(architecture)
    channels, height, width = input_shape(architecture)
    mean, std = configuration["mean"], configuration["std"]
    interpolation = configuration["interpolation"]
    mode = configuration.get("crop_mode", "center")
    sayable = mode in {"center", "squash"} and interpolation in get_args(Interpolation)
    if len(mean) != channels or height != width or not sayable:
        return None
    # timm resizes to ⌊size / crop_pct⌋ and crops the centre.
    resize = math.floor(height / configuration["crop_pct"])
    return Preprocessing(tuple(mean), tuple(std), resize, height, mode == "squash", interpolation)


def _configuration(architecture: Architecture) -> dict[str, Any]:
    name = architecture.name.removeprefix(PREFIX)
    configuration: dict[str, Any] = _timm(name).get_pretrained_cfg(name).to_dict()
    return configuration


def _timm(name: str) -> ModuleType:
    """Import timm, and make sure that it has `name`, with or without a tag after a dot."""
    with importing_extra(f"the architecture '{PREFIX}{name}'", "timm"):
        import timm  # noqa: PLC0415 - optional, and slow to import
    module: ModuleType = timm
    if not timm.is_model(name):
        known = [f"{PREFIX}{other}" for other in timm.list_models()]
        raise ArchitectureError(
            f"timm has no network '{name}'", tip=did_you_mean(f"{PREFIX}{name}", known)
        )
    return module
