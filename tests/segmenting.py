"""A small network that segments, and images with masks of what it answers."""

from __future__ import annotations

import torch
from torch import nn

from alds_cli.datasets import PRESETS
from alds_cli.datasets.masked_images import MaskedTensors
from alds_cli.options.model_source import Source

IMAGES, SIDE, CLASSES = 24, 10, 4
PREPARED = PRESETS["half"]
SOURCE = Source(input_shape=(3, SIDE, SIDE))


class Segmenting(nn.Module):
    """A small fully convolutional network; its logits have half the height and width."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 16, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x):
        return {"out": self.head(self.body(x))}


def segmenting_network(decay=0.6):
    """A network whose weights have few strong singular values, as trained ones; 1 for random."""
    torch.manual_seed(0)
    made = Segmenting().eval()
    with torch.no_grad():
        for layer in (made.body[2], made.body[4]):
            left, values, right = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
            values *= decay ** torch.arange(len(values))
            layer.weight.copy_((left * (3 * values) @ right).view_as(layer.weight))
        # So that every class is answered.
        found = logits(made, pixels())
        made.head.weight *= 2 / found.std()
        made.head.bias -= 2 / found.std() * found.mean((0, 2, 3))
    return made


def pixels():
    generator = torch.Generator().manual_seed(1)
    rough = torch.randint(0, 256, (IMAGES, 3, 5, 5), generator=generator, dtype=torch.uint8)
    return rough.repeat_interleave(2, 2).repeat_interleave(2, 3)


def logits(module, images):
    """The logits of uint8 images (n, C, H, W), as the network gives them."""
    with torch.no_grad():
        return module.eval()((images.float() / 255 - 0.5) / 0.5)["out"]


def whole(module, images):
    """The class of every pixel of uint8 images (n, C, H, W)."""
    found = logits(module, images)
    return nn.functional.interpolate(found, (SIDE, SIDE), mode="bilinear").argmax(1)


def masks_for(module):
    """What the network answers, but for a row without a class and one of another."""
    masks = whole(module, pixels()).to(torch.uint8)
    masks[:, 0] = 255
    masks[::3, 1] = (masks[::3, 1] + 1) % CLASSES
    return masks


def masked_images(module):
    return MaskedTensors("drawn", [pixels()], [masks_for(module)])
