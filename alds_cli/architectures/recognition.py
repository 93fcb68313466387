"""Recognising the network of a state dict by its names and shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

from alds_cli.architectures import from_torchvision
from alds_cli.architectures.building import build, renamed
from alds_cli.architectures.index import (
    NAMING_TIP,
    Entry,
    Shapes,
    command_line,
    compare,
    load_index,
    needed,
    tokens,
)
from alds_cli.architectures.resolving import is_bookkeeping, is_training, resolve
from alds_cli.architectures.wrappers import (
    Node,
    plain_names,
    roots,
    tree_of,
)
from alds_cli.errors import AldsError, ArchitectureError
from alds_cli.records import Architecture

_SHOWN = 3

_NEAR = 0.9
"""The share of a network's tensors that a checkpoint must have for the network to be tried."""


def recognise(shapes: Shapes) -> Architecture:
    """Find the network, and its number of classes, from a state dict's names and shapes.

    The network is looked up in the package's index; nothing is built. Only entries that a
    checkpoint must have are compared, so `num_batches_tracked` and buffers of relative positions
    may be there or not. Arguments are stated only if they differ from the builder's defaults.
    Names in torchvision's older files count as today's names (`current_names`).

    The index holds torchvision's and the built-in networks. If another library's
    network has the very same entries, as many of timm's ResNets have, the answer is
    torchvision's; if the computation differs, name timm's with `--arch timm:NAME`.

    Args:
        shapes: the shapes by the entries' names, without prefixes of wrappers.

    Raises:
        ArchitectureError: no known network fits, and the message lists the nearest with
            the differences; or several fit, and the message lists them.
    """
    today = renamed(shapes)
    entries = needed({today[name]: shape for name, shape in shapes.items()})
    if not entries:
        raise ArchitectureError("the checkpoint holds no weights to recognise a network by")
    found = load_index().matches(entries)
    if found:
        return _only(found)
    raise ArchitectureError(_unknown(entries), tip=NAMING_TIP)


def recognise_state(tensors: Mapping[str, Tensor], spared: Collection[str] = ()) -> Architecture:
    """Find the network of a checkpoint that may have wrappers and entries of no layer.

    The index is searched for the exact names and shapes, without wrappers and without entries
    whose names say that they are not weights. If it has no match, the nearest network is built
    on the meta device, and chosen if the checkpoint resolves to it, entry by entry.

    Args:
        tensors: the checkpoint's entries under their names in the file.
        spared: the names of entries that need not belong to the network.

    Raises:
        ArchitectureError: no network fits, or several do; see `recognise`.
    """
    ways = [
        _stripped(root, tensors) for _, root in roots(tree_of({name: name for name in tensors}))
    ]
    ways = [entries for entries in ways if entries]
    if not ways:
        raise ArchitectureError("the checkpoint holds no weights to recognise a network by")
    for entries in ways:
        if found := load_index().matches(entries):
            return _only(found)
    ranked = [
        (near[0].rank(len(entries)), entries) for entries in ways if (near := _nearest(entries))
    ]
    if not ranked:
        raise ArchitectureError(_unknown(ways[0]), tip=NAMING_TIP)
    _, entries = min(ranked, key=lambda each: each[0])
    candidate = _nearest(entries)[0]
    if candidate.matching >= _NEAR:
        architecture = candidate.architecture(entries)
        with suppress(AldsError):
            state = build(architecture, device="meta").state_dict()
            expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
            resolve(architecture, expected, tensors, spared=spared)
            return architecture
    raise ArchitectureError(_unknown(entries), tip=NAMING_TIP)


def _stripped(root: Node, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the needed entries below a node of the checkpoint, under today's names."""
    shapes = {
        name: tuple(tensors[given].shape)
        for name, given in plain_names(root)
        if not is_bookkeeping(name, tensors[given]) and not is_training(name)
    }
    today = renamed(shapes)
    return needed({today[name]: shape for name, shape in shapes.items()})


def _only(found: list[Architecture]) -> Architecture:
    if len(found) == 1:
        return found[0]
    raise ArchitectureError(
        f"the checkpoint fits {len(found)} networks: {', '.join(map(str, found))}",
        tip=f"name one: {' or '.join(map(command_line, found))}",
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The similarity of a checkpoint to an entry of the index.

    `matching` is the estimated fraction of its tensors that the checkpoint has with the
    same name and shape, `named` with the same name.
    """

    entry: Entry
    matching: float
    named: float

    def architecture(self, entries: Shapes) -> Architecture:
        """Return the network with the arguments that the checkpoint's shapes imply."""
        return self.entry.architecture({each.name: each.read(entries) for each in self.entry.free})

    def rank(self, tensors: int) -> tuple[float, str]:
        """Return a sort key, nearest first: the number of common tensors relative to both sizes."""
        share = self.entry.tensors / (self.entry.tensors + tensors)
        # A name alone counts half, because a narrower network of the same family is near, too.
        return (-(self.matching + self.named) * share, self.entry.name)


def _nearest(entries: Shapes) -> list[_Candidate]:
    present = tokens(entries)
    candidates = [_candidate(entry, present) for entry in load_index().entries]
    candidates = [candidate for candidate in candidates if candidate.named > 0]
    return sorted(candidates, key=lambda each: each.rank(len(entries)))[:_SHOWN]


def _candidate(entry: Entry, present: dict[str, str]) -> _Candidate:
    named = [name for name in entry.sample if name in present]
    matching = [name for name in named if present[name] == entry.sample[name]]
    total = max(1, len(entry.sample))
    return _Candidate(entry, len(matching) / total, len(named) / total)


def _unknown(entries: Shapes) -> str:
    head = f"no known network has exactly the checkpoint's {len(entries)} tensors"
    candidates = _nearest(entries)
    if not candidates:
        return f"{head}, nor any with the same names"
    lines = [
        f"  {each.entry.architecture({})}: about {each.matching:.0%} of its tensors match "
        f"in name and shape, {each.named:.0%} in name"
        for each in candidates
    ]
    return "\n".join(
        [f"{head}; the nearest are", *lines, *_first_differences(candidates[0], entries)]
    )


def _first_differences(candidate: _Candidate, entries: Shapes) -> list[str]:
    """Build the nearest network on the meta device, and list the checkpoint's differences."""
    architecture = candidate.architecture(entries)
    try:
        state = build(architecture, device="meta").state_dict()
    except AldsError:  # the installed torchvision lacks it; the list above must do
        return []
    expected = needed({name: tuple(tensor.shape) for name, tensor in state.items()})
    same = sum(entries.get(name) == shape for name, shape in expected.items())
    return [
        f"compared with {architecture}, {same} of whose {len(expected)} tensors match:",
        str(compare(expected, entries)),
    ]


_TRANSFORM_INPUT = frozenset({"googlenet", "inception_v3"})


def caveat(architecture: Architecture) -> str | None:
    """Warn if two networks with the same entries compute different things.

    torchvision's published weights of GoogLeNet and Inception v3 belong to networks that
    rescale their input themselves (`transform_input`), while networks built without weights do
    not. `recognise` returns the builder's default, so the user is warned.

    Four of torchvision's detectors were published with an epsilon of 0 in their normalisation
    (`norm_eps`), but are built without weights with the usual one.

    Returns:
        One sentence with the option to change, or None if there is no doubt.
    """
    if architecture.name in _TRANSFORM_INPUT and "transform_input" not in architecture.arguments:
        return (
            f"{architecture.name} is taken without input rescaling; if the checkpoint stems from "
            "torchvision's published weights, add --arch-arg transform_input=true"
        )
    if (
        architecture.name in from_torchvision.OLD_NORMALISATION
        and "norm_eps" not in architecture.arguments
    ):
        return (
            f"{architecture.name} is taken with an epsilon of 1e-5 in its normalisation; if the "
            "checkpoint stems from torchvision's published weights, add --arch-arg norm_eps=0"
        )
    return None
