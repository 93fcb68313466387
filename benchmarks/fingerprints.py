"""What `equal_bytes.py` keeps of a text, a model file or anything else."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"

VARYING = (
    (re.compile(rf"\b{_NUMBER} (?=(?:ns|µs|ms|s|min|h)\b)"), "# "),
    (re.compile(rf'("latency_ms": ){_NUMBER}'), r"\1#"),
)
"""Durations with their unit, and in JSON; `seconds` in JSON by `_SECONDS`, whatever it holds."""

_SECONDS = re.compile(rf'"seconds": ?(?:{_NUMBER}|\{{[^}}]*\}})')
_AFTER_COLON = re.compile(rf": ?{_NUMBER}")


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class Texts:
    """Texts without what honestly varies: durations, the version of alds and the folder."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder = str(folder)
        self.version = re.compile(rf'(alds(?:": ?"| )){re.escape(version)}\b')

    def normalised(self, text: str) -> str:
        """Give the text with # where something was taken out."""
        text = self.version.sub(r"\1#", text.replace(self.folder, "#"))
        text = _SECONDS.sub(lambda own: _AFTER_COLON.sub(": #", own[0]), text)
        for pattern, replacement in VARYING:
            text = pattern.sub(replacement, text)
        return text


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 of the bytes; the normalised text, of a model file that of all but the tensors.

    `tensors` gives for each tensor of a model file its type, shape and the start of the SHA-256
    of its bytes; None for anything else.
    """

    bytes: str
    text: str | None = None
    tensors: dict[str, str] | None = None

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Fingerprint:
        """Read what `stored` gave."""
        return cls(stored["sha256"], stored.get("text"), stored.get("tensors"))

    def stored(self) -> dict[str, Any]:
        """As JSON holds it, each part with its own SHA-256."""
        made: dict[str, Any] = {"sha256": self.bytes}
        if self.text is not None:
            made |= {"text_sha256": digest(self.text.encode()), "text": self.text}
        if self.tensors is not None:
            whole = digest(json.dumps(self.tensors).encode())
            made |= {"tensors_sha256": whole, "tensors": self.tensors}
        return made


def fingerprint(data: bytes, texts: Texts, name: str = "") -> Fingerprint:
    """Take the fingerprint of a file's or a stream's content.

    Args:
        data: the content.
        texts: what takes out of texts what varies.
        name: the file's, whose suffix tells safetensors from text.
    """
    if data.startswith(b"PK"):
        content: Any = torch.load(io.BytesIO(data), weights_only=True)
    elif name.endswith(".safetensors"):
        content = _safetensors_content(data)
    else:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return Fingerprint(digest(data))
        return Fingerprint(digest(data), texts.normalised(text))
    tensors: dict[str, str] = {}
    rest = _without_tensors(content, "", tensors)
    return Fingerprint(digest(data), texts.normalised(_readable(rest)), tensors)


def _safetensors_content(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    # The library gives them in no order; that of the file is one of its bytes.
    return {"metadata": head, "tensors": dict(sorted(safetensors.torch.load(data).items()))}


def _without_tensors(value: Any, name: str, found: dict[str, str]) -> Any:
    """Take the tensors out of nested containers, by the names of their places."""
    if isinstance(value, Tensor):
        plain = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        kind = f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
        found[name] = f"{kind} {digest(plain)[:16]}"
        return kind
    if isinstance(value, dict):
        return {
            str(key): _without_tensors(own, f"{name}/{key}", found) for key, own in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_without_tensors(own, f"{name}/{at}", found) for at, own in enumerate(value)]
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)  # a document, told line by line
    return value


def _readable(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, default=str)
