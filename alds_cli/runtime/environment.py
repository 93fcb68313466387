"""The machine and the programs that a result was made with."""

from __future__ import annotations

import platform

import numpy as np
import torch

from alds_cli._version import __version__
from alds_cli.runtime.devices import device_name


def environment() -> dict[str, str]:
    """Return the names and versions of what is computed with here."""
    found = {
        "alds": __version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "NumPy": np.__version__,
        "system": platform.platform(),
        "processor": device_name(torch.device("cpu")),
        "threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found["GPU"] = device_name(torch.device("cuda"))
    return found
