"""Texts that a compression looks at in place of images."""

from __future__ import annotations

from dataclasses import replace

from alds_cli.datasets import Reading, TokenBlocks, opened_samples
from alds_cli.network.networks import Network
from alds_cli.options.compress_options import CompressOptions


def with_texts(options: CompressOptions, network: Network) -> CompressOptions:
    """Return the options with their texts read, and let the network know what it takes.

    Args:
        options: with data that are texts.
        network: says how long the texts are that it takes, unless the options do. Where it states
            no inputs, it is given those of the texts.

    Raises:
        OptionError: there is no tokenizer.
        DataError: they are absent, damaged or empty.
    """
    assert options.data is not None  # noqa: S101 - it is text
    texts = opened_samples(options.data, Reading.of(options, network.inputs))
    if network.inputs is None and isinstance(texts, TokenBlocks):
        network.inputs = texts.inputs
    return replace(options, data=texts)
