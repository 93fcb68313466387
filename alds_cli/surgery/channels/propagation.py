"""Channels followed through a traced network, step by step.

Safe by default: whatever is not understood freezes all channels that go in or come out.
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
from alds_cli.surgery.channels.union_find import Places

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


def follow(traced: TracedNetwork, places: Places, untouchable: Collection[str]) -> None:
    """Enter in `places` what a traced pass tells of its channels.

    Args:
        traced: the pass.
        places: filled in; may hold what another pass of the same network told.
        untouchable: names of modules that nothing may be removed from.
    """
    _Follower(traced, places, untouchable).run()


class _Follower:
    def __init__(self, traced: TracedNetwork, places: Places, untouchable: Collection[str]) -> None:
        self._traced = traced
        self._places = places
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
        """Follow all channels to the end."""
        for node in self._traced.graph.nodes:
            given = self._known(node.args), self._known(node.kwargs)
            step = Step(node, *given, self._traced, self._places)
            self._found[node] = self._checked(step, self._result(step))
        for node in self._traced.decided:
            Step(node, (self._found.get(node),), {}, self._traced, self._places).unknown()

    def _known(self, arguments: Any) -> Any:
        """A node's arguments with what is known of them in the place of nodes."""
        return fx.node.map_aggregate(
            arguments, lambda value: self._found[value] if isinstance(value, fx.Node) else value
        )

    def _result(self, step: Step) -> Any:
        """What is known of what a step gives."""
        if step.node.op == "placeholder":
            channels = (step.made or (1, 0))[1]
            return Tracked(self._places.atoms.fresh(channels, frozen=True), 1)
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
        """The result, if its shape is what it should be."""
        if not isinstance(result, Tracked):
            return result
        made = step.made
        if made is None or result.axis >= len(made) or made[result.axis] != len(result.atoms):
            step.freeze(result)
            return step.unknown()
        return result

    def _of_module(self, step: Step) -> Any:
        """What is known of a module's result."""
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
        """What is known of the result of a module with parameters, or an unknown one."""
        role = role_of(module)
        if role is None or name in self._kept or len(step.args) != 1 or step.kwargs:
            return step.unknown()
        fitting = isinstance(given, Tracked) and _takes(module, given, step.shape(0))
        if role != "dense":
            if not fitting:
                return step.unknown()
            self._places.pass_through(name, given.atoms)
            return given
        if fitting:
            self._places.feed(name, given.atoms)
        else:
            step.unknown()
        return self._filters(step, name, module)

    def _normalised(self, step: Step) -> Any:
        """What is known of a batch normalisation that its module's own code carries out."""
        tensors = _norm_tensors(step.node)
        owners = {_owner(node) for node in tensors.values() if isinstance(node, fx.Node)}
        given = step.args[0] if step.args else None
        if len(owners) != 1 or not isinstance(given, Tracked) or given.axis != 1:
            return step.unknown()
        (owner,) = owners
        module, name = self._traced.root.get_submodule(owner), _own_name(owner)
        if role_of(module) != "norm" or name in self._kept or not _in_place(tensors, owner):
            return step.unknown()
        if extents(module)[0] != len(given.atoms):
            return step.unknown()
        self._places.pass_through(name, given.atoms)
        return given

    def _filters(self, step: Step, name: str, module: Any) -> Tracked | None:
        """What comes out of a layer with filters of its own."""
        made = step.made
        if made is None:
            return None
        axis = len(made) - 1 if type(module) is nn.Linear else 1
        if type(module) in CONVOLUTIONS and len(made) != CONVOLUTIONS[type(module)] + 2:
            return None
        return Tracked(self._places.filters(name, extents(module)[0]), axis)


def _owner(node: fx.Node) -> str:
    """The module whose parameter or buffer a node takes."""
    return str(node.target).rpartition(".")[0]


def _normalises(node: fx.Node) -> bool:
    """Whether a parameter or buffer is taken for one batch normalisation and nothing else."""
    return [user.target for user in node.users] == [F.batch_norm]


def _norm_tensors(node: fx.Node) -> dict[str, Any]:
    """What a batch normalisation is given, by the name that it goes by."""
    names = ("running_mean", "running_var", "weight", "bias")
    positional = dict(zip(names, node.args[1:], strict=False))
    return positional | {name: node.kwargs[name] for name in names if name in node.kwargs}


def _in_place(tensors: Mapping[str, Any], owner: str) -> bool:
    """Whether every tensor is its module's own, in the use that the module has it for."""
    return all(
        given is None or (isinstance(given, fx.Node) and given.target == f"{owner}.{name}")
        for name, given in tensors.items()
    )


def _own_name(target: str) -> str:
    """As the network itself names what the traced one holds."""
    return target.removeprefix("network").removeprefix(".")


def _exact(module: nn.Module) -> bool:
    """Whether it is one of PyTorch's modules itself, no subclass."""
    return type(module).__module__.startswith("torch.nn")


def _reusable(module: nn.Module) -> bool:
    """Whether calling a module several times is no reason to keep away from it."""
    hooked = any(vars(module).get(f"_{kind}_hooks") for kind in ("forward", "forward_pre"))
    return not hooked and next(module.parameters(), None) is None


def _takes(module: Any, given: Tracked, within: tuple[int, ...] | None) -> bool:
    """Whether the channels are where the module takes them for such."""
    if within is None or extents(module)[1] != len(given.atoms):
        return False
    if type(module) is nn.Linear:
        return given.axis == len(within) - 1
    if type(module) in CONVOLUTIONS and len(within) != CONVOLUTIONS[type(module)] + 2:
        return False
    return given.axis == 1
