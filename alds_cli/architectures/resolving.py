"""Matching the entries of a checkpoint with those of a network, and explaining the others."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from alds_cli.architectures.building import current_names
from alds_cli.architectures.index import (
    Differences,
    Shapes,
    command_line,
    is_derived,
    load_index,
    needed,
    reshaped,
)
from alds_cli.architectures.wrappers import (
    HOLDERS,
    Node,
    led_back,
    plain_names,
    roots,
    tree_of,
)
from alds_cli.errors import ArchitectureError
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


BOOKKEEPING = frozenset(
    {
        "_extra_state",
        "_float_tensor",
        "attn_mask",
        "inv_freq",
        "initted",
        "masked_bias",
        "n_averaged",
        "num_batches_tracked",
        "num_updates",
        "position_ids",
        "relative_coords_table",
        "relative_position_index",
        "token_type_ids",
        "total_ops",
        "total_params",
    }
)
"""Last components of entries that follow from the network, or count something beside it."""

_OF_TRAINING = re.compile(
    r"(?:^|_)(?:loss|losses|criterion|criterions|criteria|metric|metrics|acc|accuracy|auroc|"
    r"confmat|optimizer|scheduler|ema_decay)(?:$|_|\d)",
    re.IGNORECASE,
)
"""A component that refers to the training."""

_OF_LAYERS = re.compile(
    r"(?:weight|bias|gamma|beta|scale|shift|running_mean|running_var|mean|std|(?:weight|bias)_.*)$"
)
"""The last component of an entry with which some layer computes."""

_MOST_SMALL = 16
"""The most entries of unknown meaning that are left out."""


def unexplained(
    left: Mapping[str, Tensor], relative: Mapping[str, str], components: Collection[str]
) -> list[str]:
    """Return the entries that a network does not have, but that may belong to a layer.

    An entry is explained, and may be left out, if

    - its last component is a bookkeeping term (`position_ids`, `total_ops`,
      `n_averaged`, …), or it holds truth values;
    - or no part of the network has the name that it begins with, and either a component of its
      name refers to training (`criterion`, `loss_fn`, `val_acc`, …), or it holds whole numbers
      or has at most one dimension and is not named as layers name what they compute with
      (`weight`, `bias`, `running_mean`, …). At most sixteen of the latter are left out.

    Everything else may be weights, and weights that a network does not have are a sign that
    it is a different network.

    Args:
        left: the entries, by their names in the file.
        relative: the names, relative to the network's beginning, of those below it.
        components: the first components of the network's names.
    """
    doubtful: list[str] = []
    small: list[str] = []
    for name, tensor in left.items():
        parts = relative.get(name, name).split(".")
        if _is_bookkeeping(parts, tensor):
            continue
        if parts[0] in components:
            doubtful.append(name)
        elif not any(_OF_TRAINING.search(part) for part in parts):
            (doubtful if _may_be_a_layers(parts, tensor) else small).append(name)
    return doubtful if len(small) <= _MOST_SMALL else doubtful + small


def is_bookkeeping(name: str, tensor: Tensor) -> bool:
    """Return whether an entry is not a weight, whatever the network."""
    return _is_bookkeeping(name.split("."), tensor)


def is_training(name: str) -> bool:
    """Return whether an entry's name says that it belongs to the training."""
    return any(_OF_TRAINING.search(part) for part in name.split("."))


def patterns(names: Iterable[str]) -> list[str]:
    """Return patterns for `--ignore` that match entries: one for each first component."""
    return list(
        dict.fromkeys(f"{name.partition('.')[0]}.*" if "." in name else name for name in names)
    )


def _is_bookkeeping(parts: list[str], tensor: Tensor) -> bool:
    return parts[-1] in BOOKKEEPING or str(tensor.dtype) == "torch.bool"


def _may_be_a_layers(parts: list[str], tensor: Tensor) -> bool:
    if _OF_LAYERS.match(parts[-1]):
        return True
    return tensor.ndim > 1 and (tensor.is_floating_point() or tensor.is_complex())
