"""From an architecture to a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

from torch import nn

from alds_cli.architectures import from_factory, from_timm, from_torchvision
from alds_cli.architectures.skeleton import SkeletonMode
from alds_cli.architectures.zoo import ZOO
from alds_cli.errors import AldsError, ArchitectureError
from alds_cli.records import Architecture, ArgumentValue

_Constructor = Callable[[str, Mapping[str, ArgumentValue]], nn.Module]


def build(architecture: Architecture, *, device: str = "cpu") -> nn.Module:
    """Build the network, freshly initialised, in training mode, without any download.

    Args:
        architecture: what to build.
        device: where its tensors live. On "meta" they have shapes but no values, and
            building costs neither memory nor initialisation: good for names and
            shapes, not for being filled, because buffers that a checkpoint may lack
            have lost their values there. A `module:factory` is called as it is and
            moved afterwards.

    Raises:
        ArchitectureError: there is no such network, or its constructor or factory
            fails with these arguments.
        MissingExtraError: the architecture is timm's, and timm is not installed.
    """
    with warnings.catch_warnings():
        # What constructors deprecate concerns their authors, not the user of a checkpoint.
        warnings.simplefilter("ignore")
        return _construct(architecture, skeleton=device == "meta").to(device)


def _construct(architecture: Architecture, *, skeleton: bool) -> nn.Module:
    name, arguments = architecture.name, architecture.arguments
    if name in ZOO:
        return _guarded(lambda _, given: ZOO[name].factory(**given), architecture, skeleton)
    if name.startswith(from_timm.PREFIX):
        return _guarded(from_timm.construct, architecture, skeleton)
    if ":" in name:
        return from_factory.construct(name, arguments)
    return _guarded(from_torchvision.construct, architecture, skeleton)


def _guarded(construct: _Constructor, architecture: Architecture, skeleton: bool) -> nn.Module:
    """Call a constructor; what it raises becomes an `ArchitectureError`."""
    name = architecture.name.removeprefix(from_timm.PREFIX)
    if skeleton:
        try:
            with SkeletonMode():
                return construct(name, architecture.arguments)
        except Exception:  # noqa: BLE001, S110 - some constructors need values; see below
            pass
    try:
        return construct(name, architecture.arguments)
    except AldsError:
        raise
    except Exception as error:
        raise ArchitectureError(
            f"{architecture} cannot be built: {type(error).__name__}: {error}",
            tip="constructor arguments are given as --arch-arg name=value",
        ) from error
