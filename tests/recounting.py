"""Multiply-accumulates of a real forward pass, by PyTorch's own counter."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def recounted_macs(network, sample):
    """Count all MACs of one call, without fused kernels of attention, which count as none."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
        ):
            network(sample)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    macs, odd = divmod(counter.get_total_flops(), 2)
    assert not odd
    return macs
