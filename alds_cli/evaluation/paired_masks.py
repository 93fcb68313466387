"""What so many images with masks can tell of a difference of mean IoU between two networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alds_cli.evaluation.paired import Drop


@dataclass(frozen=True, slots=True)
class ClassPixels:
    """The pixels of each class in each of n images.

    Attributes:
        right: int64 (n, classes): the pixels that have the class and were given it.
        union: int64 (n, classes): those that have it, or were given it, or both.
    """

    right: Tensor
    union: Tensor

    @classmethod
    def joined(cls, parts: Sequence[ClassPixels]) -> ClassPixels:
        """Return those of several groups of images, of which there is at least one."""
        return cls(*(torch.cat([getattr(own, name) for own in parts]) for name in cls.__slots__))

    @property
    def shares(self) -> Tensor:
        """The IoU of every class over all images, float64 (classes,); NaN where it has none.

        The IoU of a class is |A ∩ B| / |A ∪ B| over all pixels of all images, where A are the
        pixels that have the class and B those that were given it. A class that neither occurs nor
        is given has none.
        """
        return self.right.sum(0).double() / self.union.sum(0)

    @property
    def mean(self) -> float:
        """The mean IoU in [0, 1] over the classes that have one."""
        return float(self.shares.nanmean())

    def moved(self) -> Tensor:
        """Return by how much the mean IoU changes where one image is left out, (n,).

        A class that only that image shows keeps its IoU.
        """
        total = self.union.sum(0)
        seen = total > 0
        union = self.union[:, seen].double()
        beyond = self.right[:, seen] - self.shares[seen] * union
        rest = total[seen] - union
        return -(beyond / rest.clamp(min=1)).where(rest > 0, 0).mean(dim=1)


def paired_iou_drop(before: ClassPixels, after: ClassPixels) -> Drop:
    """Return by how much the mean IoU falls.

    A mean IoU is a mean of ratios of sums over images, so the variance of the difference of two on
    the same images is that of the jackknife,

        (n − 1) / n Σ_i (θ_i − θ̄)²,

    where θ_i is the difference without image i; the interval is Student's with n − 1 degrees of
    freedom. As where proportions are compared (`paired_drop`), half an observation is added to
    each of the cells in which one network is right and the other wrong: an image that one of them
    gets wholly wrong moves a mean IoU by 1 / n on average over the images, so the variance grows
    by 1 / n². A class that a single image shows adds the square of its weight in the mean, since
    nothing is known of how much its IoU varies. So the interval is not empty where the two
    networks never differ; of one image nothing can be told, and all that is possible is within it.

    Args:
        before: what the original answers.
        after: what the other network does, on the same images and masks.

    Sources: Tukey 1958, and Miller, Biometrika 1974 (the jackknife); Agresti and Min, Statistics
    in Medicine 2005 (the half observations).
    """
    drop = before.mean - after.mean
    images = len(before.right)
    if images < 2:
        return Drop(100 * drop, 100 * drop, math.inf)
    moved = before.moved() - after.moved()
    variance = float((moved - moved.mean()).square().sum()) * (images - 1) / images
    showing = _both(before.union, after.union).sum(0)
    alone, classes = int((showing == 1).sum()), int((showing > 0).sum())
    error = (variance + images**-2 + alone / classes**2) ** 0.5
    return Drop(100 * drop, 100 * drop, 100 * error, images - 1)


def _both(before: Tensor, after: Tensor) -> Tensor:
    """Return which images show which classes to a network, of which one may know more."""
    classes = max(before.shape[1], after.shape[1])
    shown = torch.zeros(len(before), classes, dtype=torch.bool)
    for union in (before, after):
        shown[:, : union.shape[1]] |= union > 0
    return shown
