"""Images held back from those that a method sees, and networks judged on them by their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from alds_cli.datasets import LabelledImages, Samples, batched, drawn_apart
from alds_cli.evaluation import (
    agreement,
    all_logits,
    divergences,
    most_together,
    pixel_divergences,
    require_answers,
    segments,
)
from alds_cli.network.networks import Network
from alds_cli.network.opening import preparation_of
from alds_cli.options.compress_options import CompressOptions
from alds_cli.runtime.devices import pick_device

_SHARE = 0.1
"""The share of the images that judge."""

_MOST = 512
"""The most images that judge."""

_TOGETHER = 64
"""Images in a batch."""


def divided(images: Samples, samples: int, seed: int) -> tuple[int, Samples]:
    """Divide a draw: return how many images are left to fit to, and those that judge.

    The images to fit to are a draw of that many by the same seed.

    Args:
        images: all images; at least two are drawn.
        samples: how many are drawn, if there are so many.
        seed: of the draw.
    """
    count = min(samples, len(images))
    left = count - min(_MOST, max(1, round(_SHARE * count)))
    _, judging = drawn_apart(len(images), (left, count - left), seed)
    return left, images.subset(judging)


def without_logits(advice: str, *, texts: bool) -> str:
    """Return a tip for networks that give no logits: advice, and what else images may have."""
    return advice if texts else f"{advice}; or name images with masks for a network that segments"


@dataclass(frozen=True, slots=True)
class Judged:
    """How far the answers of a network are from those of the original.

    Attributes:
        each: KL(original ‖ network) on every image in nats, (n,); of a network that segments, the
            mean over the pixels.
        agreement: on how many images, or at how many pixels, both give the same class, in per cent.
    """

    each: Tensor
    agreement: float

    @property
    def divergence(self) -> float:
        """The mean over the images in nats."""
        return float(self.each.mean())


def chosen(found: Sequence[Judged]) -> int:
    """Return the index of the first network that is about as good as the best one.

    That is the first whose mean divergence is above the least one by no more than a standard error
    of the difference, which few images cannot tell from none. Networks are listed as they are
    expected to rank; a difference that may be chance does not overrule that.

    Source: the rule of one standard error, Breiman et al., Classification and Regression Trees,
    1984, Sec. 3.4.3, on paired differences.
    """
    best = min(found, key=lambda own: own.divergence)
    for index, own in enumerate(found):
        if own is best:
            return index
        differences = own.each - best.each
        count = len(differences)
        error = float(differences.std()) / count**0.5 if count > 1 else 0.0
        if float(differences.mean()) <= error:
            return index
    raise AssertionError("the best one is among them")


class Judge:
    """Measures how far the answers of networks are from those of the original.

    Those of a network that segments are compared pixel by pixel, where the images have masks, and
    those for texts token by token.

    Args:
        network: the original.
        options: the device, and how to prepare images for the network.
        images: the images or texts on which it is measured.

    Raises:
        NoLogitsError: the network gives no logits of images, of their pixels, or of texts.
        DataError: the network does not take the images.
    """

    def __init__(self, network: Network, options: CompressOptions, images: Samples) -> None:
        self.images = len(images)
        self._device = pick_device(options.device)
        prepared = preparation_of(images, options.preprocessing, network)
        self._original = network.module
        together, many = _TOGETHER, prepared is None
        if isinstance(images, LabelledImages) and prepared is not None:
            many = segments(self._original, images, prepared, device=self._device)
            together = most_together(images, prepared, _TOGETHER) if many else _TOGETHER
        self._batches = batched(images, prepared, batch_size=together, workers=options.workers)
        if many:
            require_answers(self._original, self._batches, device=self._device)
        # Answers for pixels or tokens would not fit into memory, and are found again every time.
        self._expected = None if many else self._answers(self._original)

    def _answers(self, module: nn.Module) -> Tensor:
        return all_logits(module, self._batches, device=self._device)

    def measured(self, module: nn.Module) -> Judged:
        """Measure a network on the images."""
        if self._expected is None:
            return Judged(
                *pixel_divergences(self._original, module, self._batches, device=self._device)
            )
        found = self._answers(module)
        return Judged(divergences(self._expected, found), agreement(self._expected, found))
