"""Opening the texts that a data spec names, and turning them into tokens."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alds_cli.checkpoint.files import require_regular
from alds_cli.datasets.images import Split
from alds_cli.datasets.sources import opened
from alds_cli.datasets.tensor_files import expand
from alds_cli.datasets.token_blocks import Samples, TokenBlocks
from alds_cli.errors import DataError, MissingExtraError, OptionError, first_line
from alds_cli.inputs import InputSpec

STREAM, LINES, TENSORS = "text:", "lines:", "tensors:"
"""How specs of texts begin: one text cut into blocks, one for every line, and tokens as numbers."""

_TOKENIZER = "tokenizer.json"


class _Asked(Protocol):
    """Options of a command that reads texts."""

    @property
    def model(self) -> object: ...

    @property
    def tokenizer(self) -> str | Path | None: ...

    @property
    def block_length(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts become tokens.

    Attributes:
        tokenizer: a file of the `tokenizers` library; None looks beside the model.
        model: the model's file or folder, if it has one.
        context: the tokens in a block, or the most of a line; None where it is not known.
    """

    tokenizer: str | Path | None = None
    model: Path | None = None
    context: int | None = None

    @classmethod
    def of(cls, asked: _Asked, inputs: InputSpec | None) -> Reading:
        """Return how to read texts for a model.

        Args:
            asked: options that name it, and say what is to differ from what it states.
            inputs: what its network takes by its specification.
        """
        model = asked.model
        file = Path(model) if isinstance(model, str | Path) and str(model) != "-" else None
        return cls(asked.tokenizer, file, asked.block_length or context_of(inputs))


AS_FOUND = Reading()


def context_of(inputs: InputSpec | None) -> int | None:
    """Return the length of the texts that a network takes by its specification, if it takes any."""
    tensors = [] if inputs is None else list(inputs.tensors())
    texts = [own for own in tensors if own.dtype in {"int32", "int64"} and len(own.shape) == 2]
    return texts[0].shape[1] if texts else None


def is_text(data: object) -> bool:
    """Return whether data are texts: opened ones, a spec of texts, or files of tokens.

    Raises:
        DataError: a file that is named cannot be read.
    """
    if isinstance(data, TokenBlocks):
        return True
    if not isinstance(data, str):
        return False
    if data.startswith(TENSORS):
        return "#" not in data and _holds_tokens(expand(data.removeprefix(TENSORS))[0])
    return data.startswith((STREAM, LINES))


def opened_samples(
    data: str | Samples,
    reading: Reading = AS_FOUND,
    *,
    split: Split = "test",
    download: bool = False,
) -> Samples:
    """Return the given samples, or open those that a spec names.

    Args:
        data: samples; `text:FILE`, a text in UTF-8 that is cut into blocks of the context's
            length, of which a last shorter one is left out; `lines:FILE`, a text in every line
            that is not blank, with the tokenizer's special tokens, and padding behind the shorter
            ones; `tensors:FILE` with whole-number `input_ids` (N, length) and maybe an
            `attention_mask`; or a spec of images, see `open_dataset`.
        reading: how texts become tokens.
        split: which part of a published set of images to take.
        download: whether to fetch it.

    Raises:
        DataError: the data are absent, damaged or empty.
        OptionError: there is no tokenizer, or no length of blocks.
        MissingExtraError: the library of tokenizers is not installed.
    """
    if isinstance(data, TokenBlocks):
        return data
    if not is_text(data):
        return opened(data, split=split, download=download)
    spec = str(data)
    if spec.startswith(TENSORS):
        return _opened_tokens(spec, expand(spec.removeprefix(TENSORS)))
    kind, _, name = spec.partition(":")
    context, tokenizer = _context(reading), _tokenizer(reading)
    make = _stream if f"{kind}:" == STREAM else _lines
    return make(spec, _read(Path(name).expanduser()), tokenizer, context)


def _context(reading: Reading) -> int:
    if reading.context is None:
        raise OptionError(
            "how many tokens the network takes at a time is not known",
            tip="--block-length N, at most the length of its context; usual are 1024 or 2048",
        )
    return reading.context


def _read(path: Path) -> str:
    require_regular(path, DataError)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8: {error.reason} at byte {error.start}",
            tip="convert it, for example with iconv",
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error}", tip="check the path and its permissions"
        ) from error


def _tokenizer(reading: Reading) -> Any:
    """Read the tokenizer that is named, or the one beside the model.

    Raises:
        OptionError: there is none, or it cannot be read.
        MissingExtraError: the library is not installed.
    """
    path = _tokenizer_file(reading)
    try:
        library: Any = importlib.import_module("tokenizers")
    except ImportError as error:
        raise MissingExtraError("text", "transformers") from error
    try:
        tokenizer = library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise OptionError(
            f"{path} is no tokenizer: {first_line(error)}",
            tip="--tokenizer FILE, a tokenizer.json of the tokenizers library",
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _tokenizer_file(reading: Reading) -> Path:
    if reading.tokenizer is not None:
        named = Path(reading.tokenizer).expanduser()
        found = named / _TOKENIZER if named.is_dir() else named
    else:
        folder = reading.model or Path()
        found = (folder if folder.is_dir() else folder.parent) / _TOKENIZER
    if not found.is_file():
        raise OptionError(
            f"there is no tokenizer {found}",
            tip="--tokenizer FILE, a tokenizer.json of the tokenizers library",
        )
    return found


def _stream(spec: str, text: str, tokenizer: Any, context: int) -> TokenBlocks:
    """Cut one text into blocks (N, context); a text shorter than one is a block of its own."""
    found = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.int64)
    length = min(context, len(found))
    whole = len(found) // max(1, length)
    ids = found[: whole * length].view(whole, length)
    return TokenBlocks(spec, ids, vocabulary=tokenizer.get_vocab_size())


def _lines(spec: str, text: str, tokenizer: Any, context: int) -> TokenBlocks:
    """Make a text of every line that is not blank, (N, length of the longest)."""
    lines = [line for line in text.splitlines() if line.strip()]
    tokenizer.enable_truncation(context)
    encoded = [own.ids for own in tokenizer.encode_batch(lines) if own.ids]
    ids, real = _padded(encoded or [[]])
    return TokenBlocks(spec, ids, real, tokenizer.get_vocab_size())


def _padded(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return texts of any lengths as numbers (N, longest) and where these are tokens."""
    lengths = torch.tensor([len(own) for own in texts])
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(real.shape, dtype=torch.int64)
    ids[real] = torch.tensor([token for own in texts for token in own], dtype=ids.dtype)
    return ids, real


def _holds_tokens(path: Path) -> bool:
    """Return whether a safetensors file has `input_ids`; what cannot be read is told later."""
    try:
        with safe_open(path, framework="pt") as file:
            return "input_ids" in file.keys()  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return False


def _opened_tokens(spec: str, paths: Sequence[Path]) -> TokenBlocks:
    """Join the tokens of several files, which have one length."""
    parts = [_read_tokens(path) for path in paths]
    lengths = {ids.shape[1] for ids, _ in parts}
    if len(lengths) > 1:
        raise DataError(
            f"{spec} mixes texts of {' and '.join(map(str, sorted(lengths)))} tokens",
            tip="pad them to one length, and store an attention_mask",
        )
    ids, real = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return TokenBlocks(spec, ids, real)


def _read_tokens(path: Path) -> tuple[Tensor, Tensor]:
    """Return the tokens (N, length) of a file, and where they are more than padding."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            ids = file.get_tensor("input_ids") if "input_ids" in names else torch.empty(0)
            mask = file.get_tensor("attention_mask") if "attention_mask" in names else None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} is not a safetensors file: {first_line(error)}",
            tip="write it with safetensors.torch.save_file",
        ) from error
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if ids.ndim != 2 or not whole:
        raise DataError(
            f"{path}: 'input_ids' is {str(ids.dtype)[6:]} of shape {tuple(ids.shape)}, not whole "
            "numbers with two axes",
            tip="store the numbers of tokens as int64, shape (texts, length)",
        )
    if mask is not None and mask.shape != ids.shape:
        raise DataError(
            f"{path}: 'attention_mask' has the shape {tuple(mask.shape)}, not {tuple(ids.shape)}",
            tip="store 1 at every token and 0 at padding, in the shape of 'input_ids'",
        )
    real = torch.ones(ids.shape, dtype=torch.bool) if mask is None else mask != 0
    return ids.to(torch.int64), real
