"""Writing a network as a folder, in the place of the folder of `transformers` that it came from.

::

    config.json …                     the description, tokenizer and preprocessor, unchanged
    alds.safetensors                  the artefact
    alds.safetensors.index.json       instead, if the weights came in several files: where each
    alds-00001-of-00002.safetensors …     tensor is, and the artefact's document

The weights have another name than the library's, because it would take pairs for missing weights
and draw these at random.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from alds_cli.checkpoint.files import replacing, require_writable
from alds_cli.checkpoint.model_folder import CONFIGURATION, ModelFolder
from alds_cli.checkpoint.sharded import OWN_INDEX, OWN_WEIGHTS
from alds_cli.checkpoint.writing import (
    DOCUMENT_KEY,
    Document,
    dump_document,
    once,
    safetensors_size,
    write_artefact,
    write_safetensors,
)
from alds_cli.errors import OutputError

_FILES = frozenset({".pt", ".pth", ".th", ".bin", ".ckpt", ".pkl", ".tar", ".safetensors"})
"""Suffixes that are those of files, whatever the model was."""

_WEIGHTS = re.compile(r"alds(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")

_COMPANIONS = frozenset({".json", ".jinja", ".md", ".model", ".tiktoken", ".txt", ""})
"""Suffixes of the files that go along with a network: no weights, and no code."""


def names_folder(target: str | Path, *, described: bool) -> bool:
    """Return whether a result of this name is a folder.

    Args:
        target: the name; `-` is standard output.
        described: whether the network came from a folder that describes it. Then a name is a
            folder unless it has the suffix of a model's file.
    """
    if str(target) == "-":
        return False
    path = Path(target)
    return str(target).endswith("/") or path.is_dir() or (described and path.suffix not in _FILES)


def require_replaceable(folder: Path) -> None:
    """Make sure, before the work starts, that a folder can be written, and nothing is lost by it.

    Raises:
        OutputError: there is something else of that name than a folder that this tool wrote or an
            empty one, or the folder around it is missing or not writable.
    """
    if folder.is_dir() and any(folder.iterdir()) and not _is_own(folder):
        raise OutputError(
            f"cannot write {folder}: it is a folder that holds other things",
            tip="name a file in it, or a folder that does not exist",
        )
    require_writable(folder.parent / f"{folder.name}.partial")


def _is_own(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (OWN_WEIGHTS, OWN_INDEX))


def write_folder(
    tensors: Mapping[str, Tensor], document: Document, target: Path, origin: ModelFolder | None
) -> int:
    """Write a network as a folder, which appears complete or not at all.

    A folder that this tool wrote before is replaced; what else is in it stays.

    Args:
        tensors: the network's state dict.
        document: everything else that the network needs in order to run.
        target: the folder.
        origin: the folder that the network came from, whose descriptions go along; without it,
            the configuration is that of the document.

    Returns:
        The number of bytes of the weights' files.

    Raises:
        OutputError: it cannot be written; what was there before stays as it was.
    """
    require_replaceable(target)
    with _appearing(target) as folder:
        _write_companions(folder, document, origin)
        parts = _parts(tensors, document, origin)
        if len(parts) == 1:
            return write_artefact(tensors, document, folder / OWN_WEIGHTS)
        return _write_parts(folder, parts, document)


def folder_size(
    tensors: Mapping[str, Tensor], document: Document, origin: ModelFolder | None
) -> int:
    """Return the number that `write_folder` would return; tensors on the meta device suffice."""
    parts = _parts(tensors, document, origin)
    if len(parts) == 1:
        return safetensors_size(parts[0], {DOCUMENT_KEY: dump_document(document)})
    return sum(safetensors_size(part) for part in parts)


def _parts(
    tensors: Mapping[str, Tensor], document: Document, origin: ModelFolder | None
) -> list[dict[str, Tensor]]:
    """Divide the tensors into files no larger than those of the original, if it had several."""
    most = None if origin is None else origin.largest_part
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in once(tensors, document).items():
        if most is not None and parts[-1] and size + tensor.nbytes > most:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts


def _write_parts(folder: Path, parts: list[dict[str, Tensor]], document: Document) -> int:
    placed: dict[str, str] = {}
    written = total = 0
    for number, part in enumerate(parts, start=1):
        path = folder / f"alds-{number:05d}-of-{len(parts):05d}.safetensors"
        with replacing(path) as temporary:
            write_safetensors(part, temporary)
            written += temporary.stat().st_size
        placed |= dict.fromkeys(part, path.name)
        total += sum(tensor.nbytes for tensor in part.values())
    described = {"total_size": total, DOCUMENT_KEY: dump_document(document)}
    index = {"metadata": described, "weight_map": placed}
    with replacing(folder / OWN_INDEX) as temporary:
        temporary.write_text(json.dumps(index, sort_keys=True, indent=2))
    return written


def _write_companions(folder: Path, document: Document, origin: ModelFolder | None) -> None:
    if origin is None:
        text = document.architecture.arguments["config"]
        with replacing(folder / CONFIGURATION) as temporary:
            temporary.write_text(json.dumps(json.loads(str(text)), indent=2, sort_keys=True))
        return
    for path in sorted(origin.path.iterdir()):
        if path.is_file() and path.suffix in _COMPANIONS and not _lists_weights(path):
            with replacing(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)


def _lists_weights(path: Path) -> bool:
    return path.name.endswith(".index.json") or path.name.startswith(".")


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of `target` if the block ends without error.

    Raises:
        OutputError: it cannot be written or put there.
    """
    target = target.resolve()
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{target.name[:48]}.", dir=target.parent))
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        folder = made / "new"
        folder.mkdir()  # with the mode of the user's umask
        yield folder
        if target.is_dir():
            _keep_others(target, folder)
        _exchange(folder, target, made / "old")
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _keep_others(former: Path, folder: Path) -> None:
    """Copy what is in the former folder beside the weights, and not in the new one."""
    for path in former.iterdir():
        copied = folder / path.name
        if copied.exists() or _WEIGHTS.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.copytree(path, copied, symlinks=True)
        else:
            shutil.copy2(path, copied, follow_symlinks=False)


def _exchange(folder: Path, target: Path, former: Path) -> None:
    """Rename a folder to `target`; what was there becomes `former`, and returns if that fails."""
    if not target.is_dir():
        folder.rename(target)
        return
    target.rename(former)
    try:
        folder.rename(target)
    except OSError:
        with suppress(OSError):
            former.rename(target)
        raise
