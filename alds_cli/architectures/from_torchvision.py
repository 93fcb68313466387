"""Networks of torchvision by name. torchvision is imported when it is needed, not before."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from alds_cli.errors import ArchitectureError
from alds_cli.records import ArgumentValue

SUPPORTED_KINDS = frozenset({"classification", "segmentation", "video"})
"""Kinds of torchvision networks that map one tensor to class scores and are left out
by nothing else. Detectors take lists of images, and their frozen normalisation depends
on which weights they are built for; quantized networks hold packed integers; optical
flow takes two images and has no classes."""

# These two warn, and draw their weights slowly, unless told not to.
_INIT_WEIGHTS = frozenset({"googlenet", "inception_v3"})


def models() -> ModuleType:
    """Give `torchvision.models`."""
    from torchvision import models  # noqa: PLC0415 - a second that most commands save

    module: ModuleType = models
    return module


def kind(name: str) -> str | None:
    """Tell what sort of network torchvision's `name` is, None where it has none such.

    Returns:
        "classification", or the name of the subpackage that defines it, such as
        "segmentation", "video", "detection", "quantization" or "optical_flow".
    """
    zoo = models()
    if name not in zoo.list_models():
        return None
    path = zoo.get_model_builder(name).__module__.removeprefix("torchvision.models.")
    package, dot, _ = path.partition(".")
    return package if dot else "classification"


def construct(name: str, arguments: Mapping[str, ArgumentValue]) -> nn.Module:
    """Build torchvision's network `name` without weights and without network access.

    Raises:
        ArchitectureError: the installed torchvision has no such network.
        Exception: whatever the network's constructor makes of its arguments.
    """
    zoo = models()
    if kind(name) is None:
        raise ArchitectureError(
            f"the installed torchvision has no network '{name}'",
            tip="a newer torchvision may have it: pip install --upgrade torchvision",
        )
    builder = zoo.get_model_builder(name)
    defaults: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        defaults["weights_backbone"] = None
    if name in _INIT_WEIGHTS:
        defaults["init_weights"] = False
    network: nn.Module = builder(**{**defaults, **arguments})
    return network
