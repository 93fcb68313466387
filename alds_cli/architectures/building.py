"""From an architecture to a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

from torch import nn

from alds_cli.architectures import from_factory, from_timm, from_torchvision
from alds_cli.architectures.skeleton import SkeletonMode, materialise
from alds_cli.architectures.suggestions import arguments_tip
from alds_cli.architectures.zoo import ZOO
from alds_cli.errors import AldsError, ArchitectureError
from alds_cli.numerics.sharing import share, shared_groups
from alds_cli.records import Architecture


def build(architecture: Architecture, *, device: str = "cpu", initialise: bool = True) -> nn.Module:
    """Build the network, in training mode, without any download.

    Tensors that the constructor gives several names are one tensor on every device.

    Args:
        architecture: what to build.
        device: where its tensors live. On "meta" they have shapes but no values, and
            building costs neither memory nor initialisation: good for names and
            shapes, not for being filled, because buffers that a checkpoint may lack
            have lost their values there. A `module:factory` is called as it is and
            moved afterwards.
        initialise: False leaves parameters at whatever their memory held, which saves
            most of the time where all of them are loaded next (`require_match` sees to
            that); buffers get their values. A `module:factory` is called as it is.

    Raises:
        ArchitectureError: there is no such network, or its constructor or factory
            fails with these arguments.
        MissingExtraError: the architecture is timm's, and timm is not installed.
    """
    with warnings.catch_warnings():
        # What constructors deprecate concerns their authors, not the user of a checkpoint.
        warnings.simplefilter("ignore")
        network = _construct(architecture, _mode(device, initialise))
        # Moving makes a tensor of its own of every name, so what was one is made one again.
        groups = shared_groups(network)
        moved = network.to(device)
        share(moved, groups)
        return moved


def _mode(device: str, initialise: bool) -> SkeletonMode | None:
    if device == "meta":
        return SkeletonMode()
    return None if initialise else SkeletonMode(keep_values=True)


def _construct(architecture: Architecture, mode: SkeletonMode | None) -> nn.Module:
    name, arguments = architecture.name, architecture.arguments
    if name in ZOO:
        make = partial(ZOO[name].factory, **arguments)
    elif name.startswith(from_timm.PREFIX):
        make = partial(from_timm.construct, name.removeprefix(from_timm.PREFIX), arguments)
    elif ":" in name:
        return from_factory.construct(name, arguments)
    else:
        make = partial(from_torchvision.construct, name, arguments)
    try:
        return make() if mode is None else _within(mode, make)
    except AldsError:
        raise
    # Constructors raise whatever their code runs into when an argument makes no sense.
    except Exception as error:
        raise ArchitectureError(
            f"{architecture} cannot be built: {type(error).__name__}: {error}",
            tip=arguments_tip(architecture),
        ) from error


def _within(mode: SkeletonMode, make: Callable[[], nn.Module]) -> nn.Module:
    """Call a constructor within `mode`, or without where it computes with what that withholds."""
    try:
        with mode:
            network = make()
        if mode.keeps_values:
            materialise(network)
    except AldsError:
        raise
    except Exception:  # noqa: BLE001 - whatever it was, the plain call shows what is the user's
        return make()
    return network
