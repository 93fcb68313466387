"""Images of a batch mixed with each other.

Sources: Zhang et al., ICLR 2018 (mix-up); Yun et al., ICCV 2019 (CutMix).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from alds_cli.options.training_options import RetrainSettings
from alds_cli.runtime.distributed import ALONE, gathered, world


def mixture(inputs: Tensor, settings: RetrainSettings, seed: int) -> tuple[Tensor, float]:
    """Mix every image of a batch with the one before it, and the first with the last.

    Args:
        inputs: a batch (n, C, H, W).
        settings: say which kinds of mixing there are.
        seed: of what is drawn for this batch.

    Returns:
        The mixed images, and the share of each that is its own, in [0, 1].
    """
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(settings, kind) > 0]
    if not kinds:
        return inputs, 1.0
    generator = np.random.default_rng(seed)
    kind = kinds[generator.integers(len(kinds))]
    alpha = getattr(settings, kind)
    share = float(generator.beta(alpha, alpha))
    others = those_before(inputs)
    if kind == "mixup":
        return torch.lerp(others, inputs, share), share
    return _pasted(inputs, others, share, generator)


def those_before(values: Tensor) -> Tensor:
    """Return for each of (n, …) of a batch the one before it, and the last for the first.

    Of a batch that processes share, all must call this together.
    """
    here = world()
    if here == ALONE:
        return values.roll(1, 0)
    lasts = gathered(values[-1:].cpu())
    return torch.cat([lasts[here.rank - 1].to(values.device), values[:-1]])


def _pasted(
    inputs: Tensor, others: Tensor, share: float, generator: np.random.Generator
) -> tuple[Tensor, float]:
    """Paste a box of the other images, cut off at the edges, with a centre anywhere."""
    height, width = inputs.shape[2:]
    ends = []
    for extent in (height, width):
        centre, half = int(generator.integers(extent)), int(0.5 * math.sqrt(1 - share) * extent)
        ends.append(slice(max(0, centre - half), min(extent, centre + half)))
    mixed = inputs.clone()
    mixed[:, :, ends[0], ends[1]] = others[:, :, ends[0], ends[1]]
    area = math.prod(end.stop - end.start for end in ends)
    return mixed, 1 - area / (height * width)
