"""Random networks of convolutions, sums, concatenations and linear layers, pruned at random."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruned_networks import assert_same, outputs, pruned_copy, scramble, with_zero_columns
from torch import nn
from torch.nn import functional as F

from alds_cli.surgery.channels.find import find_channels

ACTIVATIONS = (F.relu, torch.sigmoid, F.gelu)


class Drawn(nn.Module):
    """A network that is put together by what `draw` says, and then fixed.

    Maps are kept in a pool; every step makes one more of some of them.
    """

    def __init__(self, draw):
        super().__init__()
        self.layers = nn.ModuleList()
        self.program = []
        widths = [3]
        for _ in range(draw(st.integers(2, 7))):
            one = draw(st.integers(0, len(widths) - 1))
            other = draw(st.integers(0, len(widths) - 1))
            kind = draw(st.sampled_from(["conv", "conv", "norm", "depthwise", "sum", "cat", "act"]))
            if kind == "sum" and widths[one] != widths[other]:
                kind = "cat"
            if kind == "cat" and widths[one] + widths[other] > 24:
                kind = "conv"
            widths.append(self._add(draw, kind, one, other, widths))
        self.head = self._head(draw, widths[-1])

    def _add(self, draw, kind, one, other, widths):
        width = widths[one]
        if kind == "conv":
            made = draw(st.integers(1, 6))
            self._layer(kind, one, nn.Conv2d(width, made, 3, padding=1, bias=draw(st.booleans())))
            return made
        if kind == "norm":
            self._layer(kind, one, nn.BatchNorm2d(width))
        elif kind == "depthwise":
            self._layer(kind, one, nn.Conv2d(width, width, 3, padding=1, groups=width))
        elif kind == "act":
            self.program.append((kind, one, draw(st.integers(0, len(ACTIVATIONS) - 1))))
        else:
            self.program.append((kind, one, other))
        return width + widths[other] if kind == "cat" else width

    def _layer(self, kind, one, layer):
        self.program.append((kind, one, len(self.layers)))
        self.layers.append(layer)

    def _head(self, draw, width):
        self.ending = draw(st.sampled_from(["flat", "view", "mean", "maps"]))
        if self.ending == "maps":
            return nn.Conv2d(width, 2, 1)
        return nn.Linear(width * (16 if self.ending in ("flat", "view") else 1), 2)

    def forward(self, x):
        pool = [x]
        for kind, one, other in self.program:
            given_map = pool[one]
            if kind in ("conv", "norm", "depthwise"):
                made = self.layers[other](given_map)
            elif kind == "act":
                made = ACTIVATIONS[other](given_map)
            elif kind == "sum":
                made = given_map + pool[other]
            else:
                made = torch.cat([given_map, pool[other]], 1)
            pool.append(made)
        x = pool[-1]
        if self.ending == "flat":
            x = x.flatten(1)
        elif self.ending == "view":
            x = x.view(x.size(0), -1)
        elif self.ending == "mean":
            x = x.mean((2, 3))
        return self.head(x)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_pruned_networks_compute_what_zeroed_ones_do(data, seed):
    network = scramble(Drawn(data.draw), seed)
    channels = find_channels(network, (3, 4, 4))
    removed = {}
    for group in channels.groups:
        count = data.draw(st.integers(0, group.size - 1), label=group.name)
        order = np.random.default_rng(seed).permutation(group.size)
        removed[group.name] = np.sort(order[:count])
    pruned = channels.without(removed)
    back = channels.removed_by(pruned)
    assert {name: own.tolist() for name, own in back.items()} == {
        name: own.tolist() for name, own in removed.items() if len(own)
    }
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = outputs(with_zero_columns(network, pruned), images)
    assert_same(outputs(pruned_copy(network, pruned), images), expected)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_filter_that_can_go_is_in_one_group(data):
    network = Drawn(data.draw)
    channels = find_channels(network, (3, 4, 4))
    seen = set()
    for group in channels.groups:
        for table in (group.outputs, group.inputs, group.features):
            for name, places in table.items():
                assert len(places) == group.size
                role = "taken" if table is group.inputs else "made"
                own = {(role, name, index) for index in places.ravel().tolist()}
                assert len(own) == places.size
                assert not own & seen
                seen |= own
    assert not any(role == "made" and name == "head" for role, name, _ in seen)
