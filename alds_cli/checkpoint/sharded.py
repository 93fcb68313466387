"""Models that are a folder, or several files with an index, as Hugging Face writes them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from alds_cli.checkpoint.files import require_regular
from alds_cli.errors import CheckpointError

logger = logging.getLogger(__name__)

OWN_WEIGHTS = "alds.safetensors"
OWN_INDEX = "alds.safetensors.index.json"
"""The names of this tool's weights in a folder, and of the list of them if there are several."""

MODEL_NAMES = (
    OWN_WEIGHTS,
    OWN_INDEX,
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.bin.index.json",
)
"""The names of a model's file in a folder, in the order of preference."""

_MOST_INDEX = 64 << 20

_CONVERTED = (
    "transformers before version 5 converts them: CLASS.from_pretrained(FOLDER, {}=True), then "
    "save_pretrained(OTHER)"
)

_OTHER_FOLDERS = {
    ".metadata": (
        "a distributed checkpoint",
        "gather it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE",
    ),
    "data.pkl": (
        "a PyTorch checkpoint that was unpacked",
        "pack it again, with its folder: zip -0 -r model.pt FOLDER",
    ),
    "saved_model.pb": ("a TensorFlow model", None),
    "adapter_config.json": (
        "an adapter, not a network",
        "merge it into its network: peft's merge_and_unload(), then save that",
    ),
    "tf_model.h5": ("a network's weights for TensorFlow alone", _CONVERTED.format("from_tf")),
    "flax_model.msgpack": ("a network's weights for Flax alone", _CONVERTED.format("from_flax")),
}


def model_in_folder(folder: Path) -> Path:
    """Return the file in a folder that is, or lists, its model.

    Raises:
        CheckpointError: there is no such file; the message says what was looked for.
    """
    found = next((folder / name for name in MODEL_NAMES if (folder / name).exists()), None)
    if found is not None:
        return found
    for name, (what, tip) in _OTHER_FOLDERS.items():
        if (folder / name).exists():
            raise CheckpointError(f"{folder} is a folder with {what}", tip=tip)
    raise CheckpointError(
        f"{folder} is a folder without a model: it has none of {', '.join(MODEL_NAMES[2:6])}",
        tip=_otherwise_named(folder),
    )


def _otherwise_named(folder: Path) -> str:
    """Return what to do about weights that have another name than any that is looked for."""
    for usual, ending in (("model.safetensors", ".safetensors"), ("pytorch_model.bin", ".bin")):
        found = [path.name for path in folder.glob(f"*{ending}")]
        if len(found) == 1:
            return f"if the model is in {found[0]}: name that file, or call it {usual}"
    return "name the model's file"


def read_index(path: Path, name: str) -> tuple[Mapping[str, list[str]], Mapping[str, object]]:
    """Return the names of the tensors in each of the files that an index lists, and its metadata.

    Args:
        path: the path of the index.
        name: its name for messages.

    Raises:
        CheckpointError: it is damaged, or lists files that are not beside it.
    """
    require_regular(path, CheckpointError, most=_MOST_INDEX)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not a model file: it is text, but no index") from error
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(
            f"{name} is not a model file: it is JSON, but no index with a 'weight_map'"
        )
    shards: dict[str, list[str]] = {}
    for tensor, shard in placed.items():
        if not isinstance(shard, str) or not _plain_name(shard):
            raise CheckpointError(
                f"{name} lists {str(shard)!r:.80}, which is not the plain name of a file beside it"
            )
        shards.setdefault(shard, []).append(tensor)
    missing = [shard for shard in shards if not (path.parent / shard).exists()]
    if missing:
        raise CheckpointError(
            f"{name} lists {len(shards)} files, of which {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: {_some(missing)}",
            tip="fetch them into the same folder",
        )
    for shard in shards:
        require_regular(path.parent / shard, CheckpointError)
    metadata = content.get("metadata")
    return shards, metadata if isinstance(metadata, dict) else {}


def require_listed(name: str, shard: str, listed: list[str], found: Mapping[str, object]) -> None:
    """Make sure that a file holds the tensors that the index lists in it; a note tells of others.

    Raises:
        CheckpointError: some are missing.
    """
    lacking = [tensor for tensor in listed if tensor not in found]
    if lacking:
        raise CheckpointError(
            f"{shard} lacks {len(lacking)} of the {len(listed)} tensors that {name} lists in it: "
            f"{_some(lacking)}"
        )
    if further := sorted(found.keys() - set(listed)):
        logger.warning("%s: left out what %s does not list in it: %s", shard, name, _some(further))


def _plain_name(shard: str) -> bool:
    return (
        0 < len(shard) < 256
        and shard not in {".", ".."}
        and not set(shard) & set("/\\:\0")
        and shard.isprintable()
    )


def _some(names: list[str]) -> str:
    return ", ".join(name[:80] for name in names[:5]) + (", …" if len(names) > 5 else "")
