"""Folders of `transformers`, as the library saves them, and its own reading of them."""

from __future__ import annotations

import json
import warnings

import tiny_transformers
import torch
from safetensors.torch import load_file, save_file
from zoo_checks import held_by, product

from alds_cli.inputs import example_call


def saved(name, folder, **options):
    """Save a network of `tiny_transformers` with random weights in a folder, and return that."""
    torch.manual_seed(0)
    network = getattr(tiny_transformers, name)()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # biases are zero otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.save_pretrained(folder, **options)
    return folder


def described(folder, **changes):
    """Change entries of a folder's configuration, and remove those that become None."""
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def renamed(folder, rename):
    """Give every tensor in a folder of one file another name."""
    path = folder / "model.safetensors"
    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path)


def by_library(folder):
    """Load a folder as the library does, by the class that its configuration names."""
    import transformers  # noqa: PLC0415 - optional, and slow to import

    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, kind).from_pretrained(folder).eval()


def answers(network, inputs, seed=3):
    """Return the first tensor that a network gives."""
    with torch.no_grad():
        return example_call(inputs, seed=seed)(network)[0]


def with_products(dense, small):
    """Put the products of a small network's pairs into the dense network, by plain sums."""
    for name, part in small.named_modules():
        if not isinstance(getattr(part, "first", None), torch.nn.Module):
            continue
        layer = dense.get_submodule(name)
        layer.weight.data.copy_(held_by(layer, product(part)).reshape(layer.weight.shape))
        if part.second.bias is not None:
            layer.bias.data.copy_(part.second.bias)
    return dense
