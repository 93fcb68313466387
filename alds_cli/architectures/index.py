"""The prepared index of known networks: reading it, writing it, asking it.

The file is JSON with one network per line; `indexing` makes it. Nothing here builds
a network or imports torchvision.
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


Shapes = Mapping[str, tuple[int, ...]]
"""The entries of a state dict: full name to shape."""

DERIVED_BUFFERS = frozenset(
    {
        "inv_freq",
        "num_batches_tracked",
        "position_ids",
        "relative_coords_table",
        "relative_position_index",
    }
)
"""Buffers, by the last part of their names, that a constructor fills and training leaves
alone, or that play no part in inference; a checkpoint may lack them."""

SAMPLE_SIZE = 48
"""Entries kept of each network to estimate how near a checkpoint is to it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Entry `name` has extent `factor` × argument along `axis`."""

    name: str
    axis: int
    factor: int


@dataclass(frozen=True, slots=True)
class FreeArgument:
    """A constructor argument that can be read off the shapes, and where it shows."""

    name: str
    default: int
    slots: tuple[Slot, ...]

    def read(self, shapes: Shapes) -> int | None:
        """Give the argument's value in `shapes`, None where its slots do not agree on one."""
        values = {_value(slot, shapes.get(slot.name, ())) for slot in self.slots}
        return values.pop() if len(values) == 1 else None


def _value(slot: Slot, shape: tuple[int, ...]) -> int | None:
    if slot.axis >= len(shape):
        return None
    value, remainder = divmod(shape[slot.axis], slot.factor)
    return value if value > 0 and remainder == 0 else None


def is_derived(name: str) -> bool:
    """Whether a checkpoint may lack the entry `name`."""
    return name.rpartition(".")[2] in DERIVED_BUFFERS


def needed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Leave out the entries that a checkpoint may lack."""
    return {name: tuple(shape) for name, shape in shapes.items() if not is_derived(name)}


def digest(shapes: Shapes, free: Iterable[FreeArgument]) -> str:
    """Hash needed `shapes` with the slots of `free` left open, whatever their order.

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
    """Hash each entry: 32 bits of its name to 16 bits of its shape, both in hexadecimal."""
    return {_hash(name, 4): _hash("x".join(map(str, shape)), 2) for name, shape in shapes.items()}


def sample(shapes: Shapes, free: Iterable[FreeArgument]) -> dict[str, str]:
    """Choose at most `SAMPLE_SIZE` tokens of needed `shapes`, none of an entry with a slot.

    The choice is by the smallest hashes of the names. It is therefore even, and the
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
    """Where a checkpoint departs from a network; each line names an entry."""

    missing: Sequence[str]
    unexpected: Sequence[str]
    reshaped: Sequence[str]

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        """Count the differences and show the first few of each sort, one sort per line."""
        sorts = (
            ("missing from the checkpoint", self.missing),
            ("not in the network", self.unexpected),
            ("of another shape", self.reshaped),
        )
        return "\n".join(_summary(title, lines) for title, lines in sorts if lines)


def _summary(title: str, lines: Sequence[str]) -> str:
    more = ", …" if len(lines) > _SHOWN else ""
    return f"  {len(lines)} {title}: {', '.join(lines[:_SHOWN])}{more}"


def compare(expected: Shapes, given: Shapes) -> Differences:
    """List how the entries `given` by a checkpoint differ from those `expected`.

    Buffers that a checkpoint may lack (`num_batches_tracked`, relative positions) are
    not missed; where they are present, their shapes must be right.
    """
    return Differences(
        missing=[name for name in expected if name not in given and not is_derived(name)],
        unexpected=[name for name in given if name not in expected],
        reshaped=list(reshaped(expected, given)),
    )


def reshaped(expected: Shapes, given: Shapes) -> Iterator[str]:
    """Say which entries have another shape than is expected."""
    for name, shape in expected.items():
        if name in given and tuple(given[name]) != tuple(shape):
            yield f"{name} is {_text(given[name])}, not {_text(shape)}"


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def require_match(architecture: Architecture, expected: Shapes, given: Shapes) -> None:
    """See that a checkpoint belongs to a network, by the names and shapes of all entries.

    Buffers that a checkpoint may lack (`signature.DERIVED_BUFFERS`) are not required, so
    the checkpoint's tensors are to be loaded over a network built with values.

    Args:
        architecture: what the network was built from, for the message.
        expected: names and shapes of the network's state dict.
        given: names and shapes of the checkpoint.

    Raises:
        ArchitectureError: they differ; lists missing, unexpected and differently shaped
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
    """How a constructor gets arguments, where it was given none and may lack one."""
    if architecture.arguments:
        return None
    return "constructor arguments are given as --arch-arg name=value"
