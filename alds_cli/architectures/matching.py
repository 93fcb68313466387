"""Comparing a network's state dict with a checkpoint's, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alds_cli.architectures.index import load_index
from alds_cli.architectures.signature import Shapes, is_derived, needed
from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture

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
