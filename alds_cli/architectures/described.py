"""Networks that are described by the configuration in their folder."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from alds_cli.architectures import from_transformers
from alds_cli.checkpoint.model_folder import ModelFolder
from alds_cli.records import Architecture


def network_of_folder(
    folder: ModelFolder | None, named: Architecture | None
) -> Architecture | None:
    """Return the network that a folder describes, if it does.

    Args:
        folder: the folder; None for a model that is a file.
        named: the architecture that the user names; without arguments, those of the folder's
            configuration are added to it where it is of the same library.

    Returns:
        The network; `named` where the folder describes none of that library.

    Raises:
        ArchitectureError: the network is built by code in the folder.
        MissingExtraError: the library is not installed.
    """
    if folder is None:
        return named
    return from_transformers.described(folder.configuration, named) or named


def is_described(architecture: Architecture) -> bool:
    """Return whether a network is built by the configuration in a folder."""
    return architecture.name.startswith(from_transformers.PREFIX)


def own_names(
    architecture: Architecture, network: nn.Module, names: Iterable[str]
) -> dict[str, str]:
    """Return a library's own name of today for every name that its older versions have written.

    Args:
        architecture: the network's architecture.
        network: the network, on any device.
        names: the names in a checkpoint.

    Raises:
        ArchitectureError: an entry is not only named, but also arranged in another way.
    """
    if is_described(architecture):
        return from_transformers.own_names(network, list(names))
    return {name: name for name in names}


def never_saved(architecture: Architecture, network: nn.Module) -> frozenset[str]:
    """Return the names of the entries that a fresh network has, and a library leaves out of files.

    Args:
        architecture: the network's architecture.
        network: the network, on any device.
    """
    if is_described(architecture):
        return from_transformers.never_saved(network)
    return frozenset()
