"""Images held back from a training, and how good the network is on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alds_cli.datasets import (
    Batches,
    LabelledImages,
    MaskedImages,
    choose_augmentation,
    drawn_apart,
)
from alds_cli.errors import DataError, OptionError
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import Preprocessing
from alds_cli.retraining.held_weights import derived_seed
from alds_cli.runtime.distributed import world


@dataclass(frozen=True, slots=True)
class Judgement:
    """The mean loss on images held back, and the share of right answers in per cent."""

    loss: float
    accuracy: float


def has_labels(images: LabelledImages) -> bool:
    """Return whether images have labels or masks."""
    return images.labelled or isinstance(images, MaskedImages)


def divided(count: int, settings: RetrainSettings) -> tuple[Tensor, Tensor]:
    """Return which of `count` images judge and which are trained on, both rising.

    Raises:
        DataError: fewer than two are left to train on, or none judges though some should.
    """
    judging = round(settings.held_back * count)
    if settings.held_back > 0 and judging == 0:
        raise DataError(
            f"of {count} images, {settings.held_back:g} are none to hold back",
            tip="a larger --held-back, or more images",
        )
    if count - judging < 2:
        raise DataError(
            f"{count - judging} of {count} images are too few to train on",
            tip="a smaller --held-back, or more images",
        )
    seed = derived_seed(settings.seed, 0, "images held back")
    held, trained = drawn_apart(count, (judging, count), seed)
    return held, trained


class RunImages:
    """The images of a run: those that are trained on, in the order of each epoch, and the judges.

    Args:
        dataset: all of them.
        settings: the hyperparameters.
        preprocessing: turns them into inputs.
        judges: images that judge; None holds back as many as the settings say.
        workers: number of threads that decode image files.
        device: where the network trains.

    Raises:
        DataError: they cannot be divided, or do not fit the preprocessing.
        OptionError: images are named that judge, and others are to be held back; or none are, and
            the training is to end by them.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        settings: RetrainSettings,
        preprocessing: Preprocessing,
        judges: LabelledImages | None,
        workers: int,
        device: torch.device,
    ) -> None:
        if judges is not None and settings.held_back > 0:
            raise OptionError(
                "images are named that judge, and others are to be held back",
                tip="leave out --held-back or --validation",
            )
        if settings.cutmix > 0 and isinstance(dataset, MaskedImages):
            raise OptionError(
                "images with masks cannot be pasted into each other",
                tip="leave out --cutmix; --mixup mixes them",
            )
        if judges is None and settings.held_back == 0 and settings.patience is not None:
            raise OptionError(
                "no images judge when the training is to end",
                tip="name some by --validation, or hold some back: --held-back 0.05",
            )
        self.dataset = dataset
        self.preprocessing = preprocessing
        self._settings = settings
        self._workers = workers
        self._device = device
        self._masks = isinstance(dataset, MaskedImages)
        judging, trained = divided(len(dataset), settings)
        self._trained = dataset.subset(trained) if len(judging) else dataset
        judges = dataset.subset(judging) if len(judging) else judges
        self.judges = None if judges is None else self._in_order(judges)
        self.input_shape = self._in_order(dataset).input_shape

    @property
    def count(self) -> int:
        """The number of images that are trained on."""
        return len(self._trained)

    @property
    def full(self) -> int:
        """The number of images of a full batch that this process has."""
        size = min(self.count, self._settings.batch_size)
        return len(range(size)[world().part(size)])

    def epoch(self, epoch: int, first: int = 0) -> Batches:
        """Return the shuffled and augmented batches of an epoch, from one on; both count from 0."""
        seed = derived_seed(self._settings.seed, epoch, "images")
        return Batches(
            self._trained,
            self.preprocessing,
            batch_size=self._settings.batch_size,
            augmentation=choose_augmentation(
                self._settings.augmentation, self.preprocessing, masks=self._masks
            ),
            generator=torch.Generator().manual_seed(seed),
            merge_last=True,
            workers=self._workers,
            masks=self._masks,
            world=world(),
            first=first,
            device=self._device,
        )

    def _in_order(self, images: LabelledImages) -> Batches:
        return Batches(
            images,
            self.preprocessing,
            batch_size=self._settings.batch_size,
            workers=self._workers,
            masks=self._masks,
            world=world(),
            device=self._device,
        )
