"""What may fall in a search for the smallest network, and how it is measured on images."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from alds_cli.calibration import draw_sample
from alds_cli.compression.session import Session
from alds_cli.datasets import Batches, LabelledImages, MaskedImages
from alds_cli.errors import OptionError
from alds_cli.evaluation import (
    answers,
    assigned,
    count_masks,
    paired_drop,
    paired_iou_drop,
    segments,
)
from alds_cli.evaluation.paired_masks import ClassPixels
from alds_cli.evaluation.segmentation import masked_batches
from alds_cli.methods import method_named
from alds_cli.network.opening import settled_preprocessing
from alds_cli.options.choices import DROP_NAMES, require_known
from alds_cli.records import Preprocessing
from alds_cli.runtime.devices import Clock, pick_device

_TOGETHER = 250
"""Images in a batch."""


def settled_measure(name: str | None, images: LabelledImages) -> str:
    """Return what may fall: what is named, or what the images tell.

    Raises:
        OptionError: there is no such measure, or not on these images.
    """
    if name is not None:
        require_known("drop-of", name, DROP_NAMES)
    masked = isinstance(images, MaskedImages)
    if masked and name == "top1":
        raise OptionError(
            f"{images.name} has masks, and no labels that top-1 could be measured by",
            tip="--drop-of miou, or agreement",
        )
    if name == "miou" and not masked:
        raise OptionError(
            f"{images.name} has no masks that mean IoU could be measured by",
            tip="store uint8 'masks' beside 'images', or name voc2012:DIR; --drop-of top1 goes "
            "with labels, agreement with neither",
        )
    if name is not None:
        return name
    return "miou" if masked else "top1" if images.labelled else "agreement"


class Measure(Protocol):
    """The fall of a network's quality on images that calibration does not see.

    Attributes:
        of: what may fall, a key of `DROP_MEASURES`.
        images: the number of images.
        clock: the time that measuring takes.
    """

    of: str
    images: int
    clock: Clock

    @property
    def before(self) -> float:
        """The quality of the original in per cent."""
        ...

    def drop(self, module: nn.Module) -> tuple[float, float, float]:
        """Return the drop in points, and the ends of its interval of 95 % confidence."""
        ...


def measure_for(session: Session) -> Measure:
    """Return the measure that a session's options ask for.

    Raises:
        OptionError: no images are left to measure on, or nothing can be measured on them.
        DataError: the images cannot be used, or not with this network.
    """
    options = session.options
    prepared = settled_preprocessing(options.preprocessing, session.network)
    images = _held_back(session)
    of = settled_measure(options.drop_of, images)
    if not isinstance(images, MaskedImages):
        return _OfImages(session, of, images, prepared)
    module, device = session.network.module, pick_device(options.device)
    if options.drop_of == "miou" or segments(module, images, prepared, device=device):
        return _OfPixels(session, of, images, prepared)
    return _OfImages(session, "agreement", images, prepared)  # to it they are without labels


class _OfImages:
    """The fall of top-1, or of the agreement with the original, image by image."""

    def __init__(
        self, session: Session, of: str, images: LabelledImages, prepared: Preprocessing
    ) -> None:
        options, module = session.options, session.network.module
        self.of, self.images, self.clock = of, len(images), Clock()
        self._device = pick_device(options.device)
        self._progress = options.progress
        with self.clock("evaluate"):
            if of == "top1":
                images, _ = assigned(images, prepared, module, None, device=self._device)
            self._batches = Batches(images, prepared, batch_size=_TOGETHER, workers=options.workers)
            found = self._answers(module)
        self._expected = images.labels if of == "top1" else found
        self._right = found == self._expected

    def _answers(self, module: nn.Module) -> Tensor:
        return answers(module, self._batches, device=self._device, progress=self._progress)

    @property
    def before(self) -> float:
        """The quality of the original in per cent."""
        return 100 * float(self._right.double().mean())

    def drop(self, module: nn.Module) -> tuple[float, float, float]:
        """Return the drop in points, and the ends of its interval of 95 % confidence."""
        with self.clock("evaluate"):
            right = self._answers(module) == self._expected
        return paired_drop(self._right, right).with_interval


class _OfPixels:
    """The fall of mean IoU, or of the agreement on the pixels that have a class."""

    def __init__(
        self, session: Session, of: str, images: MaskedImages, prepared: Preprocessing
    ) -> None:
        options = session.options
        self.of, self.images, self.clock = of, len(images), Clock()
        self._device = pick_device(options.device)
        self._progress = options.progress
        self._original = session.network.module
        self._batches = masked_batches(
            images, prepared, most=_TOGETHER, workers=options.workers, sizes_differ=True
        )
        with self.clock("evaluate"):
            self._found = self._counted(self._original)

    def _counted(self, module: nn.Module) -> ClassPixels:
        """Count what a network answers; answers to agree with are found anew, to save memory."""
        modules = {"network": module}
        if self.of == "agreement":
            modules["original"] = self._original
        counted = count_masks(modules, self._batches, device=self._device, progress=self._progress)
        if self.of == "agreement":
            return ClassPixels.joined(counted.same["network"].parts)
        return counted.tallies["network"].each()

    @property
    def before(self) -> float:
        """The quality of the original in per cent."""
        return 100 * self._found.mean

    def drop(self, module: nn.Module) -> tuple[float, float, float]:
        """Return the drop in points, and the ends of its interval of 95 % confidence."""
        with self.clock("evaluate"):
            found = self._counted(module)
        return paired_iou_drop(self._found, found).with_interval


def _held_back(session: Session) -> LabelledImages:
    """Return the images that are not drawn for the method, refitting or tuning; all where none are.

    Raises:
        OptionError: all are drawn.
    """
    options = session.options
    images = options.data
    assert isinstance(images, LabelledImages)  # noqa: S101 - they are open
    if not method_named(options.method).needs and session.untouched:
        return images
    _, left = draw_sample(len(images), options.samples, options.seed)
    if len(left) == 0:
        raise OptionError(
            f"the network is made by all {len(images):,} images, and none are left to measure the "
            "drop on",
            tip=f"--samples {max(1, len(images) // 2)}, or name more images",
        )
    return images.subset(left)
