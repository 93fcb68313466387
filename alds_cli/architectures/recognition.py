"""From the names and shapes of a state dict to the network it belongs to."""

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

    Looks it up in the package's index; nothing is built. Only entries that a checkpoint
    must have are compared: `num_batches_tracked` and buffers of relative positions may
    be there or not. Arguments are given only where they differ from the builder's
    defaults. Names of torchvision's older files count as what they are called today
    (`current_names`).

    The index holds torchvision's and the built-in networks, so where another library's
    network has the very same entries (as many of timm's ResNets have), the answer is
    torchvision's: name timm's with `--arch timm:NAME` where its computation differs.

    Args:
        shapes: entry names, without any wrapper's prefix, to shapes.

    Raises:
        ArchitectureError: no known network fits, and the message lists the nearest with
            what differs; or several do, and the message lists them.
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
    """Find the network of a checkpoint whose names may have wrappers, and entries of no layer.

    The index is asked for the exact names and shapes without wrappers and without what says
    of itself that it is none of weights. Where it knows none, the nearest network is built, on
    the meta device, and taken if the checkpoint resolves to it, entry by entry.

    Args:
        tensors: the checkpoint's entries under the names they have there.
        spared: those of them that need not belong to the network.

    Raises:
        ArchitectureError: as `recognise`.
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
    """The needed entries below a place in the checkpoint, under today's names."""
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
    """How near an entry of the index is.

    `matching` is the estimated fraction of its tensors that the checkpoint has with the
    same name and shape, `named` with the same name.
    """

    entry: Entry
    matching: float
    named: float

    def architecture(self, entries: Shapes) -> Architecture:
        """The network, with the arguments that the checkpoint's shapes say."""
        return self.entry.architecture({each.name: each.read(entries) for each in self.entry.free})

    def rank(self, tensors: int) -> tuple[float, str]:
        """Sort key, nearest first: what both share relative to what both have."""
        share = self.entry.tensors / (self.entry.tensors + tensors)
        # A name alone counts half: a narrower network of the same make is near, too.
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
    """Build the nearest network's skeleton and say where the checkpoint departs from it."""
    architecture = candidate.architecture(entries)
    try:
        state = build(architecture, device="meta").state_dict()
    except AldsError:  # an installed torchvision of another age; the list above stands
        return []
    expected = needed({name: tuple(tensor.shape) for name, tensor in state.items()})
    same = sum(entries.get(name) == shape for name, shape in expected.items())
    return [
        f"compared with {architecture}, {same} of whose {len(expected)} tensors match:",
        str(compare(expected, entries)),
    ]


_TRANSFORM_INPUT = frozenset({"googlenet", "inception_v3"})


def caveat(architecture: Architecture) -> str | None:
    """Warn where two networks with the same entries compute different things.

    torchvision's published weights of GoogLeNet and Inception v3 belong to networks that
    rescale their input themselves (`transform_input`), networks built without weights do
    not. `recognise` answers with the builder's default, so this is worth telling.

    Four of torchvision's detectors were published normalising with an epsilon of 0
    (`norm_eps`), and are built without weights with the usual one.

    Returns:
        One sentence with the option to change, or None where nothing is in doubt.
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
