"""Tensors of a file put into a network, each judged before it is."""

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
"""Beyond it the sums of a layer's products soon leave the range of float64."""


def load_tensors(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    arch: Architecture,
    name: str,
    further: Groups = (),
) -> None:
    """Make the tensors the network's own, without copying; what it shares stays shared.

    Args:
        module: the network, on the meta device.
        tensors: a state dict that fits it, but for further names of shared tensors.
        arch: what it was built from.
        name: the file's, for messages.
        further: names to share a tensor, beside those that the network has.

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
    # Some modules convert what older versions of themselves have saved. The names and
    # shapes are today's, as has been checked, so the versions are too.
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # noqa: SLF001
    module.load_state_dict(state, strict=False, assign=True)
    fill_in_buffers(module, arch)
    share(module, groups)


def completed(tensors: Mapping[str, Tensor], groups: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """The tensors with those added that are there under another name."""
    found = dict(tensors)
    for group in groups:
        present = next((each for each in group if each in tensors), None)
        if present is not None:
            found |= {each: tensors[present] for each in group if each not in tensors}
    return found


def require_agreement(tensors: Mapping[str, Tensor], groups: Groups, name: str) -> None:
    """See that names of one and the same tensor do not have different values.

    Raises:
        BadWeightsError: they do, so that one of the values would be lost.
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
    """Whether two tensors hold the same numbers, of the same type, NaN being equal to NaN."""
    if identity(one) == identity(other):
        return True
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if torch.equal(one, other):
        return True
    return hash_tensors({"": one}) == hash_tensors({"": other})


def shared_names(module: nn.Module) -> dict[str, str]:
    """Further names of the tensors in a state dict, with the first name of each."""
    held = module.state_dict().keys()
    groups = ([each for each in group if each in held] for group in shared_groups(module))
    return {other: first for first, *others in filter(None, groups) for other in others}


def fill_in_buffers(module: nn.Module, arch: Architecture) -> None:
    """Buffers that no checkpoint need hold take the values of a fresh network."""
    hollow = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if not hollow:
        return
    fresh = dict(architectures.build(arch).named_buffers())
    for name in hollow:
        put_at(module, name, fresh[name])


def require_sound(module: nn.Module, name: str) -> None:
    """Refuse weights no arithmetic can be done with; all tensors concerned are named.

    Buffers other than running statistics may be infinite: masks and limits are.

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
    """Refuse parameters of a type that computes something else than the network's own.

    Real numbers of any width may stand for real ones, and complex ones for complex ones;
    whole numbers and truth values only where the network has such.
    """
    wrong: dict[str, list[str]] = {}
    narrow = False
    for key, own in module.named_parameters(remove_duplicate=False):
        given = tensors.get(key)
        if given is None:
            continue
        kind = _kind_of(own.dtype)
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
    """Whether a tensor of a network is a buffer, and none that training fills."""
    owner, _, own = name.rpartition(".")
    return own in module.get_submodule(owner)._buffers and not own.startswith("running_")  # noqa: SLF001


def _is_finite(tensor: Tensor, *, unbounded: bool = False) -> bool:
    """Without a mask as large as the tensor: extremes carry NaN and infinities along.

    Args:
        tensor: of real or complex numbers.
        unbounded: whether infinities are in order, so that only NaN is not.
    """
    if tensor.numel() == 0:
        return True
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    elif tensor.dtype not in _WEIGHT_TYPES:
        tensor = tensor.float()  # eight bits; no arithmetic is defined on them
    low, high = torch.aminmax(tensor)
    if unbounded:
        return not bool(low.isnan())
    return bool(low > -_LARGEST and high < _LARGEST)


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
