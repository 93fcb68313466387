"""Following channels through a traced network, step by step.

An operation that is not understood freezes all channels that go into it, so that none of them
is removed.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from alds_cli.surgery.channels import arithmetic, axes
from alds_cli.surgery.channels import operations as known
from alds_cli.surgery.channels.graphs import TracedNetwork
from alds_cli.surgery.channels.members import CONVOLUTIONS, extents, role_of
from alds_cli.surgery.channels.tracking import Step, Tracked
from alds_cli.surgery.channels.union_find import ChannelMap

_RULES: Mapping[Any, Callable[[Step], Any]] = {
    **dict.fromkeys(
        known.ELEMENTWISE_FUNCTIONS | known.ELEMENTWISE_METHODS, arithmetic.elementwise
    ),
    **dict.fromkeys(known.SPATIAL_FUNCTIONS, arithmetic.spatial),
    **dict.fromkeys(known.BINARY_FUNCTIONS | known.BINARY_METHODS, arithmetic.binary),
    **dict.fromkeys(known.CONCATENATIONS, arithmetic.concatenation),
    **dict.fromkeys(known.FLATTENINGS, axes.flattening),
    **dict.fromkeys(known.RESHAPINGS, axes.reshaping),
    **dict.fromkeys(known.PERMUTATIONS, axes.permutation),
    **dict.fromkeys(known.TRANSPOSITIONS, axes.transposition),
    **dict.fromkeys(known.REDUCTIONS, axes.reduction),
    **dict.fromkeys(known.SQUEEZINGS, axes.squeezing),
    **dict.fromkeys(known.UNSQUEEZINGS, axes.unsqueezing),
    **dict.fromkeys(known.MAKERS, axes.maker),
    **dict.fromkeys(known.FACT_METHODS, axes.fact),
    F.pad: arithmetic.padding,
    operator.getitem: axes.item,
    getattr: axes.attribute,
    "size": axes.size,
}


def follow(traced: TracedNetwork, channel_map: ChannelMap, untouchable: Collection[str]) -> None:
    """Follow the channels through a traced forward pass and enter them in `channel_map`.

    Args:
        traced: the forward pass.
        channel_map: receives the channels; it may hold those of another pass of the same network.
        untouchable: names of modules that no channel may be removed from.
    """
    _Follower(traced, channel_map, untouchable).run()


class _Follower:
    """Follows the channels through one traced forward pass; see `follow`."""

    def __init__(
        self, traced: TracedNetwork, channel_map: ChannelMap, untouchable: Collection[str]
    ) -> None:
        self._traced = traced
        self._channel_map = channel_map
        self._found: dict[fx.Node, Any] = {}
        nodes = list(traced.graph.nodes)
        calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
        taken = (_owner(node) for node in nodes if node.op == "get_attr" and not _normalises(node))
        self._kept = {
            *untouchable,
            *(_own_name(target) for target, times in calls.items() if times > 1),
            *map(_own_name, taken),  # the code uses parameters without calling their module
        }

    def run(self) -> None:
        """Follow all channels to the network's output."""
        for node in self._traced.graph.nodes:
            given = self._known(node.args), self._known(node.kwargs)
            step = Step(node, *given, self._traced, self._channel_map)
            self._found[node] = self._checked(step, self._result(step))
        for node in self._traced.decided:
            Step(node, (self._found.get(node),), {}, self._traced, self._channel_map).unknown()

    def _known(self, arguments: Any) -> Any:
        """Replace the nodes in a node's arguments by what is known about their results."""
        return fx.node.map_aggregate(
            arguments, lambda value: self._found[value] if isinstance(value, fx.Node) else value
        )

    def _result(self, step: Step) -> Any:
        """Return what is known about the result of a step."""
        if step.node.op == "placeholder":
            channels = (step.made or (1, 0))[1]
            return Tracked(self._channel_map.sets.fresh(channels, frozen=True), 1)
        if step.node.op == "get_attr":
            return None
        if step.node.op == "call_module":
            return self._of_module(step)
        rule = _RULES.get(step.node.target) if step.node.op != "output" else None
        if step.node.target is F.batch_norm:
            return self._normalised(step)
        if rule is None and known.drops_whole_samples(step.node.target):
            rule = arithmetic.elementwise
        return step.unknown() if rule is None else rule(step)

    def _checked(self, step: Step, result: Any) -> Any:
        """Return the result if the tensor's shape agrees with it; else freeze its channels."""
        if not isinstance(result, Tracked):
            return result
        made = step.made
        if made is None or result.axis >= len(made) or made[result.axis] != len(result.ids):
            step.freeze(result)
            return step.unknown()
        return result

    def _of_module(self, step: Step) -> Any:
        """Return what is known about the result of a module."""
        name = _own_name(str(step.node.target))
        module = self._traced.root.get_submodule(str(step.node.target))
        given = step.args[0] if len(step.args) == 1 and not step.kwargs else None
        if isinstance(given, Tracked) and (name not in self._kept or _reusable(module)):
            if isinstance(module, known.ELEMENTWISE_MODULES) and _exact(module):
                return given
            if isinstance(module, known.SPATIAL_MODULES) and _exact(module) and given.axis == 1:
                return given
            if type(module) is nn.Flatten:
                return self._flattened(step, module, given)
        return self._of_layer(step, name, module, given)

    def _flattened(self, step: Step, module: nn.Flatten, given: Tracked) -> Any:
        within = step.shape(0)
        if within is None:
            return step.unknown()
        found = axes.flattened(given, within, module.start_dim, module.end_dim)
        return step.unknown() if found is None else found

    def _of_layer(self, step: Step, name: str, module: Any, given: Any) -> Any:
        """Return what is known about the result of a layer, a normalisation or another module."""
        role = role_of(module)
        if role is None or name in self._kept or len(step.args) != 1 or step.kwargs:
            return step.unknown()
        fitting = isinstance(given, Tracked) and _takes(module, given, step.shape(0))
        if role != "dense":
            if not fitting:
                return step.unknown()
            self._channel_map.pass_through(name, given.ids)
            return given
        if fitting:
            self._channel_map.feed(name, given.ids)
        else:
            step.unknown()
        return self._filters(step, name, module)

    def _normalised(self, step: Step) -> Any:
        """Return what is known about the result of `F.batch_norm`, called by a module's code."""
        tensors = _norm_tensors(step.node)
        owners = {_owner(node) for node in tensors.values() if isinstance(node, fx.Node)}
        given = step.args[0] if step.args else None
        if len(owners) != 1 or not isinstance(given, Tracked) or given.axis != 1:
            return step.unknown()
        (owner,) = owners
        module, name = self._traced.root.get_submodule(owner), _own_name(owner)
        if role_of(module) != "norm" or name in self._kept or not _in_place(tensors, owner):
            return step.unknown()
        if extents(module)[0] != len(given.ids):
            return step.unknown()
        self._channel_map.pass_through(name, given.ids)
        return given

    def _filters(self, step: Step, name: str, module: Any) -> Tracked | None:
        """Return the output channels of a dense layer, or None if its output is not understood."""
        made = step.made
        if made is None:
            return None
        axis = len(made) - 1 if type(module) is nn.Linear else 1
        if type(module) in CONVOLUTIONS and len(made) != CONVOLUTIONS[type(module)] + 2:
            return None
        return Tracked(self._channel_map.filters(name, extents(module)[0]), axis)


def _owner(node: fx.Node) -> str:
    """Return the name of the module whose parameter or buffer a node reads."""
    return str(node.target).rpartition(".")[0]


def _normalises(node: fx.Node) -> bool:
    """Return whether a parameter or buffer is used by one batch normalisation alone."""
    return [user.target for user in node.users] == [F.batch_norm]


def _norm_tensors(node: fx.Node) -> dict[str, Any]:
    """Return the tensor arguments of a call of `F.batch_norm`, by name."""
    names = ("running_mean", "running_var", "weight", "bias")
    positional = dict(zip(names, node.args[1:], strict=False))
    return positional | {name: node.kwargs[name] for name in names if name in node.kwargs}


def _in_place(tensors: Mapping[str, Any], owner: str) -> bool:
    """Return whether every tensor is the owner's tensor of the same name."""
    return all(
        given is None or (isinstance(given, fx.Node) and given.target == f"{owner}.{name}")
        for name, given in tensors.items()
    )


def _own_name(target: str) -> str:
    """Return a module's name in the network, given its name in the traced module."""
    return target.removeprefix("network").removeprefix(".")


def _exact(module: nn.Module) -> bool:
    """Return whether a module is PyTorch's own, not one of a subclass."""
    return type(module).__module__.startswith("torch.nn")


def _reusable(module: nn.Module) -> bool:
    """Return whether a module may be called several times: it has no parameters and no hooks."""
    hooked = any(vars(module).get(f"_{kind}_hooks") for kind in ("forward", "forward_pre"))
    return not hooked and next(module.parameters(), None) is None


def _takes(module: Any, given: Tracked, within: tuple[int, ...] | None) -> bool:
    """Return whether the channels of a tensor are the input channels of a module."""
    if within is None or extents(module)[1] != len(given.ids):
        return False
    if type(module) is nn.Linear:
        return given.axis == len(within) - 1
    if type(module) in CONVOLUTIONS and len(within) != CONVOLUTIONS[type(module)] + 2:
        return False
    return given.axis == 1
