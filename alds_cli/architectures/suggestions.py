"""Tips for names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from alds_cli.records import Architecture

NAMING_TIP = (
    "name the network with --arch NAME (torchvision's or a built-in one), "
    "--arch timm:NAME, or --arch package.module:factory for your own code"
)

WAYS_TIP = (
    "a name is one of torchvision's or a built-in one; timm:NAME is timm's, and "
    "package.module:factory your own code's"
)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Offer the known names closest to `name`, or every way to name a network."""
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else WAYS_TIP


def arguments_tip(architecture: Architecture) -> str | None:
    """How a constructor gets arguments, where it was given none and may lack one."""
    if architecture.arguments:
        return None
    return "constructor arguments are given as --arch-arg name=value"
