"""What networks of `transformers` take as input, from their configurations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from alds_cli.architectures.from_transformers import class_and_configuration
from alds_cli.inputs import InputSpec, InputTensor
from alds_cli.records import Architecture

_TOKENS = 128
"""The most tokens in an input; half of what a network can take, if that is less, since some
networks use up positions themselves."""

_SECOND = 16_000
"""The numbers in a second of sound, at the rate at which networks of waves are trained."""

_PIXELS = 224
"""The side of images where the configuration does not state it."""


def inputs(architecture: Architecture) -> InputSpec | None:
    """Return the inputs of a network of images, of tokens or of sounds, as waves or spectra.

    A network that both encodes and decodes takes tokens for the decoder, too, and an encoder of
    tokens a mask, because its texts have different lengths.

    Returns:
        The inputs, the main one without a name where it is the first argument; None for a network
        of other inputs.

    Raises:
        MissingExtraError: transformers is not installed.
        ArchitectureError: transformers has no such network, or the configuration is damaged.
    """
    kind, configuration = class_and_configuration(architecture)
    name = str(kind.main_input_name)
    made = _MAIN[name](configuration) if name in _MAIN else None
    if made is None:
        return None
    parameters = [*inspect.signature(kind.forward).parameters][1:]
    further: dict[str, InputTensor] = {}
    if configuration.is_encoder_decoder and "decoder_input_ids" in parameters:
        decoded = _tokens(configuration)
        if decoded is None:
            return None
        further["decoder_input_ids"] = decoded
    elif name == "input_ids" and not _decodes(kind) and "attention_mask" in parameters:
        further["attention_mask"] = InputTensor(made.shape, "int64", 2)
    first = None if parameters[0] == name else name
    return InputSpec(((first, made), *further.items()))


def _decodes(kind: Any) -> bool:
    """Return whether networks of this class go on with a text, looking only at what is before."""
    return bool(kind.can_generate()) or kind.__name__.endswith("ForCausalLM")


def _images(configuration: Any) -> InputTensor | None:
    size = getattr(configuration, "image_size", None) or _PIXELS
    sides = _sides(size)
    channels = getattr(configuration, "num_channels", 3)
    if sides is None or not isinstance(channels, int):
        return None
    return InputTensor((1, channels, *sides))


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    if not isinstance(size, Sequence) or len(size) != 2:
        return None
    height, width = size
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _tokens(configuration: Any) -> InputTensor | None:
    text = configuration.get_text_config(decoder=configuration.is_encoder_decoder)
    words = getattr(text, "vocab_size", None)
    if not isinstance(words, int):  # of CLIP's two parts each has a configuration
        return None
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int):
        positions = getattr(text, "max_target_positions", None) or 2 * _TOKENS
    return InputTensor((1, max(1, min(_TOKENS, positions // 2))), "int64", words)


def _features(configuration: Any) -> InputTensor | None:
    bands = getattr(configuration, "num_mel_bins", None)
    positions = getattr(configuration, "max_source_positions", None)
    if not isinstance(bands, int) or not isinstance(positions, int):
        return None
    # A convolution of stride two comes before the positions.
    return InputTensor((1, bands, 2 * positions))


def _sounds(configuration: Any) -> InputTensor | None:
    """Return a second of sound, or as many frames of a spectrum as a network takes."""
    frames = getattr(configuration, "max_length", None)
    bands = getattr(configuration, "num_mel_bins", None)
    if isinstance(frames, int) and isinstance(bands, int):
        return InputTensor((1, frames, bands))
    return InputTensor((1, _SECOND)) if hasattr(configuration, "conv_kernel") else None


_MAIN = {
    "pixel_values": _images,
    "input_ids": _tokens,
    "input_features": _features,
    "input_values": _sounds,
}
