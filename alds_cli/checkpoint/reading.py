"""Reading model files of every kind, safely: their content decides, not their suffix."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alds_cli.checkpoint.kinds import as_file, kind_of, refusals
from alds_cli.checkpoint.safetensors_files import read_safetensors
from alds_cli.checkpoint.sharded import model_in_folder, read_index, require_listed
from alds_cli.checkpoint.torch_files import is_legacy, read_archive, read_pickle
from alds_cli.checkpoint.unwrapping import FoundState, find_state_dict
from alds_cli.checkpoint.writing import DOCUMENT_KEY, Document, parse_document
from alds_cli.errors import CheckpointError, first_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a model file holds.

    `tensors` is the state dict as found, wrapper prefixes and all. `document` is there
    for files that this tool wrote. `nbytes` is the size of the file, or of all its parts.
    """

    name: str
    tensors: dict[str, Tensor]
    document: Document | None
    nbytes: int


def read_checkpoint(
    source: str | Path, *, allow_pickle: bool = False, state_key: str | None = None
) -> Checkpoint:
    """Read a model file, a folder with one, or standard input where the source is `-`.

    Nothing in the file is run, and what reading may cost follows from the file's size: pickles
    go through an interpreter that knows tensors, NumPy arrays and plain values, and no code.

    Every tensor has memory of its own, not a part of the mapped file's: it is given back
    as soon as the tensor is, and the file may change or vanish.

    Args:
        source: the path of a file, of an index of several, or of a folder with either; a pipe
            that a shell has opened for this process may be named too.
        allow_pickle: also run pickled code. It can do anything the user can.
        state_key: the entry of a training checkpoint to use, dots for nested ones.

    Raises:
        UnsafeCheckpointError: the file holds pickled code and `allow_pickle` is False.
        CheckpointError: it cannot be read for any other reason.
    """
    with as_file(source) as (path, name):
        file = model_in_folder(path) if path.is_dir() else path
        kind = kind_of(file, name)
        if kind == "index":
            return _read_parts(file, name, allow_pickle=allow_pickle)
        nbytes = file.stat().st_size
        loaded, document = _read_file(file, name, kind, allow_pickle=allow_pickle)
    if document is not None:
        tensors, described = _open_artefact(loaded, document, name)
        return Checkpoint(name, tensors, described, nbytes)
    found = _find(loaded, name, state_key)
    if found.others and state_key is None:
        logger.warning(
            "%s: used '%s'; it also holds %s (--state-key chooses)",
            name,
            ".".join(found.trail),
            ", ".join(f"'{other}'" for other in found.others),
        )
    return Checkpoint(name, found.tensors, None, nbytes)


def _find(loaded: object, name: str, state_key: str | None = None) -> FoundState:
    """The state dict in what a file held; what is wrong with it is said of the file."""
    try:
        return find_state_dict(loaded, state_key)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error.message}", tip=error.tip) from error


def _read_file(
    path: Path, name: str, kind: str, *, allow_pickle: bool
) -> tuple[object, object | None]:
    """What one file holds, and the document in it where this tool wrote it."""
    if kind == "safetensors":
        with refusals(name):
            tensors, metadata = read_safetensors(path)
        if not tensors:
            raise CheckpointError(f"{name} holds no tensors")
        return tensors, metadata.get(DOCUMENT_KEY)
    loaded = _read_pickled(path, name, kind, allow_pickle=allow_pickle)
    if isinstance(loaded, Mapping) and DOCUMENT_KEY in loaded:
        return loaded.get("state_dict"), loaded[DOCUMENT_KEY]
    return loaded, None


def _read_parts(path: Path, name: str, *, allow_pickle: bool) -> Checkpoint:
    """All the tensors that an index lists, from the files that it names."""
    tensors: dict[str, Tensor] = {}
    nbytes = 0
    for shard, listed in read_index(path, name).items():
        part = path.parent / shard
        kind = kind_of(part, str(part))
        if kind == "index":
            raise CheckpointError(f"{part} is itself an index, not a part of a model")
        loaded, _ = _read_file(part, str(part), kind, allow_pickle=allow_pickle)
        found = _find(loaded, str(part)).tensors
        require_listed(name, str(part), listed, found)
        tensors |= {tensor: found[tensor] for tensor in listed}
        nbytes += part.stat().st_size
    return Checkpoint(name, tensors, None, nbytes)


def _read_pickled(path: Path, name: str, kind: str, *, allow_pickle: bool) -> object:
    """What a PyTorch checkpoint or a plain pickle holds."""
    try:
        with refusals(name):
            return read_archive(path) if kind == "zip" else read_pickle(path)
    except CheckpointError as error:
        if not allow_pickle:
            raise
        logger.info("%s; running the code in it, as allowed", error.message)
    return _run_pickle(path, name, plain=kind == "pickle" and not is_legacy(path))


def _run_pickle(path: Path, name: str, *, plain: bool) -> Any:
    """Load a pickle with all the code in it; every failure becomes an error."""
    try:
        # From an open file: torch goes by some suffixes and not by the content.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # old tensors' deprecations are not the user's
            if plain:
                return pickle.load(file, encoding="latin1")  # noqa: S301 - the user allowed it
            return torch.load(file, map_location="cpu", weights_only=False)
    except MemoryError:
        raise
    except Exception as error:
        # Code in the file may fail in any way it likes.
        raise CheckpointError(f"{name} cannot be read: {first_line(error)}") from error


def _open_artefact(
    tensors: object, document: object, name: str
) -> tuple[dict[str, Tensor], Document]:
    if not isinstance(document, str) or not isinstance(tensors, Mapping):
        raise CheckpointError(f"{name} calls itself an alds artefact, but is not whole")
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{name} calls itself an alds artefact, but holds other than tensors")
    return dict(tensors), parse_document(document, name)
