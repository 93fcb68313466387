"""What the folder of a model says about it beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.files import require_regular
from alds_cli.errors import CheckpointError

CONFIGURATION = "config.json"
"""The file that describes the network."""

PREPROCESSOR = "preprocessor_config.json"
"""The file that says how images or sounds become its input."""

_MOST_DESCRIPTION = 4 << 20


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder, and the content of its JSON files; empty where there is no such file.

    `configuration` describes the network, `preprocessor` how its input is made. `largest_part` is
    the number of bytes of the largest file of weights, if there are several; None if there is one.
    """

    path: Path
    configuration: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    largest_part: int | None = None


def describe_folder(path: Path, model: Path) -> ModelFolder:
    """Read what a folder says about its model.

    Args:
        path: the folder.
        model: the file in it that is, or lists, the model.

    Raises:
        CheckpointError: a description cannot be read.
    """
    stem, listing, _ = model.name.partition(".index.json")
    parts = path.glob(f"*{Path(stem).suffix}") if listing else ()
    return ModelFolder(
        path,
        _description(path / CONFIGURATION),
        _description(path / PREPROCESSOR),
        max((part.stat().st_size for part in parts), default=None),
    )


def _description(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    require_regular(path, CheckpointError, most=_MOST_DESCRIPTION)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it is not an object")
    return content
