"""The modules that channels may be removed from, and those that must be left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn
from torch.nn.utils import parametrize

from alds_cli.surgery.layer_contents import extents_of

Role = Literal["dense", "depthwise", "norm"]
"""`dense` layers have filters over all input channels, `depthwise` convolutions one filter for
each channel, and normalisations (`norm`) parameters for each channel."""

CONVOLUTIONS: Mapping[type[nn.Module], int] = {
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
"""Convolutions, with their number of spatial axes."""

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
"""Normalisations that treat every channel separately."""

_NORM_TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def role_of(module: Any) -> Role | None:
    """Return how a module uses channels, or None if none can be removed from it.

    Subclasses of layers have no role, since they may do more than their base. Neither have
    convolutions whose groups are wider than one channel, since removing a channel would move
    others to another group. A subclass of a normalisation is accepted if it holds no other
    tensors, since `torch.fx` traces its code.
    """
    kind = type(module)
    if kind is nn.Linear:
        return "dense"
    if isinstance(module, NORMS):
        tensors = {name for name, _ in module.named_parameters(recurse=False)}
        tensors |= {name for name, _ in module.named_buffers(recurse=False)}
        return "norm" if tensors <= _NORM_TENSORS else None
    if kind in CONVOLUTIONS:
        if module.groups == 1:
            return "dense"
        if module.groups == module.in_channels == module.out_channels:
            return "depthwise"
    return None


def extents(module: Any) -> tuple[int, int]:
    """Return the number of (outputs, inputs) of a module that has a role."""
    if isinstance(module, NORMS):
        return module.num_features, module.num_features
    inputs, outputs = extents_of(module)
    return outputs, inputs


def untouchable(network: nn.Module) -> set[str]:
    """Return the names of modules whose tensors must keep their shapes.

    These are modules with hooks, which can do anything, modules whose weights are computed from
    other tensors, and modules that share a parameter.
    """
    uses = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    return {
        name
        for name, module in network.named_modules()
        if _hooked(module)
        or parametrize.is_parametrized(module)
        or any(uses[id(parameter)] > 1 for parameter in module.parameters(recurse=False))
        or _computes_weight(module)
    }


def _hooked(module: nn.Module) -> bool:
    attributes = vars(module)
    return any(attributes.get(f"_{kind}_hooks") for kind in ("forward", "forward_pre"))


def _computes_weight(module: nn.Module) -> bool:
    """Return whether the weight is not a parameter, as after `torch.nn.utils.weight_norm`."""
    if role_of(module) in (None, "norm"):
        return False
    return not isinstance(module.weight, nn.Parameter)
