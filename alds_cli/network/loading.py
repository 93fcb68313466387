"""From a model file to a network that runs: what every verb starts with."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli import architectures
from alds_cli.checkpoint import (
    Checkpoint,
    Document,
    Selection,
    hash_tensors,
    read_checkpoint,
    select_entries,
)
from alds_cli.errors import (
    ArchitectureError,
    BadWeightsError,
    CheckpointError,
    OptionError,
    UnsafeCheckpointError,
)
from alds_cli.inputs import InputSpec
from alds_cli.records import (
    Architecture,
    Plan,
    Preprocessing,
    Training,
)
from alds_cli.surgery import (
    current_norm_names,
    dense_pruned_state,
    dense_state,
    detach_computed,
    fold_absent_norms,
    fold_norms,
    prune_network,
    put_at,
    reshape_network,
)
from alds_cli.tracing.sharing import (
    Groups,
    identity,
    share,
    shared_groups,
)

logger = logging.getLogger(__name__)

_WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_LARGEST = 1e100
"""Beyond it the sums of a layer's products soon leave the range of float64."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(slots=True)
class Network:
    """A network that runs, with what is known about it.

    `plan` tells which of its layers are pairs. `foreign` says that the module was handed in,
    not built from its architecture. `nbytes` is the size of the file it came
    from, `source_hash` and `params_before` belong to the network that was once compressed,
    `training` describes a retraining.
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
    foreign: bool = False

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample, where the network takes one tensor of them; else None."""
        return None if self.inputs is None else self.inputs.sample_shape

    def compressed_by(self, plan: Plan, source_hash: str | None, params_before: int) -> Network:
        """The same network said to be compressed by a plan; its module is not changed."""
        return replace(
            self, plan=plan, source_hash=source_hash, params_before=params_before, nbytes=None
        )

    def document(self) -> Document:
        """What an artefact holds beside the tensors.

        Raises:
            ArchitectureError: it is not known how to build the network.
        """
        if self.architecture is None:
            raise ArchitectureError(
                "a network of unknown architecture cannot be saved: nobody could load it",
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
            shared=_shared_names(self.module),
        )


def load_network(
    source: str | Path,
    *,
    arch: Architecture | None = None,
    inputs: InputSpec | None = None,
    allow_pickle: bool = False,
    state_key: str | None = None,
    strip_prefix: Sequence[str] = (),
    ignore: Sequence[str] = (),
    multiply_back: bool = False,
) -> Network:
    """Read a model file and build its network on the CPU, in evaluation mode.

    Args:
        source: a path, or `-` for standard input.
        arch: how to build the network; None recognises it.
        inputs: what the network takes, where that differs from the architecture's usual.
        allow_pickle: also load pickled code.
        state_key: which entry of a training checkpoint to use.
        strip_prefix: what to take off the names in the file.
        ignore: shell patterns of entries in the file that are not used.
        multiply_back: turn the pairs of an artefact back into dense layers, and fold norms
            into the weights.

    Raises:
        CheckpointError: the file cannot be read.
        UnsafeCheckpointError: an artefact names code to build it, and `arch` does not.
        ArchitectureError: no network fits it, or not the one named.
        BadWeightsError: weights are integers, NaN or infinite.
        OptionError: a prefix or a pattern matches nothing.
    """
    checkpoint = read_checkpoint(source, allow_pickle=allow_pickle, state_key=state_key)
    return open_checkpoint(
        checkpoint,
        arch=arch,
        inputs=inputs,
        allow_pickle=allow_pickle,
        strip_prefix=strip_prefix,
        ignore=ignore,
        multiply_back=multiply_back,
    )


def open_checkpoint(
    checkpoint: Checkpoint,
    *,
    arch: Architecture | None = None,
    inputs: InputSpec | None = None,
    allow_pickle: bool = False,
    strip_prefix: Sequence[str] = (),
    ignore: Sequence[str] = (),
    multiply_back: bool = False,
) -> Network:
    """Build the network of what was read from a file; the rest is as of `load_network`."""
    if checkpoint.document is not None:
        if strip_prefix or ignore:
            logger.warning("%s is an artefact; its names are used as they are", checkpoint.name)
        trusted = _trusted(checkpoint.name, checkpoint.document, arch, allow_pickle=allow_pickle)
        network = _open_artefact(checkpoint, checkpoint.document, trusted, multiply_back)
    else:
        selection = select_entries(checkpoint.tensors, strip_prefix=strip_prefix, ignore=ignore)
        network = _open_state_dict(checkpoint, arch, selection)
    if inputs is not None:
        network.inputs = inputs
    require_sound(network.module, checkpoint.name)
    network.module.eval()
    detach_computed(network.module)
    if multiply_back:
        fold(network)
    return network


def fold(network: Network) -> None:
    """Fold norms into the weights they are computed for, in place; a note says how many."""
    folded = Counter(fold_norms(network.module).values())
    if folded:
        listed = " and ".join(
            f"{title} of {count} layer{'' if count == 1 else 's'}"
            for title, count in folded.items()
        )
        verb = "was" if len(folded) == 1 else "were"
        whose = "its weight" if folded.total() == 1 else "their weights"
        logger.warning("%s %s folded into %s", listed, verb, whose)


def network_of(module: nn.Module, arch: Architecture | None = None) -> Network:
    """Wrap a network that is there already; its architecture is recognised if it can be.

    Raises:
        ArchitectureError: the module is not of the architecture named.
    """
    if arch is None:
        try:
            arch = architectures.recognise(_shapes(module.state_dict()))
        except ArchitectureError as error:
            logger.info("the network's architecture is not recognised: %s", error.message)
    else:
        _require_belonging(arch, module)
    return _described(Network(module, arch, Plan({}), foreign=True))


def _require_belonging(arch: Architecture, module: nn.Module) -> None:
    """See that a network built from the architecture can take the module's tensors."""
    state = module.state_dict()
    expected = _shapes(skeleton(arch, state).state_dict())
    architectures.require_match(arch, expected, _shapes(state))


def skeleton(arch: Architecture, entries: Collection[str]) -> nn.Module:
    """The network of an architecture, without values, as a state dict takes it.

    Layers that the architecture normalises are plain ones where the state dict has nothing
    of the norm: whoever saved it had folded that into the weights.

    Args:
        arch: how to build the network.
        entries: the names in the state dict.
    """
    module = architectures.build(arch, device="meta")
    fold_absent_norms(module, entries)
    return module


def _described(network: Network) -> Network:
    """Fill in the architecture's input shape and preprocessing where nothing else says."""
    arch = network.architecture
    if arch is not None:
        if network.inputs is None:
            network.inputs = architectures.default_inputs(arch, network.module)
        if network.preprocessing is None:
            network.preprocessing = architectures.default_preprocessing(arch)
    return network


def _trusted(
    name: str, document: Document, arch: Architecture | None, *, allow_pickle: bool
) -> Architecture:
    """The artefact's architecture, if building it runs no code but what the user agreed to.

    A file may come from anywhere. What it names must not be fetched, and a function that
    it names (`os:system` is one) must not be called unless the user names it too.
    """
    own = document.architecture
    try:
        architectures.require_plain(own)
    except (ArchitectureError, OptionError) as error:
        raise CheckpointError(f"{name}: {error.message}", tip=error.tip) from error
    factory = architectures.is_factory(own.name)
    options = architectures.command_line(own)
    if arch is not None and arch != own:
        raise OptionError(
            f"{name} says itself that it is {own}, not {arch}",
            tip=options if factory else "leave out --arch",
        )
    if factory and arch is None and not allow_pickle:
        raise UnsafeCheckpointError(
            f"{name} is built by code of its own, {own}; loading it would run that code",
            tip=f"if that is your code: {options}",
        )
    return own


def _open_artefact(
    checkpoint: Checkpoint, document: Document, arch: Architecture, multiply_back: bool
) -> Network:
    plan = document.plan
    module = skeleton(arch, checkpoint.tensors)
    reshape_network(module, plan.decomposed)
    if plan.pruned:
        prune_network(module, plan.pruned, input_shape=_sample_shape(document))
    further = _stated_groups(module, document, checkpoint.name)
    tensors: Mapping[str, Tensor] = _completed(checkpoint.tensors, further)
    architectures.require_match(arch, _shapes(module.state_dict()), _shapes(tensors))
    if multiply_back and _changed(plan):
        module = skeleton(arch, tensors)
        tensors = _dense_tensors(module, tensors, plan)
    _load_tensors(module, tensors, arch, checkpoint.name, further)
    return _described(
        Network(
            module,
            arch,
            Plan({}) if multiply_back else plan,
            name=checkpoint.name,
            inputs=document.inputs,
            preprocessing=document.preprocessing,
            nbytes=checkpoint.nbytes,
            source_hash=document.source_hash,
            params_before=document.params_before,
            training=None if multiply_back else document.training,
        )
    )


def _stated_groups(module: nn.Module, document: Document, name: str) -> Groups:
    """The names that an artefact says share a tensor.

    Raises:
        CheckpointError: the network has none of these names, or they cannot share one.
    """
    kinds = {
        key: isinstance(tensor, nn.Parameter)
        for key, tensor in module.state_dict(keep_vars=True).items()
    }
    for other, first in document.shared.items():
        if other not in kinds or kinds[other] != kinds.get(first):
            raise CheckpointError(
                f"{name}: the artefact's document is damaged: {other} cannot share a tensor "
                f"with {first}"
            )
    return [(first, other) for other, first in document.shared.items()]


def reopened(network: Network) -> Network:
    """The network as it comes back from its artefact: built anew, with the same tensors.

    Raises:
        ArchitectureError: it is not known how to build it, or its tensors do not fit then.
    """
    document = network.document()
    checkpoint = Checkpoint(network.name, network.module.state_dict(), document, 0)
    found = _open_artefact(checkpoint, document, document.architecture, multiply_back=False)
    found.module.eval()
    return found


def _sample_shape(document: Document) -> tuple[int, ...] | None:
    return None if document.inputs is None else document.inputs.sample_shape


def _changed(plan: Plan) -> bool:
    """Whether the network differs from its architecture."""
    return bool(plan.decomposed or plan.pruned)


def _dense_tensors(
    module: nn.Module, tensors: Mapping[str, Tensor], plan: Plan
) -> dict[str, Tensor]:
    """The state dict of the dense network: pairs multiplied, zeros in the place of filters."""
    dense = dense_state(module, tensors, plan.decomposed)
    return dense_pruned_state(module, dense, plan.pruned) if plan.pruned else dense


def _open_state_dict(
    checkpoint: Checkpoint, arch: Architecture | None, selection: Selection
) -> Network:
    name = checkpoint.name
    with _said_of(name):
        if arch is None:
            arch = architectures.recognise_state(selection.tensors, selection.spared)
            logger.info("%s is %s", name, arch)
            module = architectures.build(arch, device="meta")
        else:
            module = skeleton(arch, architectures.spellings(selection.tensors))
        spelt = current_norm_names(module, selection.tensors)
        tensors = {spelt[own]: tensor for own, tensor in selection.tensors.items()}
        found = architectures.resolve(
            arch,
            _shapes(module.state_dict()),
            tensors,
            twins=shared_groups(module),
            spared=selection.spared,
        )
    if doubt := architectures.caveat(arch):
        logger.warning("%s", doubt)
    _tell(name, found)
    tensors = {own: tensors[given] for own, given in found.names.items()}
    _load_tensors(module, tensors, arch, name)
    return _described(Network(module, arch, Plan({}), name=name, nbytes=checkpoint.nbytes))


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    """Say of what is wrong with a network that a file holds which file it is."""
    try:
        yield
    except ArchitectureError as error:
        raise ArchitectureError(f"{name}: {error.message}", tip=error.tip) from error


def _tell(name: str, found: architectures.Resolution) -> None:
    """Notes on what in a file was not used."""
    if found.rivals:
        logger.warning(
            "%s: used the network %s; it also holds one under %s (--strip-prefix chooses)",
            name,
            f"under '{found.prefix}'" if found.prefix else "at its top",
            ", ".join(f"'{prefix}'" for prefix in found.rivals),
        )
    if found.left_out:
        count = len(found.left_out)
        what = "entry that belongs" if count == 1 else "entries that belong"
        logger.warning(
            "%s: left out %d %s to no layer: %s", name, count, what, _listed(found.left_out)
        )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _load_tensors(
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
    tensors = _completed(tensors, [[each for each in group if each in held] for group in groups])
    require_agreement(tensors, groups, name)
    _require_kinds(module, tensors, name)
    state: Any = OrderedDict(tensors)
    # Some modules convert what older versions of themselves have saved. The names and
    # shapes are today's, as has been checked, so the versions are too.
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # noqa: SLF001
    module.load_state_dict(state, strict=False, assign=True)
    _fill_in_buffers(module, arch)
    share(module, groups)


def _completed(tensors: Mapping[str, Tensor], groups: Sequence[Sequence[str]]) -> dict[str, Tensor]:
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


def _shared_names(module: nn.Module) -> dict[str, str]:
    """Further names of the tensors in a state dict, with the first name of each."""
    held = module.state_dict().keys()
    groups = ([each for each in group if each in held] for group in shared_groups(module))
    return {other: first for first, *others in filter(None, groups) for other in others}


def _fill_in_buffers(module: nn.Module, arch: Architecture) -> None:
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
        raise BadWeightsError(f"{name}: there are no values in {_listed(hollow)}")
    _require_kinds(module, tensors, name)
    not_finite = [
        key
        for key, tensor in tensors.items()
        if (tensor.is_floating_point() or tensor.is_complex())
        and not _is_finite(tensor, unbounded=_may_be_infinite(module, key))
    ]
    if not_finite:
        raise BadWeightsError(
            f"{name}: NaN, infinite or beyond {_LARGEST:g} are values in {_listed(not_finite)}",
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
            + "; ".join(
                f"weights must be {kind}, unlike {_listed(w)}" for kind, w in wrong.items()
            ),
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


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def densified(network: Network) -> Network:
    """The network with its pairs multiplied back, and zeros for the filters that it lost.

    Raises:
        ArchitectureError: it is not known how to build the dense network.
    """
    if not _changed(network.plan):
        return network
    arch = network.document().architecture
    state = network.module.state_dict()
    module = skeleton(arch, state)
    dense = _dense_tensors(module, state, network.plan)
    _load_tensors(module, dense, arch, network.name)
    module.train(network.module.training)
    return replace(network, module=module, plan=Plan({}), training=None)
