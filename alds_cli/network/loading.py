"""Building the network of a model file, with which every verb starts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from alds_cli import architectures
from alds_cli.architectures.building import Groups, shared_groups
from alds_cli.checkpoint import (
    Checkpoint,
    Document,
    Selection,
    read_checkpoint,
    select_entries,
)
from alds_cli.errors import (
    ArchitectureError,
    CheckpointError,
    OptionError,
    UnsafeCheckpointError,
)
from alds_cli.inputs import InputSpec
from alds_cli.network.networks import (
    Network,
    completed,
    described,
    listed,
    load_tensors,
    require_sound,
    shapes_of,
    skeleton,
)
from alds_cli.records import (
    Architecture,
    Plan,
    ProgramArchitecture,
)
from alds_cli.surgery import (
    current_norm_names,
    current_tensors,
    dense_pruned_state,
    dense_state,
    detach_computed,
    fold_norms,
    prune_network,
    reshape_network,
)

logger = logging.getLogger(__name__)


Shapes = Mapping[str, tuple[int, ...]]


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
        inputs: the network's inputs, if they differ from the architecture's usual ones.
        allow_pickle: also load pickled code.
        state_key: which entry of a training checkpoint to use.
        strip_prefix: prefixes to remove from the names in the file.
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
    """Build the network of a file that was read; arguments and errors are `load_network`'s."""
    named = checkpoint.document is not None or (checkpoint.program is not None and arch is None)
    if named and (strip_prefix or ignore):
        logger.warning("%s tells what its names are; they are used as they are", checkpoint.name)
    if checkpoint.document is not None:
        trusted = _trusted(checkpoint.name, checkpoint.document, arch, allow_pickle=allow_pickle)
        network = _open_artefact(checkpoint, checkpoint.document, trusted, multiply_back)
    elif checkpoint.program is not None and arch is None:
        network = _open_program(checkpoint, checkpoint.program)
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
    """Fold norms into the weights that they compute, in place; a note says how many."""
    folded = Counter(fold_norms(network.module).values())
    if folded:
        listed = " and ".join(
            f"{title} of {count} layer{'' if count == 1 else 's'}"
            for title, count in folded.items()
        )
        verb = "was" if len(folded) == 1 else "were"
        whose = "its weight" if folded.total() == 1 else "their weights"
        logger.warning("%s %s folded into %s", listed, verb, whose)


def _trusted(
    name: str, document: Document, arch: Architecture | None, *, allow_pickle: bool
) -> Architecture:
    """Return the artefact's architecture, if building it runs only code that the user accepted.

    A file may come from anywhere. Nothing that it names may be fetched, and a function that it
    names, which might be `os:system`, must not be called unless the user names it too.
    """
    stated = document.architecture
    try:
        architectures.require_plain(stated)
    except (ArchitectureError, OptionError) as error:
        raise CheckpointError(f"{name}: {error.message}", tip=error.tip) from error
    factory = architectures.is_factory(stated.name)
    options = architectures.command_line(stated)
    if arch is not None and arch != stated:
        raise OptionError(
            f"{name} states that it is {stated}, not {arch}",
            tip=options if factory else "leave out --arch",
        )
    if factory and arch is None and not allow_pickle:
        raise UnsafeCheckpointError(
            f"{name} is built by code, {stated}; loading it would run that code",
            tip=f"if that is your code: {options}",
        )
    return stated


def _open_artefact(
    checkpoint: Checkpoint, document: Document, arch: Architecture, multiply_back: bool
) -> Network:
    plan = document.plan
    module = skeleton(arch, checkpoint.tensors)
    reshape_network(module, plan.decomposed)
    if plan.pruned:
        prune_network(module, plan.pruned, input_shape=_sample_shape(document))
    further = _stated_groups(module, document, checkpoint.name)
    tensors = current_tensors(module, completed(checkpoint.tensors, further))
    architectures.require_match(arch, shapes_of(module.state_dict()), shapes_of(tensors))
    if multiply_back and _changed(plan):
        module = skeleton(arch, tensors)
        tensors = _dense_tensors(module, tensors, plan)
    load_tensors(module, tensors, arch, checkpoint.name, further)
    return described(
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
            inference=None if multiply_back else document.inference,
            folder=checkpoint.folder,
        )
    )


def _stated_groups(module: nn.Module, document: Document, name: str) -> Groups:
    """Return the groups of names that share a tensor, as the artefact states them.

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
    """Build the network anew with the same tensors, as its artefact will be loaded.

    Raises:
        ArchitectureError: it is not known how to build it, or its tensors do not fit.
    """
    document = network.document()
    checkpoint = Checkpoint(network.name, network.module.state_dict(), document, 0)
    found = _open_artefact(checkpoint, document, document.architecture, multiply_back=False)
    found.module.eval()
    return found


def _sample_shape(document: Document) -> tuple[int, ...] | None:
    return None if document.inputs is None else document.inputs.sample_shape


def _changed(plan: Plan) -> bool:
    """Return whether the network differs from its architecture."""
    return bool(plan.decomposed or plan.pruned)


def _dense_tensors(
    module: nn.Module, tensors: Mapping[str, Tensor], plan: Plan
) -> dict[str, Tensor]:
    """Return the dense network's state dict: pairs multiplied back, removed filters as zeros."""
    dense = dense_state(module, tensors, plan.decomposed)
    return dense_pruned_state(module, dense, plan.pruned) if plan.pruned else dense


def _open_program(checkpoint: Checkpoint, arch: ProgramArchitecture) -> Network:
    with _said_of(checkpoint.name):
        module = architectures.build(arch, device="meta")
    tensors = architectures.own_tensors(arch, checkpoint.tensors)
    load_tensors(module, tensors, arch, checkpoint.name)
    return described(
        Network(module, arch, Plan({}), name=checkpoint.name, nbytes=checkpoint.nbytes)
    )


def _open_state_dict(
    checkpoint: Checkpoint, arch: Architecture | None, selection: Selection
) -> Network:
    name = checkpoint.name
    with _said_of(name):
        arch = architectures.network_of_folder(checkpoint.folder, arch)
        if arch is None:
            arch = architectures.recognise_state(selection.tensors, selection.spared)
            logger.info("%s is %s", name, arch)
            module = architectures.build(arch, device="meta")
        else:
            module = skeleton(arch, architectures.spellings(selection.tensors))
        today = architectures.own_names(arch, module, selection.tensors)
        norms = current_norm_names(module, today.values())
        spelt = {key: norms[now] for key, now in today.items()}
        tensors = {spelt[key]: tensor for key, tensor in selection.tensors.items()}
        tensors |= _computed(arch, module, tensors)
        found = architectures.resolve(
            arch,
            shapes_of(module.state_dict()),
            tensors,
            twins=shared_groups(module),
            spared=[spelt[key] for key in selection.spared],
        )
    if doubt := architectures.caveat(arch):
        logger.warning("%s", doubt)
    _tell(name, found)
    tensors = {key: tensors[given] for key, given in found.names.items()}
    load_tensors(module, tensors, arch, name)
    return described(
        Network(
            module,
            arch,
            Plan({}),
            name=name,
            preprocessing=architectures.preprocessing_of_folder(checkpoint.folder, arch),
            nbytes=checkpoint.nbytes,
            folder=checkpoint.folder,
        )
    )


def _computed(
    arch: Architecture, module: nn.Module, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the entries that files of the network lack because a fresh network has them."""
    lacking = architectures.never_saved(arch, module) - tensors.keys()
    for group in shared_groups(module):
        if not tensors.keys().isdisjoint(group):
            lacking -= set(group)
    if not lacking:
        return {}
    fresh = architectures.build(arch).state_dict()
    own = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), None)
    found = {name: fresh[name] for name in lacking if name in fresh}
    return {
        name: tensor.to(own) if tensor.is_floating_point() else tensor
        for name, tensor in found.items()
    }


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    """Add the file's name to errors about the network that it holds."""
    try:
        yield
    except ArchitectureError as error:
        raise ArchitectureError(f"{name}: {error.message}", tip=error.tip) from error


def _tell(name: str, found: architectures.Resolution) -> None:
    """Log what in a file was not used."""
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
            "%s: left out %d %s to no layer: %s", name, count, what, listed(found.left_out)
        )


def densified(network: Network) -> Network:
    """Return the network with its pairs multiplied back, and zeros for removed filters.

    Raises:
        ArchitectureError: it is not known how to build the dense network.
    """
    if not _changed(network.plan):
        return network
    arch = network.document().architecture
    state = network.module.state_dict()
    module = skeleton(arch, state)
    dense = _dense_tensors(module, state, network.plan)
    load_tensors(module, dense, arch, network.name)
    module.train(network.module.training)
    return replace(network, module=module, plan=Plan({}), training=None, inference=None)
