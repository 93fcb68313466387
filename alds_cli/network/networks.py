"""Networks together with what is known about them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from alds_cli import architectures
from alds_cli.checkpoint import (
    Document,
)
from alds_cli.errors import (
    ArchitectureError,
)
from alds_cli.inputs import InputSpec
from alds_cli.network.filling import shared_names
from alds_cli.records import (
    Architecture,
    Plan,
    Preprocessing,
    Training,
)
from alds_cli.surgery import (
    fold_absent_norms,
)

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
        foreign: whether the module was handed in instead of built from its architecture.
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
            shared=shared_names(self.module),
        )


def network_of(module: nn.Module, arch: Architecture | None = None) -> Network:
    """Wrap an existing network; its architecture is recognised if possible.

    Raises:
        ArchitectureError: the module does not have the architecture named.
    """
    if arch is None:
        try:
            arch = architectures.recognise(shapes_of(module.state_dict()))
        except ArchitectureError as error:
            logger.info("the network's architecture is not recognised: %s", error.message)
    else:
        _require_belonging(arch, module)
    return described(Network(module, arch, Plan({}), foreign=True))


def _require_belonging(arch: Architecture, module: nn.Module) -> None:
    """Make sure that a network built from the architecture can take the module's tensors."""
    state = module.state_dict()
    expected = shapes_of(skeleton(arch, state).state_dict())
    architectures.require_match(arch, expected, shapes_of(state))


def skeleton(arch: Architecture, entries: Collection[str]) -> nn.Module:
    """Build the network of an architecture without values, to load a state dict into.

    A layer that the architecture normalises is a plain one if the state dict has no entries of
    the norm, which was then folded into the weight before saving.

    Args:
        arch: how to build the network.
        entries: the names in the state dict.
    """
    module = architectures.build(arch, device="meta")
    fold_absent_norms(module, entries)
    return module


def described(network: Network) -> Network:
    """Fill in the architecture's input shape and preprocessing if nothing else states them."""
    arch = network.architecture
    if arch is not None:
        if network.inputs is None:
            network.inputs = architectures.default_inputs(arch, network.module)
        if network.preprocessing is None:
            network.preprocessing = architectures.default_preprocessing(arch)
    return network


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by its name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
