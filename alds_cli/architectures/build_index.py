"""Making the index of known networks: `python -m alds_cli.architectures.build_index`.

This builds every supported network of the installed torchvision and of the zoo on the meta
device, a few times each: comparing two builds that differ in one argument shows which
extents that argument sets. Preprocessing is read from torchvision's weight enumerations;
nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alds_cli.architectures import from_torchvision
from alds_cli.architectures.building import build
from alds_cli.architectures.index import (
    INDEX_NAME,
    Entry,
    FreeArgument,
    Index,
    Slot,
    digest,
    encode,
    needed,
    sample,
)
from alds_cli.architectures.zoo import ZOO
from alds_cli.records import Architecture, ArgumentValue, Preprocessing

Shape = tuple[int, ...]

# Two values that no extent has by coincidence; both builds must agree on the factor.
_PROBES = (37, 53)
_DEFAULT_CLASSES = {"classification": 1000, "segmentation": 21, "video": 400}
# The shortest clip that video networks accept (torchvision's references use 16 frames).
_CLIP_FRAMES = 16


def make_index() -> Index:
    """Index every supported network, sorted by name; the same versions give the same index."""
    import torchvision  # noqa: PLC0415 - imported only when it is needed

    names = from_torchvision.models().list_models()
    supported = [name for name in names if is_supported(name)]
    entries = [
        torchvision_entry(name, arguments) for name in supported for arguments in _variants(name)
    ]
    entries += [zoo_entry(name) for name in ZOO]
    entries.sort(key=lambda entry: (entry.name, sorted(entry.arguments)))
    version = torchvision.__version__.partition("+")[0]
    return Index(torchvision=version, entries=tuple(entries))


def is_supported(name: str) -> bool:
    """Return whether torchvision's network `name` belongs in the index."""
    return from_torchvision.kind(name) in from_torchvision.INDEXED_KINDS


def zoo_entry(name: str) -> Entry:
    """Index a built-in network."""
    network = ZOO[name]
    defaults = {"num_classes": 10, "in_channels": network.input_shape[0]}
    return _entry(name, {}, defaults, network.input_shape, network.preprocessing)


def torchvision_entry(name: str, arguments: Mapping[str, ArgumentValue]) -> Entry:
    """Index a network of torchvision in the variant that `arguments` make of it."""
    kind = from_torchvision.kind(name) or "classification"
    weights = _weights_for(name, arguments)
    transforms = weights.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    defaults = {"num_classes": _DEFAULT_CLASSES[kind]}
    if kind == "video":
        frames = max(_CLIP_FRAMES, weights.meta.get("min_temporal_size", 1))
        shape: Shape = (len(mean), frames, *transforms.crop_size)
        return _entry(name, arguments, defaults, shape, None)
    (resize,) = transforms.resize_size
    crop = transforms.crop_size[0] if kind == "classification" else None
    size = crop or resize
    interpolation = transforms.interpolation.value
    preprocessing = Preprocessing(mean, std, resize=resize, crop=crop, interpolation=interpolation)
    return _entry(name, arguments, defaults, (len(mean), size, size), preprocessing)


def _variants(name: str) -> Iterator[dict[str, ArgumentValue]]:
    """Yield the arguments, apart from the number of classes, of all published checkpoints."""
    yield {}
    if name in {"googlenet", "inception_v3"}:
        yield {"aux_logits": False}
    if from_torchvision.kind(name) == "segmentation" and not name.startswith("lraspp"):
        yield {"aux_loss": True}
    if name.startswith("vit_"):
        sizes = {weights.meta["min_size"][0] for weights in _all_weights(name)}
        yield from ({"image_size": size} for size in sorted(sizes - {_vit_size({})}))


def _vit_size(arguments: Mapping[str, ArgumentValue]) -> ArgumentValue:
    """Return the image size of torchvision's vision transformers, 224 unless given."""
    return arguments.get("image_size", 224)


def _all_weights(name: str) -> list[Any]:
    return list(from_torchvision.models().get_model_weights(name))


def _weights_for(name: str, arguments: Mapping[str, ArgumentValue]) -> Any:
    """Return the default weights, or those for a vision transformer's image size."""
    default = from_torchvision.models().get_model_weights(name).DEFAULT
    if not name.startswith("vit_"):
        return default
    candidates = [default, *_all_weights(name)]
    size = _vit_size(arguments)
    return next(each for each in candidates if each.meta["min_size"][0] == size)


def _entry(
    name: str,
    arguments: Mapping[str, ArgumentValue],
    defaults: Mapping[str, int],
    input_shape: Shape,
    preprocessing: Preprocessing | None,
) -> Entry:
    shapes = _needed_shapes(name, arguments)
    free = tuple(
        FreeArgument(argument, default, _slots(name, arguments, argument))
        for argument, default in defaults.items()
    )
    if any(argument.read(shapes) != argument.default for argument in free):
        raise ValueError(f"{name} is not built with the defaults {dict(defaults)}")
    return Entry(
        name=name,
        arguments=arguments,
        tensors=len(shapes),
        digest=digest(shapes, free),
        free=free,
        sample=sample(shapes, free),
        input_shape=input_shape,
        preprocessing=preprocessing,
    )


def _needed_shapes(name: str, arguments: Mapping[str, ArgumentValue]) -> dict[str, Shape]:
    network = build(Architecture(name, arguments), device="meta")
    return needed({key: tuple(value.shape) for key, value in network.state_dict().items()})


def _slots(name: str, arguments: Mapping[str, ArgumentValue], argument: str) -> tuple[Slot, ...]:
    """Find every extent that `argument` sets, by building the network with two values."""
    first, second = (_needed_shapes(name, {**arguments, argument: probe}) for probe in _PROBES)
    if first.keys() != second.keys():
        raise ValueError(f"{argument} changes the entries of {name}, not only their shapes")
    return tuple(
        _slot(key, axis, (first[key][axis], second[key][axis]))
        for key in sorted(first)
        for axis in range(len(first[key]))
        if first[key][axis] != second[key][axis]
    )


def _slot(name: str, axis: int, extents: Sequence[int]) -> Slot:
    factors = {extent / probe for extent, probe in zip(extents, _PROBES, strict=True)}
    factor = factors.pop()
    if factors or not factor.is_integer():
        raise ValueError(f"axis {axis} of {name} is no multiple of the argument: {extents}")
    return Slot(name, axis, int(factor))


def main() -> None:
    """Write the index into the package."""
    path = Path(__file__).with_name(INDEX_NAME)
    index = make_index()
    path.write_text(encode(index), encoding="utf-8")
    print(  # noqa: T201 - a script for the package's maintainers
        f"{len(index.entries)} networks of torchvision {index.torchvision} and the zoo, "
        f"{path.stat().st_size} bytes: {path}"
    )


if __name__ == "__main__":
    main()
