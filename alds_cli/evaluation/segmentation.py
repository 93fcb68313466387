"""How good networks are on images with masks: a class for every pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import length_hint

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import IGNORED, Batch, Batches
from alds_cli.errors import DataError
from alds_cli.records import Comparison, ProgressCallback, ProgressEvent, Segmentation
from alds_cli.runtime.devices import accepted, pick_device, ready
from alds_cli.runtime.distributed import ALONE, gathered
from alds_cli.tracing.logits import mask_logits_of

MOST_PIXELS = 2**21
"""The most pixels in a batch, for which a network keeps far more numbers than for a label."""


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
        confusion: int64 (classes, classes + 1): how many pixels of a class, by row, were given
            which class, by column; the last column counts those that were given none.
    """

    images: int = 0
    loss: float = 0.0
    confusion: Tensor = field(default_factory=lambda: torch.zeros(0, 1, dtype=torch.int64))

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
        cells = masks[counted] * (classes + 1) + found[counted]
        counts = torch.bincount(cells.cpu(), minlength=classes * (classes + 1))
        if self.images == 0:
            self.confusion = torch.zeros(classes, classes + 1, dtype=torch.int64)
        self.confusion += counts.view(classes, classes + 1)
        self.images += len(masks)
        return found

    @classmethod
    def of_all(cls, parts: Iterable[PixelTally]) -> PixelTally:
        """Return the sums over what several processes have counted, of which some may be empty."""
        total = cls()
        for part in parts:
            if part.images and total.images:
                total.confusion += part.confusion
            elif part.images:
                total.confusion = part.confusion.clone()
            total.images += part.images
            total.loss += part.loss
        return total

    def quality(self) -> Segmentation:
        """Return the accuracy of the pixels, the mean IoU, and the mean loss.

        The IoU of a class is |A ∩ B| / |A ∪ B| over all pixels of all images, where A are the
        pixels that have the class and B those that were given it. A class that neither occurs nor
        is given has none, and the mean is over the others.

        Raises:
            DataError: no pixel has a class.
        """
        pixels = int(self.confusion.sum())
        if pixels == 0:
            raise DataError(
                f"no pixel of the {self.images:,} images has a class: all masks are {IGNORED}",
                tip="name a set with masks in which something is marked",
            )
        right = self.confusion.diagonal()
        given = self.confusion[:, :-1].sum(dim=0)
        union = self.confusion.sum(dim=1) + given - right
        shares = right[union > 0].double() / union[union > 0]
        return Segmentation(
            pixel_accuracy=100 * int(right.sum()) / pixels,
            mean_iou=100 * float(shares.mean()),
            loss=self.loss / pixels,
            images=self.images,
        )


@dataclass(slots=True)
class _Agreement:
    """On how many of the pixels that have a class two networks give the same class."""

    same: int = 0
    pixels: int = 0

    @classmethod
    def of_all(cls, parts: Iterable[_Agreement]) -> _Agreement:
        """Return the sums over what several processes have counted."""
        every = list(parts)
        return cls(sum(own.same for own in every), sum(own.pixels for own in every))

    def add(self, found: Mapping[str, Tensor], masks: Tensor, classes: int) -> None:
        """Count a batch: the answers of two networks, the masks, and the number of classes."""
        one, other = found.values()
        counted = masks != IGNORED
        self.same += int(((one == other) & (one < classes) & counted).sum())
        self.pixels += int(counted.sum())


def measure_masks(
    modules: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[dict[str, Segmentation], Comparison | None]:
    """Return the quality of one or two networks on images with masks, and how they compare.

    Both see a batch after one another, so that every image is decoded once. The networks are left
    as they were. A pixel whose logits contain a NaN counts as wrong, and the loss becomes NaN.

    Args:
        modules: one or two networks by name, from (n, C, H, W) to logits (n, classes, H, W).
        batches: inputs and masks, usually `Batches(…, masks=True)`.
        device: where to compute; None means `pick_device()`.
        progress: called after each batch with the task "evaluate", counting batches.

    Returns:
        The quality of each; and of two the agreement, over the pixels that have a class.

    Raises:
        DataError: a network does not take the images or gives no logits for every pixel, a mask
            holds another class than the network knows, or no pixel has a class.
    """
    place = device or pick_device()
    tallies = {name: PixelTally() for name in modules}
    agreement = _Agreement()
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
            if len(found) > 1:
                classes = min(len(tally.confusion) for tally in tallies.values())
                agreement.add(found, there, classes)
            if progress is not None:
                progress(ProgressEvent("evaluate", done, length_hint(batches)))
    if isinstance(batches, Batches) and batches.world != ALONE:
        parts = gathered((tallies, agreement))
        tallies = {name: PixelTally.of_all(own[name] for own, _ in parts) for name in modules}
        agreement = _Agreement.of_all(own for _, own in parts)
    qualities = {name: tally.quality() for name, tally in tallies.items()}
    if len(modules) < 2:
        return qualities, None
    images = next(iter(qualities.values())).images
    share = 100 * agreement.same / agreement.pixels
    return qualities, Comparison(images=images, agreement=share)
