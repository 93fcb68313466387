"""Networks of `transformers`, named `transformers:CLASS`, by the configuration in their folder.

The configuration travels as text in the argument `config`. No code outside the library is run for
it, and nothing is fetched. The package is optional and imported when needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from torch import nn

from alds_cli.errors import ArchitectureError
from alds_cli.records import Architecture, ArgumentValue
from alds_cli.runtime.user_code import importing_extra

PREFIX = "transformers:"

_CONFIG = "config"
"""The argument that holds the configuration's JSON."""

_FETCHING = frozenset({"use_pretrained_backbone"})
"""Settings that would fetch weights, which come from the checkpoint."""

_NEWER = "a newer one may have it: pip install --upgrade transformers"

_KERNELS = frozenset({"attn_implementation", "_attn_implementation", "experts_implementation"})
"""Settings that may name code to fetch; without them the library's own code computes the same."""


def described(configuration: Mapping[str, Any], named: Architecture | None) -> Architecture | None:
    """Return the network that a folder's configuration describes.

    Args:
        configuration: the content of the folder's `config.json`.
        named: the architecture that the user names, which decides the class.

    Returns:
        The network, or None if the configuration is not one of this library or the user names
        something else.

    Raises:
        ArchitectureError: the network is built by code in the folder.
        MissingExtraError: transformers is not installed.
    """
    if named is not None:
        if not named.name.startswith(PREFIX) or named.arguments:
            return None
        return _of_class(named.name.removeprefix(PREFIX), configuration)
    listed = configuration.get("architectures")
    if "model_type" not in configuration or not isinstance(configuration["model_type"], str):
        return None
    if "auto_map" in configuration:
        raise ArchitectureError(
            "the folder's network is built by Python code in that folder, which is never run",
            tip=f"if a class of transformers computes the same: --arch {PREFIX}CLASS",
        )
    if isinstance(listed, Sequence) and listed and isinstance(listed[0], str):
        return _of_class(listed[0], configuration)
    return _of_class(_base_class(configuration["model_type"]), configuration)


def _of_class(name: str, configuration: Mapping[str, Any]) -> Architecture:
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    return Architecture(PREFIX + name, {_CONFIG: text})


def _base_class(model_type: str) -> str:
    """Return the name of the class that computes states, for a folder that names no class.

    Raises:
        ArchitectureError: there is none.
    """
    names = library(model_type).models.auto.modeling_auto.MODEL_MAPPING_NAMES
    found = names.get(model_type)
    if not isinstance(found, str):
        raise _unknown_type(model_type)
    return found


def construct(name: str, arguments: Mapping[str, ArgumentValue]) -> nn.Module:
    """Build the network `name` (without the prefix) of a configuration, with random weights.

    Raises:
        MissingExtraError: transformers is not installed.
        ArchitectureError: transformers has no such network, or the configuration is not given.
        Exception: whatever the network's constructor makes of its configuration.
    """
    kind, configuration = _found(name, arguments)
    with _alone():
        network: nn.Module = kind(configuration)
    return network


def class_and_configuration(architecture: Architecture) -> tuple[Any, Any]:
    """Return the network's class and its configuration, with the defaults filled in.

    Raises:
        MissingExtraError: transformers is not installed.
        ArchitectureError: transformers has no such network, or the configuration is damaged.
    """
    return _found(architecture.name.removeprefix(PREFIX), architecture.arguments)


def own_names(network: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Return the network's own name for each of a checkpoint's, which older versions have written.

    The library's rules apply, as when it loads a checkpoint itself; entries may also lack the
    part of the name under which a network with a head holds the one without.

    Raises:
        ArchitectureError: an entry is not only named, but also arranged in another way.
    """
    from transformers import conversion_mapping, core_model_loading  # noqa: PLC0415 - optional

    rules = conversion_mapping.get_model_conversion_mapping(network)
    converters = [rule for rule in rules if isinstance(rule, core_model_loading.WeightConverter)]
    renamings = [rule for rule in rules if rule not in converters]
    state = network.state_dict()
    found: dict[str, str] = {}
    for name in names:
        found[name], converted = core_model_loading.rename_source_key(
            name, renamings, converters, getattr(network, "base_model_prefix", None) or None, state
        )
        if converted is not None and name not in state:
            raise ArchitectureError(
                f"{name} is arranged in another way than in the network",
                tip="let transformers convert it: CLASS.from_pretrained(FOLDER), then "
                "save_pretrained(OTHER, save_original_format=False)",
            )
    return found


def never_saved(network: nn.Module) -> frozenset[str]:
    """Return the names of the network's entries that its class computes instead of saving them."""
    return frozenset(getattr(network, "_keys_to_ignore_on_save", None) or ())


def _found(name: str, arguments: Mapping[str, ArgumentValue]) -> tuple[Any, Any]:
    transformers = library(name)
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        near = [each for each in dir(transformers) if each.lower().startswith(name[:3].lower())]
        known = [f"{PREFIX}{each}" for each in near]
        close = get_close_matches(f"{PREFIX}{name}", known, n=4)
        raise ArchitectureError(
            f"the installed transformers has no network '{name}'",
            tip=f"did you mean {' or '.join(close)}?" if close else _NEWER,
        )
    text = arguments.get(_CONFIG)
    if not isinstance(text, str):
        raise ArchitectureError(
            f"{PREFIX}{name} is built by a configuration, which is not given",
            tip="name the folder with the config.json",
        )
    return kind, _configuration(transformers, kind, text)


def _configuration(transformers: ModuleType, kind: Any, text: str) -> Any:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchitectureError("the configuration is not JSON") from error
    if not isinstance(content, dict):
        raise ArchitectureError("the configuration is not an object")
    model_type = content.get("model_type", kind.config_class.model_type)
    if model_type not in transformers.CONFIG_MAPPING:
        raise _unknown_type(str(model_type))
    with _alone():
        return transformers.CONFIG_MAPPING[model_type].from_dict(_harmless(content))


def _harmless(value: Any) -> Any:
    """Return a configuration without settings that fetch weights or code."""
    if isinstance(value, dict):
        kept = {
            key: _harmless(each)
            for key, each in value.items()
            if key not in _KERNELS and key != "auto_map"
        }
        return kept | dict.fromkeys(_FETCHING & kept.keys(), False)
    return [_harmless(each) for each in value] if isinstance(value, list) else value


def _unknown_type(model_type: str) -> ArchitectureError:
    return ArchitectureError(
        f"the installed transformers has no networks of the type '{model_type:.80}'",
        tip=_NEWER,
    )


def library(name: str) -> ModuleType:
    """Import transformers for the network `name`, with or without the prefix.

    Raises:
        MissingExtraError: it is not installed.
    """
    name = name.removeprefix(PREFIX)
    with importing_extra(f"the network '{PREFIX}{name}'", "transformers"):
        import transformers  # noqa: PLC0415 - optional, and slow to import
    module: ModuleType = transformers
    return module


@contextmanager
def _alone() -> Iterator[None]:
    """Let the library neither fetch anything nor log its remarks on configurations."""
    from huggingface_hub import constants  # noqa: PLC0415 - comes with transformers
    from transformers.utils import logging  # noqa: PLC0415

    offline, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)
