"""Networks of torchvision by name. The package is imported when it is needed, not before."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from alds_cli.errors import ArchitectureError
from alds_cli.inputs import InputGroup, InputSpec, InputTensor
from alds_cli.records import Architecture, ArgumentValue
from alds_cli.runtime.user_code import large_import

INDEXED_KINDS = frozenset({"classification", "segmentation", "video"})
"""The kinds of torchvision networks that are recognised: they map one tensor to class scores."""

SUPPORTED_KINDS = INDEXED_KINDS | {"detection", "optical_flow"}
"""The kinds that can be named. Names and shapes do not show which epsilon a detector's weights
were made for (`caveat`), and optical flow has no classes, so neither is recognised. Quantised
networks, which hold packed integers, are not supported."""

OLD_NORMALISATION = frozenset(
    {
        "fasterrcnn_resnet50_fpn",
        "keypointrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn",
        "retinanet_resnet50_fpn",
    }
)
"""Detectors whose published weights belong to networks that normalise with an epsilon of 0,
while torchvision builds them with 1e-5 if it loads no weights."""

_EPSILON = "norm_eps"
"""An argument of these detectors that torchvision does not have."""

_DETECTOR_SIZES = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 320,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}
"""The sizes of detectors that scale images to another size than 800."""

_FLOW_SIZE = 256

# These two warn, and initialise their weights slowly, unless told not to.
_INIT_WEIGHTS = frozenset({"googlenet", "inception_v3"})


def models() -> ModuleType:
    """Return `torchvision.models`."""
    with large_import():
        from torchvision import models  # noqa: PLC0415 - takes a second

    module: ModuleType = models
    return module


def kind(name: str) -> str | None:
    """Return the kind of torchvision's network `name`; None if there is no such network.

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
    given = dict(arguments)
    epsilon = given.pop(_EPSILON, None) if name in OLD_NORMALISATION else None
    network: nn.Module = builder(**{**defaults, **given})
    if epsilon is not None:
        _set_epsilon(network, epsilon)
    return network


def _set_epsilon(network: nn.Module, epsilon: ArgumentValue) -> None:
    if not isinstance(epsilon, (int, float)) or epsilon < 0:
        raise ArchitectureError(f"{_EPSILON} is a number from 0 up, not {epsilon}")
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = float(epsilon)


def inputs(architecture: Architecture) -> InputSpec | None:
    """Return the inputs of a network that takes more than one image or clip; None for others.

    A detector takes a list of images, each of which it scales to `min_size`; optical flow takes
    two images.
    """
    found = kind(architecture.name)
    if found == "detection":
        size = architecture.arguments.get("min_size")
        if not isinstance(size, int):
            size = _DETECTOR_SIZES.get(architecture.name, 800)
        image = InputTensor((3, size, size))
        return InputSpec(((None, InputGroup("list", ((None, image),))),))
    if found == "optical_flow":
        frame = InputTensor((1, 3, _FLOW_SIZE, _FLOW_SIZE))
        return InputSpec(((None, frame), (None, frame)))
    return None


_TRANSFORM_INPUT = frozenset({"googlenet", "inception_v3"})


def caveat(architecture: Architecture) -> str | None:
    """Warn if two networks with the same entries compute different things.

    torchvision's published weights of GoogLeNet and Inception v3 belong to networks that
    rescale their input themselves (`transform_input`), while networks built without weights do
    not. `recognise` returns the builder's default, so the user is warned.

    Four of torchvision's detectors were published with an epsilon of 0 in their normalisation
    (`norm_eps`), but are built without weights with the usual one.

    Returns:
        One sentence with the option to change, or None if there is no doubt.
    """
    if architecture.name in _TRANSFORM_INPUT and "transform_input" not in architecture.arguments:
        return (
            f"{architecture.name} is taken without input rescaling; if the checkpoint stems from "
            "torchvision's published weights, add --arch-arg transform_input=true"
        )
    if architecture.name in OLD_NORMALISATION and "norm_eps" not in architecture.arguments:
        return (
            f"{architecture.name} is taken with an epsilon of 1e-5 in its normalisation; if the "
            "checkpoint stems from torchvision's published weights, add --arch-arg norm_eps=0"
        )
    return None
