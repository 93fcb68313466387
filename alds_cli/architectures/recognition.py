"""Which network a checkpoint belongs to, and which of its entries are that network's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

from alds_cli.architectures.building import build, current_names, renamed
from alds_cli.architectures.entry_names import (
    HOLDERS,
    Node,
    computed_tip,
    is_bookkeeping,
    is_training,
    led_back,
    patterns,
    plain_names,
    roots,
    tree_of,
    unexplained,
)
from alds_cli.architectures.index import (
    NAMING_TIP,
    Differences,
    Entry,
    Shapes,
    command_line,
    compare,
    is_derived,
    load_index,
    needed,
    reshaped,
    tokens,
)
from alds_cli.errors import AldsError, ArchitectureError
from alds_cli.records import Architecture

_MOST_PREFIXES = 200
"""The most prefixes of a file's names that are tried in search of a tip."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The assignment of a checkpoint's entries to a network's.

    `names` maps each of the network's entries to the checkpoint's. `left_out` are entries of no
    layer; `prefix` is what precedes all names, that is wrappers or a holder; `rivals` are other
    prefixes under which the whole network is found as well.
    """

    names: Mapping[str, str]
    left_out: Sequence[str]
    prefix: str
    rivals: Sequence[str]


def resolve(
    architecture: Architecture,
    expected: Shapes,
    tensors: Mapping[str, Tensor],
    *,
    twins: Sequence[Sequence[str]] = (),
    spared: Collection[str] = (),
) -> Resolution:
    """Find a network's entries in a checkpoint, by names and shapes.

    Components of wrappers are removed wherever they occur in a name and the network has no such
    component, and the network may be below one of the names by which training scripts hold it.
    Every entry that it needs must be there, though one of several names of a shared tensor is
    enough. Entries that are left over must be explained, as `unexplained` describes, or be
    another copy of the network.

    Args:
        architecture: the network's architecture.
        expected: names and shapes of the network's state dict.
        tensors: the checkpoint's entries.
        twins: groups of the network's names that stand for one tensor each.
        spared: entries of the checkpoint that need no explanation.

    Raises:
        ArchitectureError: the checkpoint does not belong to the network; it lists missing,
            unexpected and differently shaped entries, with a tip if one can help.
    """
    places = list(_places(architecture, expected, tensors, twins))
    whole = [place for place in places if not (place.missing or place.reshaped)]
    best = whole[0] if whole else max(places, key=lambda place: place.matching)
    others = [place for place in places if place.copies(best, len(needed(expected)))]
    used = set(best.names.values()).union(spared, *(place.names.values() for place in others))
    left = {name: tensor for name, tensor in tensors.items() if name not in used}
    doubtful = unexplained(left, best.relative, {name.partition(".")[0] for name in expected})
    chosen = frozenset(spared)
    differences = Differences(best.missing, doubtful, best.reshaped)
    if differences:
        raise ArchitectureError(
            f"the checkpoint does not belong to {architecture}: {differences}",
            tip=_tip(architecture, expected, tensors, best, differences),
        )
    rivals = [
        place.prefix
        for place in others
        if place in whole and not chosen.issuperset(place.names.values())
    ]
    return Resolution(best.names, tuple(left), best.prefix, rivals)


@dataclass(frozen=True, slots=True)
class _Place:
    """The network as found below one place in the checkpoint's tree of names.

    `relative` maps names below that place to the names relative to it.
    """

    trail: tuple[str, ...]
    names: Mapping[str, str]
    relative: Mapping[str, str]
    missing: list[str]
    reshaped: list[str]

    @property
    def prefix(self) -> str:
        return "".join(f"{part}." for part in self.trail)

    @property
    def matching(self) -> int:
        """The number of entries that fit."""
        return len(self.names) - len(self.reshaped)

    def copies(self, best: _Place, size: int) -> bool:
        """Return whether this is another copy of at least most of the network, held elsewhere."""
        return (
            bool(self.trail)
            and not self.reshaped
            and 2 * len(self.names) >= size
            and set(self.names.values()).isdisjoint(best.names.values())
        )


def _places(
    architecture: Architecture,
    expected: Shapes,
    tensors: Mapping[str, Tensor],
    twins: Sequence[Sequence[str]],
) -> Iterator[_Place]:
    tree = tree_of(current_names(architecture, tensors))
    owns = list(_own_roots(tree_of({name: name for name in expected})))
    together = {name: group for group in twins for name in group}
    for trail, root in roots(tree):
        names = max((led_back(root, network_root) for network_root in owns), key=len)
        yield _Place(
            trail,
            names,
            {name: relative for relative, name in plain_names(root)},
            [
                name
                for name in expected
                if not is_derived(name) and names.keys().isdisjoint(together.get(name, (name,)))
            ],
            list(
                reshaped(expected, {key: tuple(tensors[name].shape) for key, name in names.items()})
            ),
        )


def _own_roots(tree: Node) -> Iterator[Node]:
    """Yield the nodes where the network's names may begin: at the top, or below its sole holder."""
    yield tree
    while len(tree.children) == 1 and tree.name is None:
        ((key, tree),) = tree.children.items()
        if key not in HOLDERS:
            return
        yield tree


def _tip(
    architecture: Architecture,
    expected: Shapes,
    tensors: Mapping[str, Tensor],
    best: _Place,
    differences: Differences,
) -> str | None:
    """Return a tip for an architecture that was named or is certain; None if there is none."""
    shapes = {relative: tuple(tensors[name].shape) for name, relative in best.relative.items()}
    found = [each for each in load_index().matches(needed(shapes)) if each != architecture]
    if found:
        return f"it fits {' or '.join(command_line(each) for each in found)}"
    if not (differences.missing or differences.reshaped):
        listed = " ".join(f"--ignore '{each}'" for each in patterns(differences.unexpected)[:4])
        return f"if the network does without them: {listed}"
    if differences.missing and (tip := computed_tip(tensors)):
        return tip
    if prefix := _better_prefix(expected, tensors, best):
        return f"more names fit with --strip-prefix {prefix}"
    if differences.reshaped and not differences.missing and not architecture.arguments:
        return "give the constructor the arguments of the training: --arch-arg KEY=VALUE"
    return None


def _better_prefix(expected: Shapes, tensors: Mapping[str, Tensor], best: _Place) -> str | None:
    """Return a prefix, not of a known wrapper, below which most of the network is found."""
    network_tree = tree_of({name: name for name in expected})
    level: list[tuple[tuple[str, ...], Node]] = [((), tree_of({name: name for name in tensors}))]
    found: tuple[int, str] | None = None
    tried = 0
    while level and tried < _MOST_PREFIXES:
        level = [
            ((*trail, key), child) for trail, node in level for key, child in node.children.items()
        ]
        for trail, node in level[: _MOST_PREFIXES - tried]:
            tried += 1
            matching = sum(
                tuple(tensors[name].shape) == tuple(expected[own_name])
                for own_name, name in led_back(node, network_tree).items()
            )
            if matching > max(best.matching, len(expected) // 2, found[0] if found else 0):
                found = matching, ".".join(trail)
    return found[1] if found else None


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
    raise ArchitectureError(_unknown(entries), tip=computed_tip(entries) or NAMING_TIP)


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
        raise ArchitectureError(_unknown(ways[0]), tip=computed_tip(tensors) or NAMING_TIP)
    _, entries = min(ranked, key=lambda each: each[0])
    candidate = _nearest(entries)[0]
    if candidate.matching >= _NEAR:
        architecture = candidate.architecture(entries)
        with suppress(AldsError):
            state = build(architecture, device="meta").state_dict()
            expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
            resolve(architecture, expected, tensors, spared=spared)
            return architecture
    raise ArchitectureError(_unknown(entries), tip=computed_tip(tensors) or NAMING_TIP)


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
    nearest = ", ".join(
        f"{each.entry.architecture({})} (about {each.matching:.0%} of its tensors match in name "
        f"and shape, {each.named:.0%} in name)"
        for each in candidates
    )
    return f"{head}; the nearest are {nearest}{_first_differences(candidates[0], entries)}"


def _first_differences(candidate: _Candidate, entries: Shapes) -> str:
    """Build the nearest network on the meta device, and list the checkpoint's differences."""
    architecture = candidate.architecture(entries)
    try:
        state = build(architecture, device="meta").state_dict()
    except AldsError:  # the installed torchvision lacks it; the list before must do
        return ""
    expected = needed({name: tuple(tensor.shape) for name, tensor in state.items()})
    same = sum(entries.get(name) == shape for name, shape in expected.items())
    return (
        f"; compared with {architecture}, {same} of whose {len(expected)} tensors match: "
        f"{compare(expected, entries)}"
    )
