"""Networks that state dicts belong to: torchvision's, the built-in zoo's, other libraries', yours.

An `Architecture` is named by the user (`parse_architecture`) or found from a state dict's
names and shapes (`recognise`), and built by `build`.
"""

from __future__ import annotations

from alds_cli.architectures.building import (
    build,
    current_names,
    default_inputs,
    default_preprocessing,
    input_shape,
)
from alds_cli.architectures.described import (
    is_described,
    network_of_folder,
    never_saved,
    own_names,
)
from alds_cli.architectures.entry_names import spellings
from alds_cli.architectures.from_program import own_tensors
from alds_cli.architectures.from_torchvision import caveat
from alds_cli.architectures.image_processors import preprocessing_of_folder
from alds_cli.architectures.index import command_line, compare, require_match
from alds_cli.architectures.naming import (
    is_factory,
    known_names,
    parse_architecture,
    require_plain,
)
from alds_cli.architectures.recognition import Resolution, recognise, recognise_state, resolve

__all__ = [
    "Resolution",
    "build",
    "caveat",
    "command_line",
    "compare",
    "current_names",
    "default_inputs",
    "default_preprocessing",
    "input_shape",
    "is_described",
    "is_factory",
    "known_names",
    "network_of_folder",
    "never_saved",
    "own_names",
    "own_tensors",
    "parse_architecture",
    "preprocessing_of_folder",
    "recognise",
    "recognise_state",
    "require_match",
    "require_plain",
    "resolve",
    "spellings",
]
