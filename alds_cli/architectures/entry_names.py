"""The names of a file's entries: what wrappers add to a network's own, and what is no weight.

The names of a state dict form a tree, in which wrappers are components of their own. Parallel
training, compilation, sharding and activation checkpointing add one wherever they wrap a module;
training frameworks put the whole network under an attribute of theirs. The trees of the file and
of the network are walked together, so that a component counts as a wrapper only if the network
itself has no component of that name, or fits better without it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

WRAPPERS = frozenset(
    {
        "module",  # DataParallel, DistributedDataParallel, DeepSpeed, AveragedModel
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",  # Lightning's strategies
        "_original_module",  # Lightning Fabric
        "_fpw_module",  # FairScale's FSDP
        "_wrapped_module",
        "_module",  # Opacus
        "_dpp",
        "_dp",
        "_ddp",
        "wrapped_module",
    }
)
"""Components of wrappers, which may be anywhere in a name."""

HOLDERS = (
    "model",
    "net",
    "network",
    "_model",
    "_net",
    "_network",
    "ddp_model",
    "dp_model",
    "base_model",
    "student",
    "student_model",
    "online_model",
    "online_network",
    "backbone",
    "encoder",
    "trunk",
    "ema",
    "ema_model",
    "_ema_model",
    "model_ema",
    "ema_net",
    "averaged_model",
    "avg_model",
    "swa_model",
    "_average_model",
    "teacher",
    "teacher_model",
    "target_model",
    "target_network",
    "generator_ema",
)
"""Names by which training scripts hold a whole network, in the order of preference."""

_MOST_COMPONENTS = 100
"""Names of more components are left as they are: no network is nested so deeply."""

_MOST_ROOTS = 64


@dataclass(slots=True)
class Node:
    """A component in the tree of names; `name` is the whole name that ends here, if any."""

    name: str | None = None
    children: dict[str, Node] = field(default_factory=dict)


def tree_of(names: Mapping[str, str]) -> Node:
    """Build the tree of some names.

    Args:
        names: the path of each name in the tree by the name, which mostly are the same.
    """
    root = Node()
    for name, spelling in names.items():
        parts = spelling.split(".")
        node = root
        for part in parts if len(parts) <= _MOST_COMPONENTS else [spelling]:
            node = node.children.setdefault(part, Node())
        node.name = name
    return root


def roots(tree: Node) -> list[tuple[tuple[str, ...], Node]]:
    """Return the nodes where a network may begin: the top, and those below names that hold one.

    Returns:
        The components leading to each node, and the node; first the top, then by `HOLDERS`.
    """
    found: list[tuple[tuple[str, ...], Node]] = [((), tree)]
    level = found
    while level and len(found) < _MOST_ROOTS:
        level = [
            ((*trail, key), node.children[key])
            for trail, node in level
            for key in _order(node.children)
        ]
        found += [each for each in level if each[0][-1] in HOLDERS]
    return found[:_MOST_ROOTS]


def _order(children: Iterable[str]) -> list[str]:
    present = set(children)
    return [key for key in (*sorted(WRAPPERS), *HOLDERS) if key in present]


def led_back(given: Node, network: Node) -> dict[str, str]:
    """Match the names of a file with those of a network.

    Args:
        given: the file's tree, below a node where the network may begin.
        network: the network's tree.

    Returns:
        The file's names by the network's names, for as many of these as possible.
    """
    found: dict[str, str] = {}
    if given.name is not None and network.name is not None:
        found[network.name] = given.name
    for key, child in network.children.items():
        if key in given.children:
            found |= led_back(given.children[key], child)
    for key in WRAPPERS & given.children.keys():
        within = led_back(given.children[key], network)
        if key not in network.children:
            found = within | found
        elif len(within) > len(found):
            found = within
    for key in (WRAPPERS & network.children.keys()) - given.children.keys():
        found = led_back(given, network.children[key]) | found
    return found


def spellings(names: Iterable[str]) -> set[str]:
    """Return every name that these may stand for, with and without wrappers and holders."""
    found: set[str] = set()
    tree = tree_of({name: name for name in names})
    for _, root in roots(tree):
        found |= {spelling for spelling, _ in plain_names(root)}
    return found.union(_all_names(tree))


def plain_names(root: Node) -> Iterator[tuple[str, str]]:
    """Yield the names below a node without components of wrappers, and their names in the file."""
    yield from _plain_names(root, ())


def _plain_names(node: Node, trail: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if node.name is not None and trail:
        yield ".".join(trail), node.name
    for key, child in node.children.items():
        yield from _plain_names(child, trail if key in WRAPPERS else (*trail, key))


def _all_names(node: Node) -> Iterator[str]:
    if node.name is not None:
        yield node.name
    for child in node.children.values():
        yield from _all_names(child)


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


def computed_tip(names: Collection[str]) -> str | None:
    """Return what to do about a checkpoint whose layers compute their weights from other tensors.

    Args:
        names: of all entries, of a checkpoint that fits no network, or not the one that was named.

    Returns:
        The tip; None if the names do not say so.
    """
    held = set(names)
    if any(f"{name.removesuffix('_orig')}_mask" in held for name in held if name.endswith("_orig")):
        return (
            "its layers are pruned by torch.nn.utils.prune: before saving, "
            "torch.nn.utils.prune.remove(layer, 'weight') makes their weights plain"
        )
    normalised = any(f"{name.removesuffix('_g')}_v" in held for name in held if name.endswith("_g"))
    if normalised or any(".parametrizations." in name for name in held):
        return (
            "its layers compute their weights, as by weight norm: name the code that builds them "
            "so, --arch package.module:factory, or make them plain before saving, by "
            "torch.nn.utils.parametrize.remove_parametrizations or remove_weight_norm"
        )
    return None
