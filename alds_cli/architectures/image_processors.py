"""How images become the input of a network of `transformers`, by its `preprocessor_config.json`.

The library's own class fills in what the file leaves out. It fetches nothing, and no code in the
folder is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from alds_cli.architectures import from_transformers
from alds_cli.architectures.described import is_described
from alds_cli.checkpoint.model_folder import ModelFolder
from alds_cli.records import Architecture, Interpolation, Preprocessing

_CONVNEXT = "ConvNext"

_KNOWN = frozenset(
    {"Beit", "Bit", "CLIP", "DeiT", "MobileNetV1", "MobileNetV2", "Pvt", "Siglip", "ViT", _CONVNEXT}
)
"""Processors that resize, crop the centre, scale and normalise, in this order and no more."""

_CLASS = re.compile(r"(\w+?)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?")

_RESAMPLING: Mapping[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the kinds of interpolation that `Preprocessing` has."""

_WARPED_FROM = 384
"""The size in pixels from which ConvNeXt's processor resizes both sides and does not crop."""


def preprocessing_of_folder(
    folder: ModelFolder | None, architecture: Architecture
) -> Preprocessing | None:
    """Return how images become a network's input, as the processor in its folder makes it.

    Args:
        folder: the folder of the network; None for a model that is a file.
        architecture: the network that the folder describes.

    Returns:
        The preprocessing; None if the folder states none, if it is of another library, or if its
        processor does something that `Preprocessing` cannot say.
    """
    if folder is None or not folder.preprocessor or not is_described(architecture):
        return None
    name = folder.preprocessor.get("image_processor_type")
    name = name or folder.preprocessor.get("feature_extractor_type")
    found = _CLASS.fullmatch(name) if isinstance(name, str) else None
    if found is None or found[1] not in _KNOWN:
        return None
    library = from_transformers.library(architecture.name)
    try:
        values = _filled_in(library, found[1], folder.preprocessor)
        return _preprocessing(values, warping=found[1] == _CONVNEXT)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None  # the file holds what its class does not take


def _filled_in(library: ModuleType, kind: str, stated: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a folder states about its processor, with the defaults of the class."""
    processor = getattr(library, f"{kind}ImageProcessor").from_dict(dict(stated))
    values: dict[str, Any] = processor.to_dict()
    return values


def _preprocessing(values: Mapping[str, Any], *, warping: bool) -> Preprocessing:
    """Turn a processor's values into a preprocessing.

    Args:
        values: as the processor's `to_dict` gives them.
        warping: whether the size decides how to resize and crop, as ConvNeXt's does.

    Raises:
        KeyError: a value is missing.
        ValueError: a preprocessing cannot say the same.
    """
    if values.get("do_pad"):
        raise ValueError("images are padded")
    mean, std = _statistics(values)
    resize, stretch, crop = None, False, None
    if values["do_resize"]:
        resize, stretch, crop = _warped(values) if warping else _resized(values["size"])
    if values.get("do_center_crop"):
        if crop is not None:
            raise ValueError("images are cropped twice")
        crop = _side(values["crop_size"])
    if resize is not None and crop is not None and crop > resize:
        raise ValueError("images are padded")
    interpolation = _RESAMPLING.get(int(values["resample"])) if resize else "bilinear"
    if interpolation is None:
        raise ValueError("images are resized in another way")
    return Preprocessing(mean, std, resize, crop, stretch, interpolation, crop_down=True)


def _resized(size: Mapping[str, int]) -> tuple[int, bool, int | None]:
    """Return what to resize to, whether that is both sides, and what to crop then: nothing."""
    if "shortest_edge" not in size:
        return _side(size), True, None
    if size.get("longest_edge"):
        raise ValueError("the longer side is bounded")
    return size["shortest_edge"], False, None


def _warped(values: Mapping[str, Any]) -> tuple[int, bool, int | None]:
    """Return the same for ConvNeXt, of which small images are cropped and large ones are not."""
    side = values["size"]["shortest_edge"]
    if side >= _WARPED_FROM:
        return side, True, None
    return int(side / values["crop_pct"]), False, side


def _side(size: Mapping[str, int]) -> int:
    """Return the side of a square.

    Raises:
        ValueError: it is none.
    """
    if size["height"] != size["width"]:
        raise ValueError("images are not square")
    return size["height"]


def _statistics(values: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for pixels from 0 to 1, whatever the processor's scale.

    Of a pixel p from 0 to 255 it makes (p f − m) / s, which is (p / 255 − m / 255f) / (s / 255f).
    """
    normalised = values["do_normalize"]
    mean = _for_channels(values["image_mean"] if normalised else 0.0)
    std = _for_channels(values["image_std"] if normalised else 1.0)
    scale = 255 * values["rescale_factor"] if values["do_rescale"] else 255.0
    if math.isclose(scale, 1, rel_tol=1e-12):
        return mean, std
    return tuple(m / scale for m in mean), tuple(s / scale for s in std)


def _for_channels(value: Any) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, (int, float)) else tuple(map(float, value))
