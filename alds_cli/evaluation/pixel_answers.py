"""How far apart the answers of two networks are that give logits for every pixel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from alds_cli.datasets import Batch, Batches, LabelledImages, MaskedImages
from alds_cli.evaluation.measures import agreement, divergences
from alds_cli.records import Preprocessing
from alds_cli.runtime.devices import accepted, pick_device, ready
from alds_cli.tracing.logits import each_answer, pixel_logits


def segments(
    module: nn.Module,
    images: LabelledImages,
    preprocessing: Preprocessing,
    *,
    device: torch.device | None = None,
) -> bool:
    """Return whether images have masks and a network gives logits for the pixels of the first.

    To a network that gives logits for whole images, those with masks are images without labels.

    Args:
        module: the network; left as it was.
        images: the images.
        preprocessing: how an image becomes the network's input.
        device: where to compute; None means `pick_device()`.

    Raises:
        DataError: the image cannot be read, or the network does not take it.
    """
    if not isinstance(images, MaskedImages):
        return False
    first = images.subset(torch.tensor([0]))
    inputs, _ = next(iter(Batches(first, preprocessing, batch_size=1)))
    with ready(module, device or pick_device()) as run, torch.inference_mode():
        return pixel_logits(accepted(run, inputs), 1) is not None


def require_answers(
    module: nn.Module, batches: Iterable[Batch], *, device: torch.device | None = None
) -> None:
    """Make sure, on one sample, that a network gives logits.

    Args:
        module: the network; left as it was.
        batches: inputs, and labels, which are not used.
        device: where to compute; None means `pick_device()`.

    Raises:
        NoLogitsError: it gives none.
        DataError: it does not take the sample.
    """
    inputs, _ = next(iter(batches))
    with ready(module, device or pick_device()) as run, torch.inference_mode():
        each_answer(accepted(run, inputs[:1]), inputs[:1], "compared", masked=True)


def pixel_divergences(
    original: nn.Module,
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
) -> tuple[Tensor, float]:
    """Return how far the answers of a network for pixels are from those of its original.

    Both see a batch after one another, since the logits of all images would not fit into memory.
    Logits of a smaller height and width than the images' are taken as they are.

    Args:
        original: from (n, C, H, W) to logits (n, classes, h, w); left as it was.
        network: the other network, likewise.
        batches: inputs, and labels or masks, which are not used.
        device: where to compute; None means `pick_device()`.

    Returns:
        The mean over the positions of KL(original ‖ network) for every image, (n,) in nats;
        infinite where logits are not finite. And at how many of all positions both give the same
        class, in per cent.

    Raises:
        DataError: a network does not take the images, or does not give such logits.
    """
    place = device or pick_device()
    each, same, positions = [], 0.0, 0
    with ready(original, place) as first, ready(network, place) as second, torch.inference_mode():
        for inputs, _ in batches:
            wanted, found = (
                each_answer(accepted(run, inputs), inputs, "compared", masked=True)
                for run in (first, second)
            )
            for pair in zip(wanted, found, strict=True):  # one at a time, to save memory
                own, other = (logits.cpu().double() for logits in pair)  # few devices have float64
                each.append(divergences(own, other).mean())
                same += agreement(own, other) * len(own)
                positions += len(own)
    return torch.stack(each), same / positions
