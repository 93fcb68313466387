"""The state of an interrupted training, beside its output or in the cache."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.files import replacing, require_regular
from alds_cli.checkpoint.reading import kind_of, refusals
from alds_cli.checkpoint.torch_files import read_archive
from alds_cli.checkpoint.user_cache import cache_folder
from alds_cli.checkpoint.writing import dump_torch
from alds_cli.errors import CheckpointError


def state_path(output: Path) -> Path:
    """Return the path of the training state of a run that will write `output`."""
    return output.with_name(output.name + ".training")


_MOST_DAYS = 30
"""The age at which states that nobody went on with leave the cache."""


def cached_state_path(key: str) -> Path:
    """Return the path in the cache of the state of a tuning that `key` stands for.

    Args:
        key: a digest of all that the tuning depends on.
    """
    return cache_folder() / f"tuning-v1-{key}.training"


def forget_old_states() -> None:
    """Remove states from the cache that nobody went on with for a month."""
    oldest = time.time() - 86400 * _MOST_DAYS
    with suppress(OSError):  # another process tidies up
        for path in cache_folder().glob("tuning-v*-*.training"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


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
