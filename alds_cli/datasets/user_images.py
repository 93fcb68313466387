"""Images from the user's own code, named `package.module:factory`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alds_cli.datasets.images import LabelledImages
from alds_cli.datasets.preprocessing import CHANNELS
from alds_cli.errors import DataError
from alds_cli.runtime.user_code import current_directory_importable, imported_object

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

_TIP = "what is named must be a function that gives a torch.utils.data.Dataset of (image, label)"

_ITEM_TIP = (
    "each item is (image, label): a PIL image or a uint8 tensor (C, H, W), before any conversion "
    "to floating-point numbers, and a whole number"
)

_GREY_MODES = {"1", "L"}

_UNKNOWN_RANGES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def open_factory(spec: str) -> LabelledImages:
    """Import and call a factory, and return the images that it gives.

    The current directory can be imported from while this runs, and only then.

    Args:
        spec: `package.module:factory`, where the factory takes no arguments and returns a
            map-style data set of (image, label), or `LabelledImages`; the object itself may be
            such a set too.

    Raises:
        DataError: the import or the call fails, or gives something else.
    """
    with current_directory_importable():
        found = imported_object(spec, DataError, _TIP)
        if callable(found):
            found = _called(spec, found)
    if isinstance(found, LabelledImages):
        return found
    if not (hasattr(found, "__getitem__") and hasattr(found, "__len__")) or isinstance(found, str):
        streams = " (one that streams its items has no order)" if hasattr(found, "__iter__") else ""
        raise DataError(
            f"{spec} gave a {type(found).__name__}, not a data set with a length and items by "
            f"number{streams}",
            tip=_TIP,
        )
    return UserImages(spec, found)


def _called(spec: str, factory: Any) -> object:
    try:
        return factory()
    # The user's code may raise anything, which must not end in a traceback of this tool.
    except (Exception, SystemExit) as error:
        raise DataError(
            f"{spec} failed: {type(error).__name__}: {error}",
            tip="the factory is called without arguments",
        ) from error


class UserImages(LabelledImages):
    """The items of a map-style data set, such as one of torchvision.

    Labels are those that the set states in its attribute `targets`, as torchvision's do, and each
    is compared with its item when that is read. Without the attribute all items are read once.

    Args:
        name: the spec, for messages.
        items: gives (image, label), or an image alone, for whole numbers from 0.
        indices: (n,) which of the items to take, in this order; None takes all.
        labels: the labels (n,) of these, or None without labels, where that is known already.
        channels: of the images, where that is known already.

    Raises:
        DataError: an item is not an image with a label, or cannot be had.
    """

    def __init__(
        self,
        name: str,
        items: Any,
        *,
        indices: Tensor | None = None,
        labels: Tensor | None = None,
        channels: int | None = None,
    ) -> None:
        count = _length(name, items) if indices is None else len(indices)
        self._items = items
        self._indices = torch.arange(count) if indices is None else indices
        if channels is None and count:
            image, label = _parted(name, 0, _item(name, items, 0))
            channels = _channels(image)
            labels = None if label is None else _all_labels(name, items, count)
        super().__init__(name, labels, count=count, channels=channels or CHANNELS[-1], size=None)

    def image(self, index: int) -> Tensor | Image.Image:
        """Return one image: a uint8 tensor of shape (C, H, W), or a PIL image in mode L or RGB.

        Raises:
            DataError: the item cannot be had, or is no image with the label it should have.
        """
        number = int(self._indices[index])
        image, label = _parted(self.name, number, _item(self.name, self._items, number))
        if self.labelled and label != int(self.labels[index]):
            raise DataError(
                f"item {number} of {self.name} has the label {label}, but "
                f"{int(self.labels[index])} before",
                tip="let the set give the same label every time, and the one in its 'targets'",
            )
        return _converted(self.name, number, image, self.channels)

    def subset(self, indices: Tensor) -> UserImages:
        """Return the set of the items at `indices` (n,), n ≥ 1, in that order."""
        return UserImages(
            self.name,
            self._items,
            indices=self._indices[indices],
            labels=self._labels_of(indices),
            channels=self.channels,
        )

    def _contents(self) -> Iterator[bytes | memoryview]:
        for index in range(len(self)):
            image = self.image(index)
            pixels = image.numpy() if isinstance(image, Tensor) else np.asarray(image)
            yield str(pixels.shape).encode()
            yield hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


def _length(name: str, items: Any) -> int:
    try:
        return len(items)
    except Exception as error:
        raise DataError(
            f"the length of {name} cannot be had: {type(error).__name__}: {error}", tip=_TIP
        ) from error


def _item(name: str, items: Any, number: int) -> Any:
    try:
        return items[number]
    except Exception as error:
        raise DataError(
            f"item {number} of {name} cannot be had: {type(error).__name__}: {error}",
            tip="correct the data set, or leave that item out of it",
        ) from error


def _parted(name: str, number: int, item: Any) -> tuple[Any, int | None]:
    """Return the image and the label of an item; an image alone has no label."""
    if not isinstance(item, (tuple, list)):
        return item, None
    if len(item) < 2:
        raise DataError(f"item {number} of {name} has {len(item)} parts", tip=_ITEM_TIP)
    return item[0], _whole(name, number, item[1])


def _whole(name: str, number: int, label: Any) -> int:
    try:
        whole = int(label)
        same = bool(whole == label)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        same = False
    if not same or not -(2**63) <= whole < 2**63:
        raise DataError(
            f"item {number} of {name} has a {type(label).__name__} for a label, not a whole number",
            tip=_ITEM_TIP,
        )
    return whole


def _all_labels(name: str, items: Any, count: int) -> Tensor:
    stated: Any = getattr(items, "targets", None)
    listed = isinstance(stated, (Sequence, Tensor, np.ndarray)) and len(stated) == count
    if listed and getattr(items, "target_transform", None) is None:
        return torch.tensor([_whole(name, number, stated[number]) for number in range(count)])
    _log.info("%s has no list of 'targets', so all of its items are read for their labels", name)
    return torch.tensor([_label(name, items, number) for number in range(count)])


def _label(name: str, items: Any, number: int) -> int:
    _, label = _parted(name, number, _item(name, items, number))
    if label is None:
        raise DataError(f"item {number} of {name} has no label, but item 0 has", tip=_ITEM_TIP)
    return label


def _channels(image: Any) -> int:
    """Return the number of channels that all images of a set have, by its first one."""
    if isinstance(image, Tensor):
        return image.shape[0] if image.ndim == 3 and image.shape[0] in CHANNELS else CHANNELS[-1]
    return 1 if getattr(image, "mode", None) in _GREY_MODES else 3


def _converted(name: str, number: int, image: Any, channels: int) -> Tensor | Image.Image:
    """Return an image with the right type, and with as many channels as the first one has."""
    from PIL import Image  # noqa: PLC0415 - not needed by most commands

    if isinstance(image, Tensor):
        shape = tuple(image.shape)
        if (
            image.dtype == torch.uint8
            and len(shape) == 3
            and shape[0] == channels
            and 0 not in shape
        ):
            return image
        raise DataError(
            f"the image of item {number} of {name} is a {str(image.dtype)[6:]} tensor of shape "
            f"{shape}, not a uint8 tensor of shape ({channels}, H, W)",
            tip=_ITEM_TIP,
        )
    if not isinstance(image, Image.Image):
        raise DataError(
            f"the image of item {number} of {name} is a {type(image).__name__}", tip=_ITEM_TIP
        )
    if image.mode in _UNKNOWN_RANGES or (channels == 1 and image.mode not in _GREY_MODES):
        wanted = "grey as the first" if channels == 1 else "of 8 bits for each channel"
        raise DataError(
            f"the image of item {number} of {name} has the mode {image.mode}, and is not {wanted}",
            tip="convert all images to one mode: image.convert('RGB')",
        )
    return image.convert("L" if channels == 1 else "RGB")
