"""The files that the commands of `equal_bytes.py` begin with, drawn from fixed seeds."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import own_networks
import torch
import torchvision
from safetensors.torch import save_file

_METHOD = '''"""A method of a user's own."""


def smallest(problem):
    """Take the smallest option of every layer."""
    layers = problem.options("frobenius")
    return {layer.name: layer.choice(int(layer.costs[:, 0].argmin())) for layer in layers}
'''


def write_inputs(folder: Path, zoo: Path | None) -> None:
    """Write what the commands begin with: models, images, plans; the same bytes every time."""
    shutil.copy(own_networks.__file__, folder)
    Path(folder, "own_method.py").write_text(_METHOD)
    (folder / "out").mkdir()
    if zoo:
        (folder / "zoo").symlink_to(zoo.resolve())
    _write_plans(folder)
    _write_models(folder)
    generator = torch.Generator().manual_seed(0)
    size = (64, 32, 32, 3)
    images = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (64,), generator=generator)
    save_file({"images": images, "labels": labels}, folder / "images.safetensors")


def _write_plans(folder: Path) -> None:
    plan = {
        "schema": 1,
        "method": "alds",
        "solver": "exact",
        "bound": "density",
        "seed": 0,
        "layers": {
            "layer2.1.conv2": {"scheme": 0, "k": 4, "j": 5},
            "layer3.0.conv2": {"scheme": 3, "k": 2, "j": 9},
            "layer3.2.conv1": {"scheme": 1, "k": 1, "j": 20},
            "linear": "keep",
        },
    }
    Path(folder, "edited.json").write_text(json.dumps(plan, indent=2))
    layers = {"layer3.0.conv2": {"scheme": 0, "k": 3, "j": 2}}
    Path(folder, "wrong.json").write_text(json.dumps({**plan, "layers": layers}))


def _write_models(folder: Path) -> None:
    resnet20 = own_networks.cifar_resnet20_weights()
    save_file(resnet20, folder / "resnet20.safetensors")
    Path(folder, "damaged.pt").write_bytes((folder / "resnet20.safetensors").read_bytes()[:1000])
    _write_parts(folder / "parts", resnet20)
    averaged = {f"module.{name}": tensor for name, tensor in resnet20.items()}
    training = {"epoch": 3, "model": resnet20, "model_ema": averaged}
    torch.save(training, folder / "training.tar")
    torch.save(
        {"state_dict": averaged, "criterion": torch.nn.CrossEntropyLoss()}, folder / "pickled.pt"
    )
    resnet18 = torchvision.models.resnet18(weights=None)
    torch.save(own_networks.random_weights(resnet18, 1), folder / "resnet18.pt")
    mobilenet = torchvision.models.mobilenet_v2(weights=None)
    save_file(own_networks.random_weights(mobilenet, 2), folder / "mobilenet_v2.safetensors")
    torch.save(own_networks.random_weights(own_networks.encoder(), 3), folder / "encoder.pt")
    torch.save(own_networks.random_weights(own_networks.mixed(), 4), folder / "mixed.pt")
    if importlib.util.find_spec("timm"):
        import timm  # noqa: PLC0415 - an extra

        network = timm.create_model("test_vit")
        save_file(own_networks.random_weights(network, 5), folder / "timm.safetensors")


def _write_parts(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a model in two parts, as Hugging Face's libraries do."""
    folder.mkdir()
    names = list(tensors)
    halves = {"1": names[: len(names) // 2], "2": names[len(names) // 2 :]}
    index = {}
    for number, own in halves.items():
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in own}, folder / file)
        index.update(dict.fromkeys(own, file))
    content = {"metadata": {}, "weight_map": index}
    Path(folder, "model.safetensors.index.json").write_text(json.dumps(content))
