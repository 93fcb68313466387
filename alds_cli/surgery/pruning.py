"""The removal of filters from a network, and their restoration as zeros.

A plan states what stays of every module that changes, so a pruned network is made from a
dense one, or from the skeleton of one, without following its code again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.errors import PlanError, first_line
from alds_cli.records import Kept
from alds_cli.surgery.channels.members import (
    NORMS,
    Role,
    extents,
    role_of,
)
from alds_cli.surgery.layer_contents import TRANSPOSED
from alds_cli.surgery.replace import refuse
from alds_cli.tracing.trace import floating_type, meta_copy


def prune_network(
    network: nn.Module,
    pruned: Mapping[str, Kept],
    *,
    input_shape: tuple[int, ...] | None = None,
) -> None:
    """Remove filters, inputs and features from modules, in place.

    Args:
        network: the dense network, with values or on the meta device; what stays of its
            parameters is copied, so that the memory of the rest can be freed.
        pruned: what stays, by module; other modules are left alone.
        input_shape: the shape of one sample; if given, the smaller network is checked to run.

    Raises:
        PlanError: the plan does not fit the network. Nothing has been changed then.
    """
    require_prunable(network, pruned)
    if input_shape is not None and pruned:
        _require_running(network, pruned, input_shape)
    _reduce(network, pruned)


def require_prunable(network: nn.Module, pruned: Mapping[str, Kept]) -> None:
    """Make sure that the modules exist and have the entries that are to stay.

    Raises:
        PlanError: they do not; the message names all such modules.
    """
    modules = dict(network.named_modules())
    complaints = [
        f"{name}: {complaint}"
        for name, kept in pruned.items()
        if (complaint := _complaint(modules.get(name), kept))
    ]
    refuse(complaints)


def _complaint(module: nn.Module | None, kept: Kept) -> str | None:
    if module is None:
        return "there is no such module"
    role = role_of(module)
    if role is None:
        return f"channels cannot be removed from a {type(module).__name__}"
    if role != "dense" and kept.inputs is not None:
        return "it has no inputs apart from its outputs"
    for what, indices, count in zip(
        ("output", "input"), (kept.outputs, kept.inputs), extents(module), strict=True
    ):
        if indices is None:
            continue
        if not indices:
            return f"at least one {what} stays"
        if list(indices) != sorted(set(indices)) or not 0 <= indices[0] <= indices[-1] < count:
            return f"the {what}s that stay are not in ascending order between 0 and {count - 1}"
    return None


def _require_running(
    network: nn.Module, pruned: Mapping[str, Kept], input_shape: tuple[int, ...]
) -> None:
    """Check that shapes fit together, unless not even the dense network runs on meta."""
    skeleton = meta_copy(network)
    _reduce(skeleton, pruned)
    complaint = _complaint_of_run(skeleton, input_shape)
    if complaint is not None and _complaint_of_run(meta_copy(network), input_shape) is None:
        raise PlanError(
            f"the plan does not fit the network: what it leaves does not run: {complaint}"
        )


def _complaint_of_run(skeleton: nn.Module, input_shape: tuple[int, ...]) -> str | None:
    dtype = floating_type(skeleton)
    try:
        with torch.no_grad():
            skeleton(torch.empty((1, *input_shape), device="meta", dtype=dtype))
    except Exception as error:  # noqa: BLE001 - a foreign network may raise anything
        return first_line(error)
    return None


def _reduce(network: nn.Module, pruned: Mapping[str, Kept]) -> None:
    for name, kept in pruned.items():
        module: Any = network.get_submodule(name)
        for cut in _cuts(module, kept):
            _shorten(module, cut)
        _resize(module, kept)


@dataclass(frozen=True, slots=True)
class _Cut:
    """The indices that stay along one axis of a tensor, and the value that restores the others."""

    tensor: str
    axis: int
    indices: tuple[int, ...]
    extent: int
    blank: float = 0.0


def _cuts(module: Any, kept: Kept) -> Iterator[_Cut]:
    """Yield all cuts of a module's tensors."""
    role = role_of(module)
    outputs, inputs = extents(module)
    if kept.outputs is not None:
        for name, axis in _output_axes(module, role):
            blank = 1.0 if name == "running_var" else 0.0
            yield _Cut(name, axis, kept.outputs, outputs, blank)
    if kept.inputs is not None:
        yield _Cut("weight", 0 if isinstance(module, TRANSPOSED) else 1, kept.inputs, inputs)


def _output_axes(module: Any, role: Role | None) -> Iterator[tuple[str, int]]:
    """Yield the tensors with one entry for each output, and the axis of the entries."""
    if role == "dense" and isinstance(module, TRANSPOSED):
        yield "weight", 1
    elif module.weight is not None:
        yield "weight", 0
    if module.bias is not None:
        yield "bias", 0
    if role == "norm":
        for name in ("running_mean", "running_var"):
            if getattr(module, name) is not None:
                yield name, 0


def _shorten(module: nn.Module, cut: _Cut) -> None:
    before = getattr(module, cut.tensor)
    indices = torch.tensor(cut.indices, device=before.device)
    after = before.detach().index_select(cut.axis, indices)
    if isinstance(before, nn.Parameter):
        after = nn.Parameter(after, requires_grad=before.requires_grad)
    setattr(module, cut.tensor, after)


def _resize(module: Any, kept: Kept) -> None:
    """Update a module's numbers of channels or features to its tensors' shapes."""
    outputs = None if kept.outputs is None else len(kept.outputs)
    inputs = None if kept.inputs is None else len(kept.inputs)
    role = role_of(module)
    if role == "depthwise":
        inputs = module.groups = outputs
    names = (
        ("num_features", "num_features")
        if isinstance(module, NORMS)
        else ("out_features", "in_features")
        if type(module) is nn.Linear
        else ("out_channels", "in_channels")
    )
    for name, count in zip(names, (outputs, inputs), strict=True):
        if count is not None:
            setattr(module, name, count)


def dense_pruned_state(
    network: nn.Module, tensors: Mapping[str, Tensor], pruned: Mapping[str, Kept]
) -> dict[str, Tensor]:
    """Return a pruned network's state dict in the dense network's shapes, filled up with zeros.

    A normalisation's removed features have scale, shift and mean 0 and variance 1.

    Args:
        network: the dense network; only its shapes are used.
        tensors: the state dict of the pruned network.
        pruned: what stayed of its modules.
    """
    dense = dict(tensors)
    for name, kept in pruned.items():
        for cut in _cuts(network.get_submodule(name), kept):
            key = f"{name}.{cut.tensor}"
            dense[key] = _lengthened(dense[key], cut)
    return dense


def _lengthened(tensor: Tensor, cut: _Cut) -> Tensor:
    shape = list(tensor.shape)
    shape[cut.axis] = cut.extent
    indices = torch.tensor(cut.indices, device=tensor.device)
    return tensor.new_full(shape, cut.blank).index_copy_(cut.axis, indices, tensor)
