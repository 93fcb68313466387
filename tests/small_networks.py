"""Networks that several test modules decompose."""

from __future__ import annotations

import torch

from alds_cli.architectures import build
from alds_cli.records import Architecture


def digits_network(seed=0):
    """Build the smallest network of the zoo, with random weights."""
    torch.manual_seed(seed)
    return build(Architecture("digits_cnn")).eval()
