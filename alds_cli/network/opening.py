"""Loading, opening and saving networks, with what callers state about their source."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from alds_cli import architectures
from alds_cli.architectures.building import share, shared_groups
from alds_cli.checkpoint import (
    Checkpoint,
    artefact_size,
    read_checkpoint,
    require_writable,
    write_artefact,
)
from alds_cli.checkpoint.folder_writing import (
    folder_size,
    names_folder,
    require_replaceable,
    write_folder,
)
from alds_cli.datasets import Samples, TokenBlocks
from alds_cli.errors import CheckpointError, OptionError, OutputError, PlanError
from alds_cli.inputs import InputSpec, inputs_tip, parse_inputs
from alds_cli.network.loading import densified, fold, open_checkpoint
from alds_cli.network.networks import Network, network_of, require_sound
from alds_cli.network.verification import Verification, verify
from alds_cli.options.model_source import AS_IT_IS, Source
from alds_cli.records import Architecture, Preprocessing
from alds_cli.surgery import detach_computed
from alds_cli.surgery.inference_form import put_into_inference_form
from alds_cli.tracing.trace import Trace, trace

Model = str | Path | Network | nn.Module

Preparation = Preprocessing | Callable[[Preprocessing | None], Preprocessing | None] | None
"""A preprocessing, a function that changes the one the model states, or None for the latter."""


def stated_architecture(source: Source) -> Architecture | None:
    """Return the architecture asked for; None if it is to be recognised.

    Raises:
        ArchitectureError: there is no architecture of that name.
        OptionError: arguments are given without a name, or they ask for weights.
    """
    if source.arch is None:
        if source.arch_args:
            raise OptionError(
                "arguments of an architecture are given, but no architecture",
                tip="name the network too: --arch NAME",
            )
        return None
    if isinstance(source.arch_args, Mapping):
        arch = replace(
            architectures.parse_architecture(source.arch), arguments=dict(source.arch_args)
        )
        architectures.require_plain(arch)
        return arch
    return architectures.parse_architecture(source.arch, source.arch_args)


def stated_inputs(source: Source) -> InputSpec | None:
    """Return the network's inputs, if they are stated.

    Raises:
        OptionError: they are stated twice, or make no sense.
    """
    shape, spec = source.input_shape, source.input_spec
    if shape is not None and spec is not None:
        raise OptionError(
            "an input shape and an input specification are given",
            tip="leave one of the two out",
        )
    if shape is not None:
        return InputSpec.of_sample(tuple(shape))
    return parse_inputs(spec) if isinstance(spec, str) else spec


def load(path: str | Path, **source: Any) -> nn.Module:
    """Load the network in a model file, on the CPU and in evaluation mode.

    In artefacts, pairs of modules stand in the place of layers; optimised ones come in the form
    that only gives answers.

    Args:
        path: any file that the commands take.
        source: fields of `Source` if the file needs them, e.g. `arch="resnet18"`.

    Raises:
        AldsError: the file cannot be read, or no network fits it.
    """
    return answering(open_network(path, Source(**source)))


def answering(network: Network, *, packed: bool = True) -> nn.Module:
    """Return the network's module in the form that is fastest, where it was optimised.

    That form is in evaluation mode, and for answers only. The module is changed in place.

    Args:
        network: any network.
        packed: whether weights may be kept as this PyTorch computes with them, which what is
            exported does not.

    Raises:
        CheckpointError: the artefact's list of changes does not fit its network.
    """
    if network.inference is None:
        return network.module
    try:
        form = network.inference if packed else replace(network.inference, packed=False)
        return put_into_inference_form(network.module, form)
    except PlanError as error:
        raise CheckpointError(
            f"{network.name}: the artefact's document is damaged: {error.message}"
        ) from error


def save(model: Network | nn.Module, path: str | Path, **source: Any) -> int:
    """Write a network as an artefact, and return the number of bytes.

    Args:
        model: a `Network`, or a module whose architecture is recognised or named.
        path: `.safetensors` gives that format, any other suffix PyTorch's.
        source: fields of `Source` that name a module's architecture.

    Raises:
        ArchitectureError: it is not known how to build the network again.
        VerificationError: the network built again computes something else.
        OutputError: the file cannot be written.
    """
    require_target(path)
    network = open_network(model, Source(**source))
    return write_network(network, path, verify(network))


def open_network(
    model: Model, source: Source = AS_IT_IS, *, multiply_back: bool = False
) -> Network:
    """Return the network of any kind of model as one that is safe to change.

    Args:
        model: a path, `-`, a `Network` or a module.
        source: how to read the model's file.
        multiply_back: turn pairs into dense layers again.

    Raises:
        AldsError: the file cannot be read, no network fits it, or its weights are unusable.
    """
    arch, inputs = stated_architecture(source), stated_inputs(source)
    if isinstance(model, (str, Path)):
        return open_read(read_file(model, source), source, multiply_back=multiply_back)
    if isinstance(model, nn.Module):
        detach_computed(model)
        network = network_of(_copy(model), arch)
    else:
        network = replace(model, module=_copy(model.module))
    require_sound(network.module, network.name)
    network.module.cpu()
    if inputs is not None:
        network.inputs = inputs
    if multiply_back:
        network = densified(network)
        fold(network)
    return network


def read_file(path: str | Path, source: Source) -> Checkpoint:
    """Read a file, without building its network.

    Raises:
        CheckpointError: it cannot be read.
    """
    return read_checkpoint(path, allow_pickle=source.allow_pickle, state_key=source.state_key)


def open_read(checkpoint: Checkpoint, source: Source, *, multiply_back: bool = False) -> Network:
    """Build the network of a file that was read; see `open_network`."""
    return open_checkpoint(
        checkpoint,
        arch=stated_architecture(source),
        inputs=stated_inputs(source),
        allow_pickle=source.allow_pickle,
        strip_prefix=_several(source.strip_prefix),
        ignore=_several(source.ignore),
        multiply_back=multiply_back,
    )


def _several(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _copy(module: nn.Module) -> nn.Module:
    """Copy a module, with tensors that have several names shared in the copy, too."""
    copied = copy.deepcopy(module)
    share(copied, shared_groups(module))
    return copied


def settled_preprocessing(given: Preparation, network: Network) -> Preprocessing:
    """Return the preprocessing asked for, or the one that the file or architecture states.

    Raises:
        OptionError: no preprocessing is stated anywhere.
    """
    known = network.preprocessing
    settled = given(known) if callable(given) else given or known
    if settled is None:
        raise OptionError(
            "how images become this network's input is not known",
            tip="--preprocess NAME, or --mean and --std",
        )
    return settled


def preparation_of(samples: Samples, given: Preparation, network: Network) -> Preprocessing | None:
    """Return how samples become a network's input; None for texts, which are it already.

    Raises:
        OptionError: the samples are images, and no preprocessing is stated anywhere.
    """
    return None if isinstance(samples, TokenBlocks) else settled_preprocessing(given, network)


def write_network(network: Network, target: str | Path, verification: Verification) -> int:
    """Write an artefact, and return its number of bytes.

    Args:
        network: the network to write.
        target: the path of the file, or `-` for standard output.
        verification: the result of `verify`, without which nothing may be written.
    """
    del verification
    require_form(network, target)
    state, document = network.module.state_dict(), network.document()
    if names_folder(target, described=_is_described(network)):
        return write_folder(state, document, Path(target), network.folder)
    return write_artefact(state, document, target)


def written_size(network: Network, target: str | Path) -> int:
    """Return the number of bytes that `write_network` would return.

    Args:
        network: the network; on the meta device it suffices.
        target: the name that it would be written to.
    """
    state, document = network.module.state_dict(), network.document()
    if names_folder(target, described=_is_described(network)):
        return folder_size(state, document, network.folder)
    return artefact_size(state, document, target)


def _is_described(network: Network) -> bool:
    return network.architecture is not None and architectures.is_described(network.architecture)


def require_form(network: Network, target: str | Path) -> None:
    """Make sure that a network can be written in the form that the name of its file asks for.

    Raises:
        OutputError: a folder is asked for, and the network has no description to put there.
    """
    if names_folder(target, described=False) and not _is_described(network):
        raise OutputError(
            f"cannot write {target}: only networks of transformers are written as folders",
            tip="name a file, e.g. small.pt",
        )


def require_target(target: str | Path) -> None:
    """Make sure, before the work starts, that its result can be written."""
    if names_folder(target, described=False):
        require_replaceable(Path(target))
    elif str(target) != "-":
        require_writable(Path(target))


def trace_network(network: Network) -> Trace:
    """Trace a forward pass on the network's inputs; the trace is empty if these are unknown."""
    if network.inputs is None:
        return Trace(None, failure="what the network takes as input is not known")
    return trace(network.module, network.inputs)


def timed_inputs(network: Network) -> InputSpec:
    """Return what a network takes, so that it can be timed.

    Raises:
        OptionError: that is not known.
    """
    if network.inputs is None:
        raise OptionError(
            "the network cannot be timed: what it takes as input is not known",
            tip=inputs_tip(None),
        )
    return network.inputs
