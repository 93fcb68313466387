"""Building the network of an architecture: its inputs, preprocessing and shared tensors.

torchvision renames some entries while it loads its own published files; a file that is opened
directly still has the old names, which are translated here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alds_cli.architectures import (
    from_factory,
    from_program,
    from_timm,
    from_torchvision,
    from_transformers,
    transformers_inputs,
)
from alds_cli.architectures.index import arguments_tip, load_index
from alds_cli.architectures.zoo import ZOO
from alds_cli.errors import AldsError, ArchitectureError
from alds_cli.inputs import InputSpec
from alds_cli.records import Architecture, Preprocessing, ProgramArchitecture


def build(architecture: Architecture, *, device: str = "cpu", initialise: bool = True) -> nn.Module:
    """Build the network in training mode, without any download.

    Tensors to which the constructor gives several names are one tensor on every device.

    Args:
        architecture: the architecture to build.
        device: the device of its tensors. On "meta" they have shapes but no values, and
            building costs neither memory nor initialisation. That suits names and shapes, but
            such a network cannot be filled, because buffers that a checkpoint may lack have
            lost their values. A `module:factory` is called as it is and moved afterwards.
        initialise: whether to initialise parameters. False leaves them at whatever their
            memory held, which saves most of the time if all of them are loaded next, as
            `require_match` makes sure; buffers get their values. A `module:factory` is called
            as it is.

    Raises:
        ArchitectureError: there is no such network, or its constructor or factory
            fails with these arguments.
        MissingExtraError: the architecture is of a library that is not installed.
    """
    with warnings.catch_warnings():
        # Deprecation warnings of constructors concern their authors, not the user.
        warnings.simplefilter("ignore")
        network = _construct(architecture, _mode(device, initialise))
        # Moving makes a separate tensor for every name, so shared tensors are shared again.
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
    if isinstance(architecture, ProgramArchitecture):
        make = partial(from_program.construct, architecture.graph)
    elif name in ZOO:
        make = partial(ZOO[name].factory, **arguments)
    elif name.startswith(from_timm.PREFIX):
        make = partial(from_timm.construct, name.removeprefix(from_timm.PREFIX), arguments)
    elif name.startswith(from_transformers.PREFIX):
        plain = name.removeprefix(from_transformers.PREFIX)
        make = partial(from_transformers.construct, plain, arguments)
    elif ":" in name:
        return from_factory.construct(name, arguments)
    else:
        make = partial(from_torchvision.construct, name, arguments)
    try:
        return make() if mode is None else _within(mode, make)
    except AldsError:
        raise
    # Constructors may raise anything when an argument makes no sense.
    except Exception as error:
        said = " ".join(str(error).split())
        raise ArchitectureError(
            f"{architecture} cannot be built: {type(error).__name__}: {said}",
            tip=arguments_tip(architecture),
        ) from error


def _within(mode: SkeletonMode, make: Callable[[], nn.Module]) -> nn.Module:
    """Call a constructor within `mode`, or without it if it needs values that `mode` withholds."""
    try:
        with mode:
            network = make()
        if mode.keeps_values:
            materialise(network)
    except AldsError:
        raise
    except Exception:  # noqa: BLE001 - the plain call repeats the user's errors
        return make()
    return network


_ALLOCATORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})

_DRAWS = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_})


class SkeletonMode(TorchFunctionMode):
    """A mode in which tensors are made on the meta device, without memory or initialisation.

    Only functions that allocate parameters are redirected. `torch.device("meta")` would also
    redirect functions such as `torch.arange`, with which some constructors (RegNet, stochastic
    depth) compute widths and rates that they need as numbers.

    Args:
        keep_values: whether to redirect `torch.empty` only, as `materialise` requires. Tensors
            made by it have no values until these are drawn, so parameters are redirected, while
            buffers and constants get their values.
    """

    def __init__(self, *, keep_values: bool = False) -> None:
        super().__init__()
        self.keeps_values = keep_values
        self._redirected = frozenset({torch.empty}) if keep_values else _ALLOCATORS

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Redirect the call of `func` to the meta device if it allocates.

        Drawing random numbers for a tensor without memory is skipped: it would do nothing but
        import all of PyTorch's compiler.
        """
        del types
        if func in _DRAWS and args[0].is_meta:
            return args[0]
        keywords = dict(kwargs or {})
        if func in self._redirected and keywords.get("device") is None:
            keywords["device"] = "meta"
        return func(*args, **keywords)


def materialise(network: nn.Module) -> None:
    """Give the parameters on the meta device memory on the CPU, with arbitrary values.

    Parameters that modules share stay shared, and so do those that share all their memory.

    Raises:
        ValueError: a buffer is on the meta device, so its value is lost.
    """
    lost = [name for name, buffer in network.named_buffers() if buffer.is_meta]
    if lost:
        raise ValueError(f"the values of {', '.join(lost)} were not computed")
    replaced: dict[Hashable, nn.Parameter] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if not parameter.is_meta:
                continue
            key = identity(parameter)
            if key not in replaced:
                memory = torch.empty_like(parameter, device="cpu")
                replaced[key] = nn.Parameter(memory, parameter.requires_grad)
            setattr(module, name, replaced[key])


# DenseNets of 2017 have `denselayer1.norm.1.weight`, today's have `denselayer1.norm1.weight`.
_DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")

# Vision transformers of 2021 have `mlp.linear_1` and `mlp.linear_2`, today's a sequence of
# linear, activation, dropout, linear.
_TRANSFORMER_MLP = re.compile(r"^(.*encoder_layer_\d+\.mlp)\.linear_([12])\.(weight|bias)$")


def current_names(architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
    """Map each entry name of a checkpoint of `architecture` to the name it has today.

    Rename the tensors with it before they are compared with the network or loaded into
    it. Names of timm's networks and of a `module:factory` map to themselves.
    """
    return {name: name for name in names} if ":" in architecture.name else renamed(names)


def renamed(names: Iterable[str]) -> dict[str, str]:
    """Map names to today's, or all to themselves if old and new ones would collide."""
    mapping = {name: _current(name) for name in names}
    if len(set(mapping.values())) < len(mapping):
        return {name: name for name in mapping}
    return mapping


def _current(name: str) -> str:
    if found := _DENSE_LAYER.match(name):
        return f"{found[1]}{found[2]}"
    if found := _TRANSFORMER_MLP.match(name):
        return f"{found[1]}.{3 * (int(found[2]) - 1)}.{found[3]}"
    return name


def input_shape(
    architecture: Architecture, module: nn.Module | None = None
) -> tuple[int, ...] | None:
    """Return the shape of one sample without the batch: (c, h, w), or (c, t, h, w) for video.

    It is the shape at which the network's published weights are evaluated, with `image_size`,
    `in_channels` and timm's `img_size` and `in_chans` respected.

    Args:
        architecture: the network.
        module: the built network, which is used only if the architecture is a factory: for
            an `input_shape`, an `input_size`, or timm's `default_cfg`.

    Returns:
        The shape, or None for a factory whose module does not state it.

    Raises:
        MissingExtraError: the architecture is timm's, and timm is not installed.
        ArchitectureError: timm has no such network.
    """
    if architecture.name in ZOO:
        channels, height, width = ZOO[architecture.name].input_shape
        return (_whole(architecture, "in_channels", channels), height, width)
    if architecture.name.startswith(from_timm.PREFIX):
        return from_timm.input_shape(architecture)
    entry = load_index().entry(architecture)
    if entry is None:
        return None if module is None else _told_by(module)
    *leading, height, width = entry.input_shape
    size = architecture.arguments.get("image_size")
    return (*leading, size, size) if isinstance(size, int) else (*leading, height, width)


def default_inputs(architecture: Architecture, module: nn.Module | None = None) -> InputSpec | None:
    """Return all inputs of the network: one sample of `input_shape`, or several inputs.

    Args:
        architecture: the network.
        module: the built network; see `input_shape`.

    Returns:
        The inputs, or None for a factory whose module does not state them.

    Raises:
        MissingExtraError: the architecture is timm's, and timm is not installed.
        ArchitectureError: timm has no such network.
    """
    if architecture.name.startswith(from_transformers.PREFIX):
        return transformers_inputs.inputs(architecture)
    if isinstance(architecture, ProgramArchitecture):
        return from_program.inputs_of(architecture)
    shape = input_shape(architecture, module)
    if shape is not None:
        return InputSpec.of_sample(shape)
    return None if ":" in architecture.name else from_torchvision.inputs(architecture)


def default_preprocessing(architecture: Architecture) -> Preprocessing | None:
    """Return the preprocessing with which the network's published weights are evaluated.

    For torchvision it is that of the default weights, or of those for the `image_size` given;
    for the CIFAR networks it has no resizing.

    Returns:
        The preprocessing; None for a factory, for video, and for images with another
        number of channels than the published weights'.

    Raises:
        MissingExtraError: the architecture is timm's, and timm is not installed.
        ArchitectureError: timm has no such network.
    """
    if architecture.name in ZOO:
        network = ZOO[architecture.name]
        channels = _whole(architecture, "in_channels", network.input_shape[0])
        return network.preprocessing if channels == len(network.preprocessing.mean) else None
    if architecture.name.startswith(from_timm.PREFIX):
        return from_timm.preprocessing(architecture)
    entry = load_index().entry(architecture)
    if entry is None or entry.preprocessing is None:
        return None
    size = architecture.arguments.get("image_size")
    if isinstance(size, int) and size != entry.input_shape[-1]:
        return replace(entry.preprocessing, resize=size, crop=size)
    return entry.preprocessing


def _whole(architecture: Architecture, name: str, default: int) -> int:
    value = architecture.arguments.get(name, default)
    return value if isinstance(value, int) else default


def _told_by(module: nn.Module) -> tuple[int, ...] | None:
    configuration = getattr(module, "default_cfg", None)
    listed = configuration.get("input_size") if isinstance(configuration, Mapping) else None
    for value in (
        getattr(module, "input_shape", None),
        getattr(module, "input_size", None),
        listed,
    ):
        if isinstance(value, Sequence) and value and all(isinstance(n, int) for n in value):
            return tuple(value)
    return None


Groups = Sequence[tuple[str, ...]]
"""The names of one tensor each, in the network's order."""


def shared_groups(network: nn.Module) -> list[tuple[str, ...]]:
    """Return the names that stand for one parameter or one buffer, in groups of two or more.

    A module that is registered twice, a parameter that two modules hold, and two parameters that
    are the whole of the same memory are shared. A part of another tensor's memory, or the same
    memory in another shape, is a tensor of its own.
    """
    names: dict[Hashable, list[str]] = {}
    for name, tensor in _named(network):
        names.setdefault((isinstance(tensor, nn.Parameter), identity(tensor)), []).append(name)
    return [tuple(group) for group in names.values() if len(group) > 1]


def identity(tensor: Tensor) -> Hashable:
    """Return a key that is equal for tensors with the same numbers in the same memory."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return id(tensor)
    try:
        # The meta device has no addresses, but it has storages.
        storage = tensor.untyped_storage()._cdata  # noqa: SLF001
    except (RuntimeError, NotImplementedError, ValueError):  # there is no storage (yet)
        return id(tensor)
    return (
        storage,
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        # A view of a complex tensor's memory may differ from it in this alone.
        tensor.is_conj() or tensor.is_neg(),
    )


def share(network: nn.Module, groups: Iterable[Sequence[str]]) -> None:
    """Put the tensor of every group's first name under its other names, in place."""
    for first, *others in groups:
        tensor = _at(network, first)
        for name in others:
            owner, _, attribute = name.rpartition(".")
            holder = network.get_submodule(owner)
            if getattr(holder, attribute) is not tensor:
                setattr(holder, attribute, tensor)


def _at(network: nn.Module, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    found: Tensor = getattr(network.get_submodule(owner), attribute)
    return found


def _named(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(
        network.named_parameters(remove_duplicate=False),
        network.named_buffers(remove_duplicate=False),
    )
