"""How good networks are on images with masks: a class for every pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import length_hint

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import IGNORED, Batch, Batches, LabelledImages, MaskedImages
from alds_cli.errors import DataError
from alds_cli.evaluation.paired import Drop
from alds_cli.evaluation.paired_masks import ClassPixels, paired_iou_drop
from alds_cli.records import (
    Comparison,
    Preprocessing,
    ProgressCallback,
    ProgressEvent,
    Segmentation,
)
from alds_cli.runtime.devices import accepted, pick_device, ready
from alds_cli.runtime.distributed import ALONE, World, gathered
from alds_cli.tracing.logits import mask_logits_of

MOST_PIXELS = 2**21
"""The most pixels in a batch, for which a network keeps far more numbers than for a label."""


def masked_batches(
    images: MaskedImages,
    preprocessing: Preprocessing,
    *,
    most: int,
    workers: int = 0,
    world: World = ALONE,
    sizes_differ: bool = False,
) -> Batches:
    """Return batches of images and masks of no more than `MOST_PIXELS` pixels.

    Args:
        images: the images.
        preprocessing: how an image becomes the network's input.
        most: the most images in a batch.
        workers: number of threads that decode image files.
        world: the processes among which every batch is divided.
        sizes_differ: whether images go one by one where the preprocessing leaves their sizes
            different.

    Raises:
        DataError: the images and the preprocessing do not go together.
    """
    fixed = preprocessing.crop is not None or preprocessing.stretch
    if sizes_differ and images.size is None and not fixed:
        most = 1
    together = most_together(images, preprocessing, most)
    return Batches(
        images, preprocessing, batch_size=together, workers=workers, masks=True, world=world
    )


def most_together(images: LabelledImages, preprocessing: Preprocessing, most: int) -> int:
    """Return how many images have no more than `MOST_PIXELS` pixels, from 1 to `most`.

    Raises:
        DataError: the images and the preprocessing do not go together.
    """
    height, width = Batches(images, preprocessing, batch_size=1).input_shape[1:]
    return min(most, max(1, MOST_PIXELS // (height * width)))


def mask_loss(logits: Tensor, masks: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy over the pixels that have a class; 0 where none has.

    Args:
        logits: (n, classes, H, W), as `tracing.logits.mask_logits_of` finds them.
        masks: int64 (n, H, W); pixels of 255 do not count.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
    """
    total = F.cross_entropy(
        logits, masks, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )
    return total / (masks != IGNORED).sum().clamp(min=1)


def check_masks(masks: Tensor, classes: int) -> None:
    """Raise if a mask has a number that is neither one of the network's `classes` nor 255.

    Raises:
        DataError: it has; the message names the number.
    """
    wrong = masks[(masks >= classes) & (masks != IGNORED)]
    if len(wrong):
        raise DataError(
            f"a mask has the class {int(wrong[0])}, outside the network's {classes} classes "
            f"(0 to {classes - 1}, and {IGNORED} for none)",
            tip="check that the data and the checkpoint belong to the same task",
        )


def answered(logits: Tensor) -> Tensor:
    """Return the class (n, H, W) of every pixel; the number of classes where there is a NaN."""
    # argmax would take NaN for the largest logit, which could be right by accident.
    return logits.argmax(dim=1).where(~logits.isnan().any(dim=1), logits.shape[1])


@dataclass(slots=True)
class PixelTally:
    """Sums over the pixels that have a class.

    Attributes:
        images: how many images were counted.
        pixels: how many of their pixels have a class.
        loss: the sum of the cross-entropies of these.
        parts: of every batch, the pixels of each image and class.
    """

    images: int = 0
    pixels: int = 0
    loss: float = 0.0
    parts: list[ClassPixels] = field(default_factory=list)

    def add(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Count a batch, and return the class of every pixel.

        Args:
            logits: (n, classes, H, W).
            masks: int64 (n, H, W) on the same device.
        """
        classes = logits.shape[1]
        check_masks(masks, classes)
        each = F.cross_entropy(logits.float(), masks, ignore_index=IGNORED, reduction="none")
        self.loss += float(each.cpu().double().sum())  # not every device supports float64
        found = answered(logits)
        counted = masks != IGNORED
        have, given, right = (
            _counts(own, counted & chosen, classes)
            for own, chosen in ((masks, True), (found, found < classes), (masks, found == masks))
        )
        self.parts.append(ClassPixels(right, have + given - right))
        self.images += len(masks)
        self.pixels += int(have.sum())
        return found

    @classmethod
    def of_all(cls, parts: Iterable[PixelTally]) -> PixelTally:
        """Return the sums over what several processes have counted, of which some may be empty."""
        total = cls()
        for part in parts:
            total.images += part.images
            total.pixels += part.pixels
            total.loss += part.loss
            total.parts += part.parts
        return total

    def each(self) -> ClassPixels:
        """Return the pixels of each class in each image, in the order of the images.

        Raises:
            DataError: no pixel has a class.
        """
        if self.pixels == 0:
            raise DataError(
                f"no pixel of the {self.images:,} images has a class: all masks are {IGNORED}",
                tip="name a set with masks in which something is marked",
            )
        return ClassPixels.joined(self.parts)

    def quality(self) -> Segmentation:
        """Return the accuracy of the pixels, the mean IoU, and the mean loss.

        The IoU of a class is over all pixels of all images; see `ClassPixels.shares`.

        Raises:
            DataError: no pixel has a class.
        """
        each = self.each()
        return Segmentation(
            pixel_accuracy=100 * int(each.right.sum()) / self.pixels,
            mean_iou=100 * each.mean,
            loss=self.loss / self.pixels,
            images=self.images,
        )


def _counts(numbers: Tensor, counted: Tensor, classes: int) -> Tensor:
    """Return how many of the pixels that count have which number, int64 (n, classes) on the CPU.

    Args:
        numbers: int64 (n, H, W), below `classes` where they count.
        counted: which of them do, bool (n, H, W).
        classes: the number of columns.
    """
    firsts = classes * torch.arange(len(numbers), device=numbers.device)
    cells = (numbers + firsts[:, None, None])[counted]
    return torch.bincount(cells.cpu(), minlength=classes * len(numbers)).view(-1, classes)


@dataclass(slots=True)
class SamePixels:
    """On how many of the pixels that have a class two networks give the same class.

    Attributes:
        parts: of every batch, those pixels in the place of a single class.
    """

    parts: list[ClassPixels] = field(default_factory=list)

    @classmethod
    def of_all(cls, parts: Iterable[SamePixels]) -> SamePixels:
        """Return the sums over what several processes have counted."""
        return cls([part for own in parts for part in own.parts])

    def add(self, one: Tensor, other: Tensor, masks: Tensor, classes: int) -> None:
        """Count a batch: the answers of two networks, the masks, and the number of classes."""
        counted = masks != IGNORED
        same = (one == other) & (one < classes) & counted
        sums = (own.flatten(1).sum(1, keepdim=True).cpu() for own in (same, counted))
        self.parts.append(ClassPixels(*sums))


@dataclass(frozen=True, slots=True)
class Counted:
    """What images with masks tell of networks, the last of several being the others' baseline.

    Attributes:
        tallies: the sums over the pixels, by the networks' names.
        same: on which pixels each agrees with the baseline, by their names.
    """

    tallies: Mapping[str, PixelTally]
    same: Mapping[str, SamePixels]

    def comparisons(self) -> dict[str, tuple[Comparison, Drop]]:
        """Return how each compares with the baseline, and the drop of mean IoU, by its name."""
        *_, baseline = (tally.each() for tally in self.tallies.values())
        return {name: self._comparison(name, baseline) for name in self.same}

    def _comparison(self, name: str, baseline: ClassPixels) -> tuple[Comparison, Drop]:
        model = self.tallies[name].each()
        found = paired_iou_drop(baseline, model)
        drop, low, high = found.with_interval
        compared = Comparison(
            images=len(model.right),
            agreement=100 * ClassPixels.joined(self.same[name].parts).mean,
            difference=0.0 - drop,
            difference_low=0.0 - high,
            difference_high=0.0 - low,
        )
        return compared, found


def measure_masks(
    modules: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[dict[str, Segmentation], Comparison | None]:
    """Return the quality of one or two networks on images with masks, and how they compare.

    Args:
        modules: one or two networks by name, the model and its baseline; see `count_masks`.
        batches: inputs and masks.
        device: where to compute; None means `pick_device()`.
        progress: called after each batch with the task "evaluate", counting batches.

    Returns:
        The quality of each; and of two the agreement, over the pixels that have a class, and the
        difference of mean IoU.

    Raises:
        DataError: as `count_masks` does, or no pixel has a class.
    """
    counted = count_masks(modules, batches, device=device, progress=progress)
    qualities = {name: tally.quality() for name, tally in counted.tallies.items()}
    compared = [comparison for comparison, _ in counted.comparisons().values()]
    return qualities, compared[0] if compared else None


def count_masks(
    modules: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> Counted:
    """Count the pixels that networks give the right class on images with masks.

    All see a batch after one another, so that every image is decoded once. The networks are left
    as they were. A pixel whose logits contain a NaN counts as wrong, and the loss becomes NaN.

    Args:
        modules: networks by name, from (n, C, H, W) to logits (n, classes, H, W); of several the
            last one is the baseline.
        batches: inputs and masks, usually `Batches(…, masks=True)`.
        device: where to compute; None means `pick_device()`.
        progress: called after each batch with the task "evaluate", counting batches.

    Raises:
        DataError: a network does not take the images or gives no logits for every pixel, or a mask
            holds another class than the network knows.
    """
    place = device or pick_device()
    tallies = {name: PixelTally() for name in modules}
    *others, last = modules
    same = {name: SamePixels() for name in others}
    classes = dict.fromkeys(modules, 0)
    with ExitStack() as stack, torch.inference_mode():
        runs = {name: stack.enter_context(ready(own, place)) for name, own in modules.items()}
        for done, (inputs, masks) in enumerate(batches, start=1):
            if not len(masks):
                continue  # others of the job have the images of this batch
            there = masks.to(place)
            found = {}
            for name, run in runs.items():
                logits = mask_logits_of(accepted(run, inputs), there.shape, "evaluated with masks")
                found[name] = tallies[name].add(logits, there)
                classes[name] = logits.shape[1]
            for name in others:
                same[name].add(found[name], found[last], there, min(classes[name], classes[last]))
            if progress is not None:
                progress(ProgressEvent("evaluate", done, length_hint(batches)))
    if isinstance(batches, Batches) and batches.world != ALONE:
        parts = gathered((tallies, same))
        tallies = {name: PixelTally.of_all(own[name] for own, _ in parts) for name in modules}
        same = {name: SamePixels.of_all(own[name] for _, own in parts) for name in others}
    return Counted(tallies, same)
