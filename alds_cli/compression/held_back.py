"""Images held back from those that a method sees, and networks judged on them by their answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alds_cli.calibration import draw_sample
from alds_cli.datasets import Batches, LabelledImages
from alds_cli.evaluation import all_logits, divergence
from alds_cli.network.networks import Network
from alds_cli.network.opening import settled_preprocessing
from alds_cli.options.compress_options import CompressOptions
from alds_cli.runtime.devices import pick_device

_SHARE = 0.1
"""The share of the images that judge."""

_MOST = 512
"""The most images that judge."""

_TOGETHER = 64
"""Images in a batch."""


def divided(images: LabelledImages, samples: int, seed: int) -> tuple[int, LabelledImages]:
    """Divide a draw: return how many images are left to fit to, and those that judge.

    The images to fit to are a draw of that many by the same seed.

    Args:
        images: all images; at least two are drawn.
        samples: how many are drawn, if there are so many.
        seed: of the draw.
    """
    count = min(samples, len(images))
    left = count - min(_MOST, max(1, round(_SHARE * count)))
    drawn, _ = draw_sample(len(images), count, seed)
    fitted, _ = draw_sample(len(images), left, seed)  # a part of those drawn
    return left, images.subset(drawn[torch.isin(drawn, fitted, invert=True)])


class Judge:
    """Measures how far the answers of networks are from those of the original.

    Args:
        network: the original.
        options: the device, and how to prepare images for the network.
        images: the images on which it is measured.

    Raises:
        NoLogitsError: the network does not classify images.
        DataError: the network does not take the images.
    """

    def __init__(self, network: Network, options: CompressOptions, images: LabelledImages) -> None:
        self.images = len(images)
        self._device = pick_device(options.device)
        prepared = settled_preprocessing(options.preprocessing, network)
        self._batches = Batches(images, prepared, batch_size=_TOGETHER, workers=options.workers)
        self._expected = self._answers(network.module)

    def _answers(self, module: nn.Module) -> Tensor:
        return all_logits(module, self._batches, device=self._device)

    def measured(self, module: nn.Module) -> tuple[float, float]:
        """Return the mean divergence in nats, and the agreement of the answers in per cent."""
        return divergence(self._expected, self._answers(module))
