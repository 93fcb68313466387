"""Which entry of a checkpoint stands for which of a network, and which stand for none."""

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
"""A component that says it is about the training."""

_OF_LAYERS = re.compile(
    r"(?:weight|bias|gamma|beta|scale|shift|running_mean|running_var|mean|std|(?:weight|bias)_.*)$"
)
"""The last component of an entry that some layer computes with."""

_MOST_SMALL = 16
"""Entries of no known meaning that are left out at most."""


def unexplained(
    left: Mapping[str, Tensor], relative: Mapping[str, str], own: Collection[str]
) -> list[str]:
    """Those of the entries that a network does not have which may be a layer's.

    An entry is explained, and may be left out, if

    - its last component is a word of bookkeeping (`position_ids`, `total_ops`,
      `n_averaged`, …), or it holds truth values;
    - or no part of the network has the name it begins with, and either a component of its
      name is about training (`criterion`, `loss_fn`, `val_acc`, …), or it holds whole numbers
      or no more than one dimension and is not named as layers name what they compute with
      (`weight`, `bias`, `running_mean`, …). Of these last, sixteen at most.

    Everything else may be weights, and weights that a network does not have are a sign that
    it is another one.

    Args:
        left: the entries, by their names in the file.
        relative: their names from where the network begins, where they stand below that.
        own: first components of the network's names.
    """
    doubtful: list[str] = []
    small: list[str] = []
    for name, tensor in left.items():
        parts = relative.get(name, name).split(".")
        if _is_bookkeeping(parts, tensor):
            continue
        if parts[0] in own:
            doubtful.append(name)
        elif not any(_OF_TRAINING.search(part) for part in parts):
            (doubtful if _may_be_a_layers(parts, tensor) else small).append(name)
    return doubtful if len(small) <= _MOST_SMALL else doubtful + small


def is_bookkeeping(name: str, tensor: Tensor) -> bool:
    """Whether an entry is none of weights, whatever network it stands in."""
    return _is_bookkeeping(name.split("."), tensor)


def is_training(name: str) -> bool:
    """Whether an entry's name says that it is about the training."""
    return any(_OF_TRAINING.search(part) for part in name.split("."))


def patterns(names: Iterable[str]) -> list[str]:
    """What `--ignore` would take to leave entries out: one pattern for each first component."""
    return list(
        dict.fromkeys(f"{name.partition('.')[0]}.*" if "." in name else name for name in names)
    )


def _is_bookkeeping(parts: list[str], tensor: Tensor) -> bool:
    return parts[-1] in BOOKKEEPING or str(tensor.dtype) == "torch.bool"


def _may_be_a_layers(parts: list[str], tensor: Tensor) -> bool:
    if _OF_LAYERS.match(parts[-1]):
        return True
    return tensor.ndim > 1 and (tensor.is_floating_point() or tensor.is_complex())
