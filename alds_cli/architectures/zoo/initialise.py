"""How the zoo's networks start out."""

from __future__ import annotations

from torch import nn


def he_normal_(network: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / fan_out), in place.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015,
    section 2.2 (backward propagation case); fan_out is out_channels · κ1 · κ2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
