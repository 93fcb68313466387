"""The digest of all that decides what a network computes."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_networks import digits_network
from torch import nn

from alds_cli.calibration.identity import network_digest

LIMIT = 1.0


@dataclass(slots=True)
class Slotted:
    size: int


def outside(image):
    return image.clamp(max=LIMIT)


class Parts(nn.Module):
    """A network with something of everything that decides what a forward pass computes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("mask", torch.ones(4, 1, 1), persistent=False)
        self.plain = torch.ones(1)
        self.act, self.scale, self.settings = torch.relu, 0.5, {"sizes": [1, 2]}
        self.table, self.names, self.slotted = np.ones(3), SimpleNamespace(a=1), Slotted(1)

    def forward(self, image):
        return outside(self.act(self.norm(self.conv(image)) * self.mask * self.plain) * self.scale)


def patched(change):
    network = Parts().eval()
    change(network)
    return network


class Otherwise(Parts):
    def forward(self, image):
        return super().forward(image) + 1


CHANGES = {
    "weight": lambda net: net.conv.weight.data.view(-1)[3:4].add_(1e-6),
    "bias": lambda net: net.conv.bias.data[0].add_(1e-6),
    "statistics": lambda net: net.norm.running_var[0].add_(1e-6),
    "buffer": lambda net: net.mask[0].add_(1e-6),
    "tensor": lambda net: net.plain.add_(1e-6),
    "type": lambda net: net.double(),
    "eps": lambda net: setattr(net.norm, "eps", 1e-4),
    "stride": lambda net: setattr(net.conv, "stride", (2, 2)),
    "function": lambda net: setattr(net, "act", torch.sigmoid),
    "lambda": lambda net: setattr(net, "act", lambda x: x.clamp(min=0)),
    "number": lambda net: setattr(net, "scale", 0.25),
    "setting": lambda net: net.settings["sizes"].append(3),
    "array": lambda net: net.table.__setitem__(1, 2),
    "namespace": lambda net: setattr(net.names, "a", 2),
    "a setting named like the mode": lambda net: setattr(net.names, "training", False),
    "slot": lambda net: setattr(net.slotted, "size", 2),
    "class": lambda net: setattr(net, "__class__", Otherwise),
    "hook": lambda net: net.conv.register_forward_hook(lambda *_: None),
    "module": lambda net: setattr(net, "norm", nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_all_that_a_forward_pass_uses_counts(change):
    plain = network_digest(Parts().eval())
    assert network_digest(patched(CHANGES[change])) != plain
    assert network_digest(copy.deepcopy(Parts())) == plain
    assert network_digest(Parts().train()) == plain


def test_code_that_a_forward_pass_calls_counts(monkeypatch):
    plain = network_digest(Parts())
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 2.0)
    changed = network_digest(Parts())
    assert changed != plain
    monkeypatch.setattr(sys.modules[__name__], "outside", lambda image: image.clamp(max=1))
    assert network_digest(Parts()) not in (plain, changed)


@pytest.mark.slow
def test_the_same_network_has_the_same_digest_in_another_process():
    code = (
        "import sys; sys.path.insert(0, 'tests'); "
        "from small_networks import digits_network; "
        "from alds_cli.calibration.identity import network_digest; "
        "print(network_digest(digits_network()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == network_digest(digits_network())
