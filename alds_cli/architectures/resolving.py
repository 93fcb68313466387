"""Which entry of a checkpoint stands for which of a network, and which stand for none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from alds_cli.architectures.index import load_index
from alds_cli.architectures.leftovers import patterns, unexplained
from alds_cli.architectures.legacy import current_names
from alds_cli.architectures.matching import Differences, command_line, reshaped
from alds_cli.architectures.signature import Shapes, is_derived, needed
from alds_cli.architectures.wrappers import HOLDERS, Node, led_back, plain_names, roots, tree_of
from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture

_MOST_PREFIXES = 200
"""Places in a file's names that are tried for the sake of a tip."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a checkpoint's entries become a network's.

    `names` gives for each of the network's entries the checkpoint's. `left_out` are entries
    of no layer; `prefix` is what stands before all names, wrappers or a holder; `rivals` are
    other prefixes under which the whole network is found as well.
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

    Wrappers' components are taken off wherever they stand in a name and the network has no
    such component, and the network may lie below one of the names that training scripts hold
    it by. Every entry that it needs must be there, one of several names of a shared tensor
    being enough. Entries that are left over must be explained, as `leftovers.unexplained`
    says, or be another copy of the network.

    Args:
        architecture: what the network was built from.
        expected: names and shapes of the network's state dict.
        tensors: the checkpoint's.
        twins: names of the network that stand for one tensor each.
        spared: entries of the checkpoint that need no explanation.

    Raises:
        ArchitectureError: the checkpoint does not belong to the network; lists missing,
            unexpected and differently shaped entries, with a tip where one can help.
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
            f"the checkpoint does not belong to {architecture}:\n{differences}",
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
    """The network as it is found from one place in the checkpoint's tree of names.

    `relative` gives for names below that place what they are called from there.
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
        """Entries that fit."""
        return len(self.names) - len(self.reshaped)

    def copies(self, best: _Place, size: int) -> bool:
        """Whether this is another copy of the network, most of it at least, held elsewhere."""
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
        names = max((led_back(root, own) for own in owns), key=len)
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
                reshaped(expected, {own: tuple(tensors[name].shape) for own, name in names.items()})
            ),
        )


def _own_roots(tree: Node) -> Iterator[Node]:
    """Where the network's own names may begin: below a holder that holds all of it, too."""
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
    """What can help, given that the architecture was named or is settled."""
    shapes = {relative: tuple(tensors[name].shape) for name, relative in best.relative.items()}
    found = [each for each in load_index().matches(needed(shapes)) if each != architecture]
    if found:
        return f"it fits {' or '.join(command_line(each) for each in found)}"
    if not (differences.missing or differences.reshaped):
        listed = " ".join(f"--ignore '{each}'" for each in patterns(differences.unexpected)[:4])
        return f"if the network does without them: {listed}"
    if prefix := _better_prefix(expected, tensors, best):
        return f"more names fit with --strip-prefix {prefix}"
    if differences.reshaped and not differences.missing and not architecture.arguments:
        return "give the constructor the arguments of the training: --arch-arg KEY=VALUE"
    return None


def _better_prefix(expected: Shapes, tensors: Mapping[str, Tensor], best: _Place) -> str | None:
    """What stands before the names of most of the network, where it is no wrapper known."""
    own = tree_of({name: name for name in expected})
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
                for own_name, name in led_back(node, own).items()
            )
            if matching > max(best.matching, len(expected) // 2, found[0] if found else 0):
                found = matching, ".".join(trail)
    return found[1] if found else None
