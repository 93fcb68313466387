"""Names that wrappers add to a network's own, and the way from a file's names back to those.

The names of a state dict form a tree, in which wrappers are components of their own. Parallel
training, compilation, sharding and activation checkpointing add one wherever they wrap a module;
training frameworks put the whole network under an attribute of theirs. The trees of the file and
of the network are walked together, so that a component counts as a wrapper only if the network
itself has no component of that name, or fits better without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

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
