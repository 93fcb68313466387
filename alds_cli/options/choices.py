"""The names that values of options have, each list once."""

from collections.abc import Iterable
from typing import Literal

from alds_cli.errors import OptionError

METHOD_NAMES = (
    "alds",
    "alds+",
    "auto",
    "alds-data",
    "alds-fisher",
    "alds-error",
    "svd-error",
    "alds-simple",
    "svd",
    "svd-energy",
    "l-rank",
    "messi",
    "pca",
    "balf",
    "ft",
    "pfp",
)
"""The methods; `svd-energy` is in the module `methods/svd_energy.py`, `alds+` in `alds_plus.py`."""

SOLVER_NAMES = ("exact", "knapsack", "alternating", "lagrangian")
"""The optimisers that allocate ranks."""

ERROR_NAMES = ("density", "sum", "theorem1", "published-code", "exact", "frobenius")
"""The errors that an allocation may minimise."""

ROUNDINGS = ("none", "randomised")
"""The ways in which the alternating solver gets whole ranks: it searches among whole ones alone, or
rounds real ones."""

TARGETS = ("params", "macs", "bytes", "latency")
"""The resources that a ratio can refer to."""

STATIC_TARGETS = ("params", "macs", "bytes")
"""Those of them that are counted; times differ from one step of an iteration to the next."""

DROP_NAMES = ("top1", "miou", "agreement")
"""What may fall in a search for the smallest network."""

ORIGINAL = "original"
"""The teacher that is the network to be compressed."""

ENGINES = ("local", "ray")
"""Who makes the runs of a sweep."""

FORMATS = ("table", "github")
"""The forms in which gates are reported."""

DEVICES = ("cpu", "cuda")
"""The devices that every build of PyTorch knows."""

INTERPOLATIONS = ("bilinear", "bicubic")
"""Ways to resize images."""

PREPROCESSINGS = (
    "imagenet",
    "imagenet-stats",
    "cifar10",
    "cifar100",
    "voc2012",
    "mnist",
    "half",
    "unit",
)
"""The usual ways to prepare images."""

PICTURES = ("png", "svg", "pdf")
"""The forms of pictures, which are the suffixes of their files."""

EXPORTS = ("onnx", "pt2", "ts")
"""The forms in which networks are exported, which are the suffixes of their files."""

Found = Literal["architectures", "recipes", "documents", "commands", "networks of the paper"]
"""What is listed elsewhere, and found when somebody asks for it."""


def require_known(what: str, value: str, known: Iterable[str], more: str = "") -> None:
    """Refuse a value of an option that has names for values, and not this one.

    Args:
        what: what the value is, such as `solver`.
        value: the value.
        known: the names.
        more: what else the value may be, for the tip.

    Raises:
        OptionError: it is none of the names.
    """
    names = list(known)
    if value not in names:
        tip = f"choose from {', '.join(names)}" + (f", {more}" if more else "")
        raise OptionError(f"unknown {what} '{value}'", tip=tip)
