"""The state of an interrupted training, beside the output it will become."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alds_cli.checkpoint.atomic import replacing
from alds_cli.checkpoint.regular import require_regular
from alds_cli.checkpoint.writing import dump_torch
from alds_cli.errors import CheckpointError, first_line


def state_path(output: Path) -> Path:
    """Where the training state of a run that will write `output` is kept."""
    return output.with_name(output.name + ".training")


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as temporary:
        dump_torch(state, temporary)


def read_state(path: Path) -> object:
    """Read what `write_state` wrote; nothing in it can run code.

    Raises:
        CheckpointError: the file is damaged or something else.
    """
    require_regular(path, CheckpointError)
    try:
        return torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a training state: {first_line(error)}",
            tip="remove it to start the training anew",
        ) from error
