"""What makes a network faster that is only asked for answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alds_cli.forms import Positive, Term


@dataclass(frozen=True, slots=True)
class Inference:
    """Changes that leave what a network computes in evaluation mode as it is, but for rounding.

    Attributes:
        folded: normalisations, each with the convolution before it whose weights take it up.
        merged: pairs, each with how many of its first half's groups are taken as one.
        padded: pairs, each with the rank of its slices when zeros fill it up to suit vectors.
        multiplied: pairs that run as the one layer that they stand for.
        channels_last: whether the weights of two-dimensional convolutions lie channels-last.
        packed: whether they are also kept in the order in which oneDNN computes with them.
    """

    folded: Mapping[Term, Term] = field(default_factory=dict)
    merged: Mapping[Term, Positive] = field(default_factory=dict)
    padded: Mapping[Term, Positive] = field(default_factory=dict)
    multiplied: Sequence[Term] = ()
    channels_last: bool = False
    packed: bool = False


PLAIN = Inference()
"""A network as it is."""
