"""Parsing and checking the values of `--arch` and `--arch-arg`."""

from __future__ import annotations

from collections.abc import Sequence

from alds_cli.architectures import from_timm, from_torchvision, from_transformers
from alds_cli.architectures.index import WAYS_TIP, did_you_mean, load_index
from alds_cli.errors import ArchitectureError, OptionError
from alds_cli.options.readers import names_object, parse_arguments
from alds_cli.records import Architecture, ProgramArchitecture

# Each of these would fetch weights or read files, but the weights come from the checkpoint.
_WEIGHT_ARGUMENTS = frozenset(
    {"checkpoint_path", "pretrained", "progress", "weights", "weights_backbone"}
)


def known_names() -> list[str]:
    """Return every plain `--arch` name, sorted: torchvision's networks and the built-in ones.

    Names of the form `timm:NAME`, `transformers:CLASS` and `package.module:factory` are accepted
    as well.
    """
    return load_index().names()


def parse_architecture(name: str, arguments: Sequence[str] = ()) -> Architecture:
    """Read an `--arch` name and its `--arch-arg key=value` strings.

    The network is not built, so a factory or a timm name is not looked up yet.

    Raises:
        ArchitectureError: a plain name is unknown, or names a kind of network that is
            not supported; the tip lists close matches.
        OptionError: an argument is not `key=value`, is given twice, or asks for weights.
    """
    _check_name(name)
    parsed = parse_arguments(arguments, "--arch-arg")
    for key in parsed:
        if key in _WEIGHT_ARGUMENTS and not is_factory(name):
            raise OptionError(
                f"--arch-arg {key}: weights come from the checkpoint, not from {name}",
                tip=f"leave out --arch-arg {key}",
            )
    return Architecture(name, parsed)


def require_plain(architecture: Architecture) -> None:
    """Refuse an architecture named in a file if `parse_architecture` would refuse it.

    Raises:
        ArchitectureError: the name is unknown.
        OptionError: an argument cannot be written as text, or asks for weights.
    """
    if isinstance(architecture, ProgramArchitecture):  # it is built by its graph alone
        return
    # A file's JSON may hold lists and objects instead of plain values.
    values: list[object] = list(architecture.arguments.values())
    if not all(value is None or isinstance(value, (str, int, float)) for value in values):
        raise OptionError("an architecture's arguments are plain values")
    listed = [f"{key}={value}" for key, value in architecture.arguments.items()]
    parse_architecture(architecture.name, listed)


def is_factory(name: str) -> bool:
    """Return whether the name stands for the user's own code, `package.module:factory`."""
    return ":" in name and not name.startswith(_LIBRARIES)


_LIBRARIES = (from_timm.PREFIX, from_transformers.PREFIX)


def _check_name(name: str) -> None:
    if name.startswith(from_timm.PREFIX):
        _check_timm_name(name)
    elif name.startswith(from_transformers.PREFIX):
        _check_class_name(name)
    elif ":" in name:
        _check_factory_name(name)
    elif name not in known_names():
        _check_torchvision_name(name)


def _check_timm_name(name: str) -> None:
    # timm also takes hf-hub:… and local-dir:…, which read other files than the checkpoint.
    plain = name.removeprefix(from_timm.PREFIX)
    if not plain or ":" in plain or "/" in plain:
        raise ArchitectureError(f"'{name}' is not timm:NAME with a name of timm's own registry")


def _check_class_name(name: str) -> None:
    if not name.removeprefix(from_transformers.PREFIX).isidentifier():
        raise ArchitectureError(f"'{name}' is not transformers:CLASS with a class of transformers")


def _check_factory_name(name: str) -> None:
    if not names_object(name):
        raise ArchitectureError(f"'{name}' is not of the form package.module:factory", tip=WAYS_TIP)


def _check_torchvision_name(name: str) -> None:
    """Accept names that only the installed torchvision knows, and say why others are refused."""
    kind = from_torchvision.kind(name)
    if kind is None:
        raise ArchitectureError(
            f"no network is called '{name}'", tip=did_you_mean(name.lower(), known_names())
        )
    if kind == "quantization":
        raise ArchitectureError(
            f"'{name}' is one of torchvision's quantised networks, whose weights are packed "
            "whole numbers: no low-rank pair can take their place",
            tip=f"compress {name.removeprefix('quantized_')}, and quantise what comes of it",
        )
    if kind not in from_torchvision.SUPPORTED_KINDS:
        supported = ", ".join(sorted(from_torchvision.SUPPORTED_KINDS))
        raise ArchitectureError(
            f"'{name}' is one of torchvision's {kind} networks, which are not supported "
            f"by name (supported: {supported})",
            tip="wrap it in a factory of your own: --arch package.module:factory",
        )
