"""Loading a file's tensors into a network, each of them checked first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli import architectures
from alds_cli.checkpoint import (
    hash_tensors,
)
from alds_cli.errors import (
    BadWeightsError,
)
from alds_cli.records import (
    Architecture,
)
from alds_cli.surgery import (
    put_at,
)
from alds_cli.tracing.sharing import (
    Groups,
    identity,
    share,
    shared_groups,
)

_WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_LARGEST = 1e100
"""The largest weight: beyond it a layer's sums of products soon exceed float64's range."""


def load_tensors(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    arch: Architecture,
    name: str,
    further: Groups = (),
) -> None:
    """Make the tensors the network's own, without copying; shared tensors stay shared.

    Args:
        module: the network, on the meta device.
        tensors: a state dict that fits it, possibly without further names of shared tensors.
        arch: the architecture that it was built from.
        name: the file's name, for messages.
        further: groups of names that share a tensor, beyond those of the network.

    Raises:
        BadWeightsError: weights are of another kind than the network's, or names of one
            tensor have different values.
    """
    groups = [*shared_groups(module), *further]
    held = module.state_dict().keys()
    tensors = completed(tensors, [[each for each in group if each in held] for group in groups])
    require_agreement(tensors, groups, name)
    _require_kinds(module, tensors, name)
    state: Any = OrderedDict(tensors)
    # Some modules convert what their older versions have saved. The names and
    # shapes are today's, as has been checked, so the versions are too.
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # noqa: SLF001
    module.load_state_dict(state, strict=False, assign=True)
    fill_in_buffers(module, arch)
    share(module, groups)


def completed(tensors: Mapping[str, Tensor], groups: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """Add the tensors that are missing under one name but present under another."""
    found = dict(tensors)
    for group in groups:
        present = next((each for each in group if each in tensors), None)
        if present is not None:
            found |= {each: tensors[present] for each in group if each not in tensors}
    return found


def require_agreement(tensors: Mapping[str, Tensor], groups: Groups, name: str) -> None:
    """Make sure that the names of one tensor do not have different values.

    Raises:
        BadWeightsError: they have, so that one of the values would be lost.
    """
    for group in groups:
        first, *others = [each for each in group if each in tensors] or [""]
        for other in others:
            if not _equal(tensors[first], tensors[other]):
                raise BadWeightsError(
                    f"{name}: {first} and {other} are one tensor in the network, but have "
                    "different values here",
                    tip="build the network with two, or leave one of the values out: "
                    f"--ignore '*{other}'",
                )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same numbers of the same type; NaN equals NaN."""
    if identity(one) == identity(other):
        return True
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if torch.equal(one, other):
        return True
    return hash_tensors({"": one}) == hash_tensors({"": other})


def shared_names(module: nn.Module) -> dict[str, str]:
    """Return the first name of every tensor that a state dict holds under a further name."""
    held = module.state_dict().keys()
    groups = ([each for each in group if each in held] for group in shared_groups(module))
    return {other: first for first, *others in filter(None, groups) for other in others}


def fill_in_buffers(module: nn.Module, arch: Architecture) -> None:
    """Give buffers that checkpoints may leave out the values of a fresh network."""
    hollow = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if not hollow:
        return
    fresh = dict(architectures.build(arch).named_buffers())
    for name in hollow:
        put_at(module, name, fresh[name])


def require_sound(module: nn.Module, name: str) -> None:
    """Refuse weights that cannot be computed with; the message names all such tensors.

    Buffers other than running statistics may be infinite, as masks and limits are.

    Raises:
        BadWeightsError: weights are absent, integers, NaN or infinite.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    hollow = [key for key, tensor in tensors.items() if tensor.is_meta]
    if hollow:
        raise BadWeightsError(f"{name}: there are no values in {listed(hollow)}")
    _require_kinds(module, tensors, name)
    not_finite = [
        key
        for key, tensor in tensors.items()
        if (tensor.is_floating_point() or tensor.is_complex())
        and not _is_finite(tensor, unbounded=_may_be_infinite(module, key))
    ]
    if not_finite:
        raise BadWeightsError(
            f"{name}: NaN, infinite or beyond {_LARGEST:g} are values in {listed(not_finite)}",
            tip="the training diverged, or the file is damaged; use an earlier checkpoint",
        )


def _require_kinds(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse parameters whose type computes something else than the network's type does.

    Real numbers of any width may replace real ones, and complex ones may replace complex ones;
    whole numbers and truth values are accepted only if the network has such itself.
    """
    wrong: dict[str, list[str]] = {}
    narrow = False
    for key, parameter in module.named_parameters(remove_duplicate=False):
        given = tensors.get(key)
        if given is None:
            continue
        kind = _kind_of(parameter.dtype)
        if _kind_of(given.dtype) != kind or kind == "narrow":
            narrow = narrow or given.dtype.itemsize == 1
            found = str(given.dtype).removeprefix("torch.")
            wrong.setdefault(_KINDS[kind], []).append(f"{key} ({found})")
    if wrong:
        raise BadWeightsError(
            f"{name}: "
            + "; ".join(f"weights must be {kind}, unlike {listed(w)}" for kind, w in wrong.items()),
            tip="a quantised checkpoint must be converted back to floating point first"
            if narrow
            else None,
        )


_KINDS = {
    "real": "floating-point numbers",
    "narrow": "floating-point numbers",
    "complex": "complex numbers",
    "whole": "whole numbers",
}


def _kind_of(dtype: torch.dtype) -> str:
    if dtype in _WEIGHT_TYPES:
        return "real"
    if dtype in (torch.complex64, torch.complex128):
        return "complex"
    return "narrow" if dtype.is_floating_point or dtype.is_complex else "whole"


def _may_be_infinite(module: nn.Module, name: str) -> bool:
    """Return whether a tensor of a network is a buffer other than a running statistic."""
    owner, _, leaf = name.rpartition(".")
    return leaf in module.get_submodule(owner)._buffers and not leaf.startswith("running_")  # noqa: SLF001


def _is_finite(tensor: Tensor, *, unbounded: bool = False) -> bool:
    """Return whether all numbers are finite, judged by the extremes to save a mask's memory.

    Args:
        tensor: real or complex numbers.
        unbounded: whether infinities are accepted, so that only NaN is refused.
    """
    if tensor.numel() == 0:
        return True
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    elif tensor.dtype not in _WEIGHT_TYPES:
        tensor = tensor.float()  # types of eight bits have no arithmetic
    low, high = torch.aminmax(tensor)
    if unbounded:
        return not bool(low.isnan())
    return bool(low > -_LARGEST and high < _LARGEST)


def listed(names: Sequence[str]) -> str:
    """List the first names, and say how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
