"""The images or texts of a training, those held back, and how good the network is on these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alds_cli.datasets import (
    Batches,
    LabelledImages,
    MaskedImages,
    Samples,
    TokenBatches,
    TokenBlocks,
    choose_augmentation,
    drawn_apart,
    noun_of,
)
from alds_cli.errors import DataError, OptionError
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import Preprocessing
from alds_cli.retraining.held_weights import derived_seed
from alds_cli.runtime.distributed import world


@dataclass(frozen=True, slots=True)
class Judgement:
    """The mean loss on samples held back, and the share of right answers in per cent, if any."""

    loss: float
    accuracy: float | None


def has_labels(images: LabelledImages) -> bool:
    """Return whether images have labels or masks."""
    return images.labelled or isinstance(images, MaskedImages)


def divided(count: int, settings: RetrainSettings, noun: str = "images") -> tuple[Tensor, Tensor]:
    """Return which of `count` samples judge and which are trained on, both rising.

    Raises:
        DataError: fewer than two are left to train on, or none judges though some should.
    """
    judging = round(settings.held_back * count)
    if settings.held_back > 0 and judging == 0:
        raise DataError(
            f"of {count} {noun}, {settings.held_back:g} are none to hold back",
            tip=f"a larger --held-back, or more {noun}",
        )
    if count - judging < 2:
        raise DataError(
            f"{count - judging} of {count} {noun} are too few to train on",
            tip=f"a smaller --held-back, or more {noun}",
        )
    seed = derived_seed(settings.seed, 0, "images held back")
    held, trained = drawn_apart(count, (judging, count), seed)
    return held, trained


def require_for_texts(settings: RetrainSettings) -> None:
    """Refuse what changes or mixes images, which texts are not.

    Raises:
        OptionError: something does.
    """
    asked = {
        "--augment": settings.augmentation not in {"auto", "none"},
        "--mixup": settings.mixup > 0,
        "--cutmix": settings.cutmix > 0,
    }
    found = [name for name, is_asked in asked.items() if is_asked]
    if found:
        raise OptionError(
            f"texts are trained on as they are, and {' and '.join(found)} would change them",
            tip=f"leave out {' and '.join(found)}, which are for images, or take --recipe texts",
        )


class RunSamples:
    """The samples of a run: those that are trained on, in the order of each epoch, and the judges.

    Args:
        dataset: all of them, images or texts.
        settings: the hyperparameters.
        preprocessing: turns images into inputs; None for texts.
        judges: samples of the same kind that judge; None holds back as many as the settings say.
        workers: number of threads that decode image files.
        device: where the network trains.

    Raises:
        DataError: they cannot be divided, or do not fit the preprocessing.
        OptionError: samples are named that judge, and others are to be held back, or they are of
            another kind; or none are, and the training is to end by them; or the settings change
            images, and the samples are texts.
    """

    def __init__(
        self,
        dataset: Samples,
        settings: RetrainSettings,
        preprocessing: Preprocessing | None,
        judges: Samples | None,
        workers: int,
        device: torch.device,
    ) -> None:
        noun = noun_of(dataset)
        if isinstance(dataset, TokenBlocks):
            require_for_texts(settings)
        if judges is not None and noun_of(judges) != noun:
            raise OptionError(
                f"{noun_of(judges)} cannot judge a training on {noun}",
                tip=f"name {noun} by --validation, or hold some back: --held-back 0.05",
            )
        if judges is not None and settings.held_back > 0:
            raise OptionError(
                f"{noun} are named that judge, and others are to be held back",
                tip="leave out --held-back or --validation",
            )
        if settings.cutmix > 0 and isinstance(dataset, MaskedImages):
            raise OptionError(
                "images with masks cannot be pasted into each other",
                tip="leave out --cutmix; --mixup mixes them",
            )
        if judges is None and settings.held_back == 0 and settings.patience is not None:
            raise OptionError(
                f"no {noun} judge when the training is to end",
                tip="name some by --validation, or hold some back: --held-back 0.05",
            )
        self.dataset = dataset
        self.preprocessing = preprocessing
        self._settings = settings
        self._workers = workers
        self._device = device
        self._masks = isinstance(dataset, MaskedImages)
        judging, trained = divided(len(dataset), settings, noun)
        self.trained = dataset.subset(trained) if len(judging) else dataset
        judges = dataset.subset(judging) if len(judging) else judges
        self.judges = None if judges is None else self._in_order(judges)

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """The shape (C, H, W) of an image as the network's input; None for texts."""
        batches = self._in_order(self.dataset)
        return batches.input_shape if isinstance(batches, Batches) else None

    @property
    def full(self) -> int:
        """The number of samples of a full batch that this process has."""
        size = min(len(self.trained), self._settings.batch_size)
        return len(range(size)[world().part(size)])

    def epoch(self, epoch: int, first: int = 0) -> Batches | TokenBatches:
        """Return the shuffled and augmented batches of an epoch, from one on; both count from 0."""
        seed = derived_seed(self._settings.seed, epoch, "images")
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.trained, TokenBlocks):
            return TokenBatches(
                self.trained,
                batch_size=self._settings.batch_size,
                most_tokens=None,
                generator=generator,
                first=first,
                world=world(),
            )
        assert self.preprocessing is not None  # noqa: S101 - images come with it
        return Batches(
            self.trained,
            self.preprocessing,
            batch_size=self._settings.batch_size,
            augmentation=choose_augmentation(
                self._settings.augmentation, self.preprocessing, masks=self._masks
            ),
            generator=generator,
            merge_last=True,
            workers=self._workers,
            masks=self._masks,
            world=world(),
            first=first,
            device=self._device,
        )

    def _in_order(self, samples: Samples) -> Batches | TokenBatches:
        size = self._settings.batch_size
        if isinstance(samples, TokenBlocks):
            return TokenBatches(samples, batch_size=size, most_tokens=None, world=world())
        assert self.preprocessing is not None  # noqa: S101 - images come with it
        return Batches(
            samples,
            self.preprocessing,
            batch_size=size,
            workers=self._workers,
            masks=self._masks,
            world=world(),
            device=self._device,
        )
