"""The prepared index of known networks: reading it, writing it, asking it.

The file is JSON with one network per line; `indexing` makes it. Nothing here builds
a network or imports torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

from alds_cli.architectures.signature import FreeArgument, Shapes, Slot, digest
from alds_cli.records import Architecture, ArgumentValue, Preprocessing

INDEX_NAME = "index.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One network of the index.

    `tensors` is the number of needed entries; `digest`, `free` and `sample` are what
    `signature` makes of them. `input_shape` is that of one sample, channels first.
    """

    name: str
    arguments: Mapping[str, ArgumentValue]
    tensors: int
    digest: str
    free: tuple[FreeArgument, ...]
    sample: Mapping[str, str]
    input_shape: tuple[int, ...]
    preprocessing: Preprocessing | None = None

    def read(self, shapes: Shapes) -> Architecture | None:
        """Name the architecture if needed `shapes` are this network's, else give None."""
        if len(shapes) != self.tensors:
            return None
        values = {argument.name: argument.read(shapes) for argument in self.free}
        if None in values.values() or digest(shapes, self.free) != self.digest:
            return None
        return self.architecture(values)

    def architecture(self, values: Mapping[str, int | None]) -> Architecture:
        """Name the architecture whose free arguments have these values, None for default."""
        given = {
            argument.name: value
            for argument in self.free
            if (value := values.get(argument.name)) not in (None, argument.default)
        }
        return Architecture(self.name, {**self.arguments, **given})


@dataclass(frozen=True, slots=True)
class Index:
    """All known networks, and the version of torchvision they were taken from."""

    torchvision: str
    entries: tuple[Entry, ...] = field(repr=False)

    def names(self) -> list[str]:
        """Every `--arch` name in the index, sorted."""
        return sorted({entry.name for entry in self.entries})

    def matches(self, shapes: Shapes) -> list[Architecture]:
        """Every architecture whose needed entries are exactly `shapes`."""
        found = (entry.read(shapes) for entry in self.entries)
        return [architecture for architecture in found if architecture is not None]

    def entry(self, architecture: Architecture) -> Entry | None:
        """The entry of `architecture`; of several, the one that fits its arguments best."""
        fitting = [
            entry
            for entry in self.entries
            if entry.name == architecture.name
            and entry.arguments.items() <= architecture.arguments.items()
        ]
        return max(fitting, key=lambda entry: len(entry.arguments), default=None)


@lru_cache(maxsize=1)
def load_index() -> Index:
    """Read the index that the package ships; later calls give the same object."""
    text = files("alds_cli.architectures").joinpath(INDEX_NAME).read_text(encoding="utf-8")
    return decode(text)


def encode(index: Index) -> str:
    """Write `index` as JSON, one network per line, the same text for equal indexes."""
    lines = [json.dumps(_encode_entry(entry)) for entry in index.entries]
    head = json.dumps(index.torchvision)
    return f'{{"torchvision": {head},\n"entries": [\n' + ",\n".join(lines) + "\n]}\n"


def decode(text: str) -> Index:
    """Read what `encode` wrote."""
    document = json.loads(text)
    entries = tuple(_decode_entry(entry) for entry in document["entries"])
    return Index(torchvision=document["torchvision"], entries=entries)


def _encode_entry(entry: Entry) -> dict[str, Any]:
    preprocessing = entry.preprocessing
    return {
        "name": entry.name,
        "arguments": dict(entry.arguments),
        "tensors": entry.tensors,
        "digest": entry.digest,
        "free": {
            argument.name: [
                argument.default,
                [[slot.name, slot.axis, slot.factor] for slot in argument.slots],
            ]
            for argument in entry.free
        },
        "input": list(entry.input_shape),
        "preprocessing": preprocessing
        and {
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "resize": preprocessing.resize,
            "crop": preprocessing.crop,
        },
        "sample": " ".join(name + shape for name, shape in entry.sample.items()),
    }


def _decode_entry(document: Mapping[str, Any]) -> Entry:
    preprocessing = document["preprocessing"]
    return Entry(
        name=document["name"],
        arguments=document["arguments"],
        tensors=document["tensors"],
        digest=document["digest"],
        free=tuple(
            FreeArgument(name, default, tuple(Slot(*slot) for slot in slots))
            for name, (default, slots) in document["free"].items()
        ),
        sample={token[:8]: token[8:] for token in document["sample"].split()},
        input_shape=tuple(document["input"]),
        preprocessing=preprocessing and _decode_preprocessing(**preprocessing),
    )


def _decode_preprocessing(
    mean: Iterable[float], std: Iterable[float], resize: int | None, crop: int | None
) -> Preprocessing:
    return Preprocessing(tuple(mean), tuple(std), resize, crop)
