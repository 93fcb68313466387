"""The state of an interrupted training, which is kept beside its output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.files import replacing, require_regular
from alds_cli.checkpoint.reading import kind_of, refusals
from alds_cli.checkpoint.torch_files import read_archive
from alds_cli.checkpoint.writing import dump_torch
from alds_cli.errors import CheckpointError


def state_path(output: Path) -> Path:
    """Return the path of the training state of a run that will write `output`."""
    return output.with_name(output.name + ".training")


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values, completely or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as temporary:
        dump_torch(state, temporary)


def read_state(path: Path) -> object:
    """Read what `write_state` wrote; nothing in it can run code.

    Raises:
        CheckpointError: the file is damaged or is something else.
    """
    require_regular(path, CheckpointError)
    try:
        if kind_of(path, "it") == "zip":
            with refusals("it"):
                return read_archive(path)
    except CheckpointError as error:
        raise _unreadable(path, error.message) from error
    raise _unreadable(path, "it is a model file of another kind")


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a training state: {reason}", tip="remove it to start the training anew"
    )
