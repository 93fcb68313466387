"""Names that wrappers add to a network's own, and how a file's names are led back to those.

The names of a state dict form a tree. Wrappers stand in it as components of their own:
parallel training, compilation, sharding and activation checkpointing put one wherever they
wrapped a module, training frameworks put the whole network under an attribute of theirs. Both
trees, the file's and the network's, are walked together, so that a component is taken for a
wrapper only where the network itself has none of that name, or does not fit with it.
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
"""What stands at any place of a name."""

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
"""What training scripts hold a whole network by, in the order they are preferred."""

_MOST_COMPONENTS = 100
"""A name of more is left as it is: no network is nested so deeply."""

_MOST_ROOTS = 64


@dataclass(slots=True)
class Node:
    """A component in the tree of names; `name` is the whole name that ends here, if any."""

    name: str | None = None
    children: dict[str, Node] = field(default_factory=dict)


def tree_of(names: Mapping[str, str]) -> Node:
    """The tree of some names.

    Args:
        names: what each name is spelt like in the tree; most often itself.
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
    """Where in a file's tree a network may begin: at the top, or below names that hold one.

    Returns:
        The components on the way, and the node; the top first, then as `HOLDERS` prefers.
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


def led_back(given: Node, own: Node) -> dict[str, str]:
    """Which of a network's names each of a file's names stands for.

    Args:
        given: the file's tree, from where the network may begin.
        own: the network's.

    Returns:
        The file's name for each of the network's names that it has; as many as possible.
    """
    found: dict[str, str] = {}
    if given.name is not None and own.name is not None:
        found[own.name] = given.name
    for key, child in own.children.items():
        if key in given.children:
            found |= led_back(given.children[key], child)
    for key in WRAPPERS & given.children.keys():
        within = led_back(given.children[key], own)
        if key not in own.children:
            found = within | found
        elif len(within) > len(found):
            found = within
    for key in (WRAPPERS & own.children.keys()) - given.children.keys():
        found = led_back(given, own.children[key]) | found
    return found


def spellings(names: Iterable[str]) -> set[str]:
    """Every name that one of these may stand for: as it is, and without wrappers and holders."""
    found: set[str] = set()
    tree = tree_of({name: name for name in names})
    for _, root in roots(tree):
        found |= {spelling for spelling, _ in plain_names(root)}
    return found.union(_all_names(tree))


def plain_names(root: Node) -> Iterator[tuple[str, str]]:
    """The names below a node, without any wrapper's component, and what they are in the file."""
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
