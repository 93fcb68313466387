"""Healthy inputs of every format that the commands read."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save, save_file

import alds_cli
from alds_cli import api, architectures
from alds_cli.checkpoint import cache_folder
from alds_cli.retraining import RetrainSettings

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


@dataclass
class Corpus:
    """Files as bytes by name, and the state dict that they hold."""

    files: dict[str, bytes] = field(default_factory=dict)
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    artefact: dict[str, object] = field(default_factory=dict)
    training: dict[str, object] = field(default_factory=dict)
    sweep: Path = Path()
    cache: Path = Path()


def _built(channels, classes):
    arguments = [f"in_channels={channels}", f"num_classes={classes}"]
    network = architectures.build(architectures.parse_architecture("digits_cnn", arguments))
    return network.eval()


def make(folder):
    """Make all healthy inputs in a folder."""
    torch.manual_seed(0)
    found = Corpus()
    network = _built(1, 10)
    found.state = dict(network.state_dict())
    torch.save(found.state, folder / "zip.pt")
    torch.save(found.state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(found.state, folder / "m.safetensors")
    (folder / "three.safetensors").write_bytes(save(dict(_built(3, 2).state_dict())))
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (20, 8, 8, 1), generator=generator, dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(20) % 10}, folder / "data.safetensors")
    for name in ("art.pt", "art.safetensors"):
        alds_cli.compress(
            folder / "zip.pt", ratio=0.5, output=folder / name, plan_output=folder / "plan.json"
        )
    alds_cli.profile(folder / "zip.pt", output=folder / "table.safetensors")
    data = f"tensors:{folder / 'data.safetensors'}"
    found.sweep = folder / "sweep"
    alds_cli.sweep(
        folder / "m.safetensors",
        data,
        train_data=data,
        methods=["alds", "ft"],
        ratios=["0.2"],
        output=found.sweep,
    )
    _interrupted(folder, data)
    found.artefact = torch.load(folder / "art.pt", weights_only=True)
    found.training = torch.load(folder / "out.pt.training", weights_only=True)
    found.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    _shards(found)
    _pictures(found)
    found.files["classes.txt"] = b"cat\ndog\n"
    found.cache = folder / "cache"
    shutil.copytree(cache_folder(), found.cache)
    return found


class _StoppedError(Exception):
    pass


def _interrupted(folder, data):
    """Return the state that a training leaves when it is stopped."""

    def stop(event):
        if event.done >= event.total // 2 + 1:
            raise _StoppedError

    with contextlib.suppress(_StoppedError):
        api.retrain(
            folder / "zip.pt",
            data,
            RetrainSettings(epochs=3, batch_size=5),
            output=folder / "out.pt",
            progress=stop,
        )


def _shards(found):
    """Add a folder as Hugging Face's libraries save it."""
    names = sorted(found.state)
    parts = {"model-00001-of-00002": names[::2], "model-00002-of-00002": names[1::2]}
    where = {}
    for part, names in parts.items():
        file = f"{part}.safetensors"
        found.files[f"hub/{file}"] = save({name: found.state[name] for name in names})
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    found.files["hub/model.safetensors.index.json"] = json.dumps(index).encode()
    found.files["hub/config.json"] = b'{"model_type": "digits"}'


def _pictures(found):
    for number, kind in enumerate(IMAGE_FORMATS):
        file = io.BytesIO()
        Image.new("RGB", (9, 8), (number * 40, 10, 200)).save(file, kind)
        found.files[f"pictures/{'cat' if number % 2 else 'dog'}/{number}.{kind.lower()}"] = (
            file.getvalue()
        )
