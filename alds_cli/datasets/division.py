"""Random division of images: into parts of given sizes, and of a training set as in the paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from alds_cli.datasets.images import LabelledImages
from alds_cli.errors import DataError
from alds_cli.records import Division

Part = Literal["train", "calibration", "early-stopping"]

PARTS: tuple[Part, ...] = get_args(Part)
"""The parts of a training set, in the order in which they are drawn."""

_SHARE = 0.05
"""The share of the images that calibrate, and of those that tell when to stop."""

_SUFFIX = re.compile(
    rf"(?P<whole>.+)#(?P<part>{'|'.join(PARTS)})(?:,seed=(?P<seed>[0-9]{{1,18}}))?", re.DOTALL
)


def drawn_apart(count: int, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Draw disjoint parts of `count` images at random.

    Args:
        count: the number of images.
        sizes: the number of images in each part; they need not add up to all images.
        seed: of the permutation that is cut into the parts. A part does not depend on the sizes of
            those after it.

    Returns:
        The indices (size,) of each part, rising. The last parts are shorter, or empty, where the
        sizes add up to more than there are.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return [order[start:end].sort().values for start, end in pairwise(starts)]


@dataclass(frozen=True, slots=True)
class Parts:
    """The three disjoint parts of a training set, and the record by which they can be had again."""

    train: LabelledImages
    calibration: LabelledImages
    early_stopping: LabelledImages
    record: Division


def divided_parts(images: LabelledImages, seed: int = 0) -> Parts:
    """Divide a training set into parts for training, for calibration and for early stopping.

    Of n images, 5 % calibrate data-dependent compression, 5 % judge when training stops, at least
    one each, and the others train. The parts are drawn without regard to the classes. They depend
    on n and the seed alone, so that a command that trains and another that compresses agree on
    them.

    Args:
        images: all images that may be trained on; all of their bytes are read for the record.
        seed: of the draw.

    Returns:
        The parts; within each, images are in the order of the set.

    Raises:
        DataError: there are fewer than three images, or one cannot be read.

    Source: Liebenwein et al. 2021, supplement B.
    """
    chosen = {part: images.subset(_indices(images, part, seed)) for part in PARTS}
    return Parts(
        chosen["train"],
        chosen["calibration"],
        chosen["early-stopping"],
        Division(
            seed=seed,
            train=len(chosen["train"]),
            calibration=len(chosen["calibration"]),
            early_stopping=len(chosen["early-stopping"]),
            fingerprint=images.fingerprint(),
        ),
    )


def part_of(images: LabelledImages, part: Part, seed: int = 0) -> LabelledImages:
    """Return one of the parts of a training set; see `divided_parts`.

    Raises:
        DataError: there are fewer than three images.
    """
    return images.subset(_indices(images, part, seed))


def _indices(images: LabelledImages, part: Part, seed: int) -> Tensor:
    count = len(images)
    if count < len(PARTS):
        raise DataError(
            f"{images.name} has {count} image{'s' * (count != 1)}, too few for the three parts "
            "train, calibration and early-stopping",
            tip="name a set with more images, or all of its images",
        )
    few = max(1, round(_SHARE * count))
    sizes = (count - 2 * few, few, few)
    return drawn_apart(count, sizes, seed)[PARTS.index(part)]


def without_part(spec: str) -> tuple[str, Part | None, int]:
    """Split a spec such as `cifar10:DIR#calibration,seed=3` into the set, its part and the seed.

    Returns:
        The spec of the whole set, the part (None where the spec names none), and the seed.
    """
    found = _SUFFIX.fullmatch(spec)
    if found is None:
        return spec, None, 0
    (part,) = (own for own in PARTS if own == found["part"])
    return found["whole"], part, int(found["seed"] or 0)
