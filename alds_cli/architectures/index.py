"""The prepared index of known networks: reading, writing and searching it.

The file is JSON with one network per line; `build_index` makes it. Nothing here builds
a network or imports torchvision.

A network's *needed* entries are its state dict without the buffers that follow from the rest. A
*slot* is a place in a needed entry's shape that a constructor argument sets, such as the rows of
a classifier. The digest of a network is taken over its needed entries with the slots left open,
so it is the same for every number of classes.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture, ArgumentValue, Interpolation, Preprocessing

INDEX_NAME = "index.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A network in the index.

    `tensors` is the number of needed entries; `digest`, `free` and `sample` are those that
    the functions below make of them. `input_shape` is that of one sample, channels first.
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
        """Return the architecture if the needed `shapes` are this network's; None otherwise."""
        if len(shapes) != self.tensors:
            return None
        values = {argument.name: argument.read(shapes) for argument in self.free}
        if None in values.values() or digest(shapes, self.free) != self.digest:
            return None
        return self.architecture(values)

    def architecture(self, values: Mapping[str, int | None]) -> Architecture:
        """Return the architecture with these values of free arguments; None means the default."""
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
        """Return every `--arch` name in the index, sorted."""
        return sorted({entry.name for entry in self.entries})

    def matches(self, shapes: Shapes) -> list[Architecture]:
        """Return every architecture whose needed entries are exactly `shapes`."""
        found = (entry.read(shapes) for entry in self.entries)
        return [architecture for architecture in found if architecture is not None]

    def entry(self, architecture: Architecture) -> Entry | None:
        """Return the entry of `architecture`; of several, the one that fits its arguments best."""
        fitting = [
            entry
            for entry in self.entries
            if entry.name == architecture.name
            and entry.arguments.items() <= architecture.arguments.items()
        ]
        return max(fitting, key=lambda entry: len(entry.arguments), default=None)


@lru_cache(maxsize=1)
def load_index() -> Index:
    """Read the index in the package; later calls return the same object."""
    text = files("alds_cli.architectures").joinpath(INDEX_NAME).read_text(encoding="utf-8")
    return decode(text)


def encode(index: Index) -> str:
    """Return `index` as JSON with one network per line; equal indexes give equal texts."""
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
            "interpolation": preprocessing.interpolation,
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
    mean: Iterable[float],
    std: Iterable[float],
    resize: int | None,
    crop: int | None,
    interpolation: Interpolation,
) -> Preprocessing:
    return Preprocessing(tuple(mean), tuple(std), resize, crop, interpolation=interpolation)


Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a state dict's entries, by their full names."""

DERIVED_BUFFERS = frozenset(
    {
        "inv_freq",
        "num_batches_tracked",
        "position_ids",
        "relative_coords_table",
        "relative_position_index",
    }
)
"""Last parts of the names of buffers that a checkpoint may lack: a constructor fills them and
training does not change them, or inference does not use them."""

SAMPLE_SIZE = 48
"""The number of entries kept of each network to estimate how similar a checkpoint is."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An extent that an argument sets: entry `name` has `factor` × argument along `axis`."""

    name: str
    axis: int
    factor: int


@dataclass(frozen=True, slots=True)
class FreeArgument:
    """A constructor argument that can be read off the shapes, with the extents that show it."""

    name: str
    default: int
    slots: tuple[Slot, ...]

    def read(self, shapes: Shapes) -> int | None:
        """Return the argument's value in `shapes`; None if its slots do not agree on one."""
        values = {_value(slot, shapes.get(slot.name, ())) for slot in self.slots}
        return values.pop() if len(values) == 1 else None


def _value(slot: Slot, shape: tuple[int, ...]) -> int | None:
    if slot.axis >= len(shape):
        return None
    value, remainder = divmod(shape[slot.axis], slot.factor)
    return value if value > 0 and remainder == 0 else None


def is_derived(name: str) -> bool:
    """Return whether a checkpoint may lack the entry `name`."""
    return name.rpartition(".")[2] in DERIVED_BUFFERS


def needed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the shapes without the entries that a checkpoint may lack."""
    return {name: tuple(shape) for name, shape in shapes.items() if not is_derived(name)}


def digest(shapes: Shapes, free: Iterable[FreeArgument]) -> str:
    """Hash the needed `shapes` in any order, with the slots of `free` left open.

    Returns:
        128 bits in hexadecimal.
    """
    extents = {name: [str(extent) for extent in shape] for name, shape in shapes.items()}
    for argument in free:
        for slot in argument.slots:
            extents[slot.name][slot.axis] = f"{slot.factor}*{argument.name}"
    lines = (f"{name}:{'x'.join(extents[name])}\n" for name in sorted(extents))
    return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()


def tokens(shapes: Shapes) -> dict[str, str]:
    """Map 32 bits of the hash of each name to 16 bits of its shape's, both in hexadecimal."""
    return {_hash(name, 4): _hash("x".join(map(str, shape)), 2) for name, shape in shapes.items()}


def sample(shapes: Shapes, free: Iterable[FreeArgument]) -> dict[str, str]:
    """Choose at most `SAMPLE_SIZE` tokens of needed `shapes`, without entries that have slots.

    The names with the smallest hashes are chosen. The choice is therefore even, and the
    same for networks that share their names: the bottom-k sketch of Broder, "On the
    resemblance and containment of documents", 1997.
    """
    open_names = {slot.name for argument in free for slot in argument.slots}
    closed = {name: shape for name, shape in shapes.items() if name not in open_names}
    return dict(sorted(tokens(closed).items())[:SAMPLE_SIZE])


def _hash(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Differences:
    """The differences between a checkpoint and a network; each text names an entry."""

    missing: Sequence[str]
    unexpected: Sequence[str]
    reshaped: Sequence[str]

    def __bool__(self) -> bool:
        """Return whether there is any difference."""
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        """Count the differences, and list the first few of each kind."""
        sorts = (
            ("missing from the checkpoint", self.missing),
            ("not in the network", self.unexpected),
            ("of another shape", self.reshaped),
        )
        return "; ".join(_summary(title, texts) for title, texts in sorts if texts)


def _summary(title: str, texts: Sequence[str]) -> str:
    more = ", …" if len(texts) > _SHOWN else ""
    return f"{len(texts)} {title}: {', '.join(texts[:_SHOWN])}{more}"


def compare(expected: Shapes, given: Shapes) -> Differences:
    """List how the entries `given` in a checkpoint differ from those `expected`.

    Buffers that a checkpoint may lack (`num_batches_tracked`, relative positions) are
    not missed; if they are present, their shapes must be right.
    """
    return Differences(
        missing=[name for name in expected if name not in given and not is_derived(name)],
        unexpected=[name for name in given if name not in expected],
        reshaped=list(reshaped(expected, given)),
    )


def reshaped(expected: Shapes, given: Shapes) -> Iterator[str]:
    """Yield a description of every entry whose shape is not the expected one."""
    for name, shape in expected.items():
        if name in given and tuple(given[name]) != tuple(shape):
            yield f"{name} is {_text(given[name])}, not {_text(shape)}"


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def require_match(architecture: Architecture, expected: Shapes, given: Shapes) -> None:
    """Make sure by the names and shapes of all entries that a checkpoint belongs to a network.

    Buffers that a checkpoint may lack (`is_derived`) are not required, so the checkpoint's
    tensors must be loaded into a network that was built with values.

    Args:
        architecture: the network's architecture, for the message.
        expected: names and shapes of the network's state dict.
        given: names and shapes of the checkpoint.

    Raises:
        ArchitectureError: they differ; it lists missing, unexpected and differently shaped
            entries. If the checkpoint is another known network, the tip names it.
    """
    differences = compare(expected, given)
    if differences:
        raise ArchitectureError(
            f"the checkpoint does not belong to {architecture}:\n{differences}",
            tip=_tip(architecture, given),
        )


def _tip(architecture: Architecture, given: Shapes) -> str | None:
    found = [each for each in load_index().matches(needed(given)) if each != architecture]
    return f"it fits {' or '.join(command_line(each) for each in found)}" if found else None


def command_line(architecture: Architecture) -> str:
    """Write an architecture as the options that name it."""
    listed = "".join(f" --arch-arg {key}={value}" for key, value in architecture.arguments.items())
    return f"--arch {architecture.name}{listed}"


NAMING_TIP = (
    "name the network with --arch NAME (torchvision's or a built-in one), "
    "--arch timm:NAME, or --arch package.module:factory for your own code"
)

WAYS_TIP = (
    "a name is one of torchvision's or a built-in one; timm:NAME is timm's, and "
    "package.module:factory your own code's"
)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Offer the known names closest to `name`, or every way to name a network."""
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else WAYS_TIP


def arguments_tip(architecture: Architecture) -> str | None:
    """Return a tip on how to pass arguments if the constructor was given none."""
    if architecture.arguments:
        return None
    return "constructor arguments are given as --arch-arg name=value"
