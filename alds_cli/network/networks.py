"""Networks together with what is known about them, and a file's checked tensors put into them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.architectures import (
    build,
    default_inputs,
    default_preprocessing,
    recognise,
    require_match,
)
from alds_cli.architectures.building import (
    Groups,
    identity,
    share,
    shared_groups,
)
from alds_cli.checkpoint import (
    Document,
    hash_tensors,
)
from alds_cli.checkpoint.model_folder import ModelFolder
from alds_cli.errors import (
    ArchitectureError,
    BadWeightsError,
)
from alds_cli.inputs import InputSpec
from alds_cli.records import (
    Architecture,
    Inference,
    Plan,
    Preprocessing,
    Training,
)
from alds_cli.surgery import (
    fold_absent_norms,
    put_at,
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
    fresh = dict(build(arch, initialise=False).named_buffers())
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


logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Network:
    """A network that runs, with what is known about it.

    Attributes:
        module: the network itself.
        architecture: how to build it; None if that is not known.
        plan: the choices of the layers that are pairs, and what stays of pruned modules.
        name: its name in messages.
        inputs: what its forward pass takes; None if that is not known.
        preprocessing: how images become its input; None if that is not known.
        nbytes: the size in bytes of the file that it came from.
        source_hash: the fingerprint of the weights that were once compressed.
        params_before: their number of parameters.
        training: its retraining, if there was one.
        inference: what makes it faster where it is only asked for answers; `opening.answering`
            carries that out.
        foreign: whether the module was handed in instead of built from its architecture.
        folder: the folder that it came from; None if it came from elsewhere.
    """

    module: nn.Module
    architecture: Architecture | None
    plan: Plan
    name: str = "network"
    inputs: InputSpec | None = None
    preprocessing: Preprocessing | None = None
    nbytes: int | None = None
    source_hash: str | None = None
    params_before: int | None = None
    training: Training | None = None
    inference: Inference | None = None
    foreign: bool = False
    folder: ModelFolder | None = None

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample, if the network takes a single tensor; None otherwise."""
        return None if self.inputs is None else self.inputs.sample_shape

    def compressed_by(self, plan: Plan, source_hash: str | None, params_before: int) -> Network:
        """Return the network marked as compressed by a plan; its module is not changed."""
        return replace(
            self, plan=plan, source_hash=source_hash, params_before=params_before, nbytes=None
        )

    def document(self) -> Document:
        """Return what an artefact holds beside the tensors.

        Raises:
            ArchitectureError: it is not known how to build the network.
        """
        if self.architecture is None:
            raise ArchitectureError(
                "a network of unknown architecture cannot be saved, because it could not be loaded",
                tip="name what builds it: arch='package.module:factory'",
            )
        return Document(
            architecture=self.architecture,
            plan=replace(self.plan, choices=self.plan.decomposed),
            inputs=self.inputs,
            preprocessing=self.preprocessing,
            source_hash=self.source_hash,
            params_before=self.params_before,
            training=self.training,
            inference=self.inference,
            shared=shared_names(self.module),
        )


def network_of(module: nn.Module, arch: Architecture | None = None) -> Network:
    """Wrap an existing network; its architecture is recognised if possible.

    Raises:
        ArchitectureError: the module does not have the architecture named.
    """
    if arch is None:
        try:
            arch = recognise(shapes_of(module.state_dict()))
        except ArchitectureError as error:
            logger.info("the network's architecture is not recognised: %s", error.message)
    else:
        _require_belonging(arch, module)
    return described(Network(module, arch, Plan({}), foreign=True))


def _require_belonging(arch: Architecture, module: nn.Module) -> None:
    """Make sure that a network built from the architecture can take the module's tensors."""
    state = module.state_dict()
    expected = shapes_of(skeleton(arch, state).state_dict())
    require_match(arch, expected, shapes_of(state))


def skeleton(arch: Architecture, entries: Collection[str]) -> nn.Module:
    """Build the network of an architecture without values, to load a state dict into.

    A layer that the architecture normalises is a plain one if the state dict has no entries of
    the norm, which was then folded into the weight before saving.

    Args:
        arch: how to build the network.
        entries: the names in the state dict.
    """
    module = build(arch, device="meta")
    fold_absent_norms(module, entries)
    return module


def described(network: Network) -> Network:
    """Fill in the architecture's input shape and preprocessing if nothing else states them."""
    arch = network.architecture
    if arch is not None:
        if network.inputs is None:
            network.inputs = default_inputs(arch, network.module)
        if network.preprocessing is None:
            network.preprocessing = default_preprocessing(arch)
    return network


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by its name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
