"""The layers in a program: steps that do what a module of `torch.nn` does with its own tensors.

In a program's graph a convolution is an operator on three tensors. As a module that holds two of
them it can be compressed, and in training mode normalisations and dropout train.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alds_cli.architectures.program_operators import by_name, operator_named
from alds_cli.checkpoint.program_products import exchanges_axes
from alds_cli.records import Program, ProgramStep, ProgramTensor, references

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS: Mapping[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
"""The normalisation of a tensor with so many axes."""

GETTING = "operator.getitem"
"""The operator that takes one of several results."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that does what a step does.

    Attributes:
        name: its dotted name in the network.
        kind: its class.
        settings: the arguments of its constructor.
        given: what it is called with, as an argument of a program's step.
        tensors: its tensors' names in the program by those in the module.
        turned: whether the program holds the weight with its axes exchanged.
    """

    name: str
    kind: type[nn.Module]
    settings: Mapping[str, Any]
    given: Any
    tensors: Mapping[str, str]
    turned: bool = False

    @property
    def module(self) -> tuple[Any, ...]:
        """What makes the module; two steps with the same are two calls of it."""
        return (self.name, self.kind, dict(self.settings), dict(self.tensors), self.turned)


def layers_in(program: Program) -> dict[str, Layer]:
    """Return the layers by the names of their steps."""
    finder = _Finder(program)
    found: dict[str, Layer] = {}
    owners: dict[str, tuple[Any, ...]] = {}
    for step in program.steps:
        layer = finder.layer(step)
        if layer is None:
            continue
        named = {layer.name, *layer.tensors.values()}
        if all(owners.get(each, layer.module) == layer.module for each in named):
            owners |= dict.fromkeys(named, layer.module)
            found[step.name] = layer
    turned = {layer.tensors["weight"] for layer in found.values() if layer.turned}
    read = {name for step, name in program.uses_of("tensor") if not finder.goes_into(step, found)}
    # A weight that is turned in its module can be read nowhere else.
    return {
        name: layer
        for name, layer in found.items()
        if layer.tensors.get("weight") not in turned & read
    }


class _Finder:
    """What is known of a program while its layers are looked for."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._steps = {step.name: step for step in program.steps}
        self._axes: dict[str, int | None] = {own.name: len(own.shape) for own in program.inputs}
        self._axes |= {step.name: step.axes for step in program.steps}
        self._users: dict[str, set[str]] = defaultdict(set)
        for step, name in program.uses_of("value"):
            self._users[name].add(step.name)
        used = {*self._users, *references(program.output, "value")}
        self._several = {
            next(references(step.arguments, "value"), "")
            for step in program.steps
            if step.operator == GETTING and step.arguments[1:] != (0,) and step.name in used
        }

    def layer(self, step: ProgramStep) -> Layer | None:
        """Return what a step does as a layer; None if it is none."""
        packet = step.operator.split(".")[1] if step.operator.startswith("aten.") else ""
        make = _MAKERS.get(packet)
        if make is None:
            return None
        return make(
            self, step, by_name(operator_named(step.operator), step.arguments, step.options)
        )

    def axes(self, value: Any) -> int | None:
        """Return the number of axes of an argument that is a step's result or an input."""
        return self._axes.get(next(references(value, "value"), ""))

    def only_first(self, step: ProgramStep) -> bool:
        """Return whether no other than the first of a step's results is used."""
        return step.name not in self._several

    def parameter(self, value: Any) -> str | None:
        """Return the name of the parameter that an argument is; None if it is something else."""
        name = self.tensor(value)
        return name if name is not None and self.about(name).trained else None

    def tensor(self, value: Any) -> str | None:
        """Return the name of the tensor that an argument is; None if it is something else."""
        name = value.get("tensor") if isinstance(value, dict) else None
        return name if name in self._program.tensors else None

    def about(self, name: str) -> ProgramTensor:
        """Return what is known of a tensor."""
        return self._program.tensors[name]

    def goes_into(self, step: ProgramStep, layers: Container[str]) -> bool:
        """Return whether a step is a layer, or only exchanges axes of the weights of layers."""
        if step.name in layers:
            return True
        users = self._users.get(step.name)
        return exchanges_axes(step) and bool(users) and all(each in layers for each in users or ())

    def owns_more(self, module: str, held: Iterable[str]) -> bool:
        """Return whether the program has other tensors of a module than those that it holds."""
        own = {name for name in self._program.tensors if name.rpartition(".")[0] == module}
        return not own <= {*held}

    def matrix(self, value: Any) -> tuple[str, bool] | None:
        """Return a parameter with two axes, and whether an argument has them exchanged."""
        turned = False
        step = self._steps.get(next(references(value, "value"), ""))
        if step is not None and exchanges_axes(step):
            value, turned = step.arguments[0], True
        name = self.parameter(value)
        return (name, turned) if name and len(self.about(name).shape) == 2 else None


def _convolution(finder: _Finder, step: ProgramStep, given: Mapping[str, Any]) -> Layer | None:
    weight, bias = finder.parameter(given["weight"]), finder.parameter(given["bias"])
    held = {"weight": weight, "bias": bias}
    if weight is None or (bias is None) != (given["bias"] is None):
        return None
    leading, within, *kernel = finder.about(weight).shape
    turned = "transpose" in step.operator or given.get("transposed") is True
    settings: dict[str, Any] = {
        key: tuple(given[key]) if isinstance(given[key], list) else given[key]
        for key in ("stride", "padding", "dilation", "groups")
    }
    if turned:
        settings["output_padding"] = tuple(given["output_padding"])
    kinds = _TRANSPOSED if turned else _CONVOLUTIONS
    if not 1 <= len(kernel) <= len(kinds) or any(references(tuple(settings.values()), "value")):
        return None
    channels = (leading, within * settings["groups"])
    settings |= {
        "in_channels": channels[not turned],
        "out_channels": channels[turned],
        "kernel_size": tuple(kernel),
        "bias": bias is not None,
    }
    return _layer(finder, kinds[len(kernel) - 1], settings, given["input"], held)


def _linear(finder: _Finder, _: ProgramStep, given: Mapping[str, Any]) -> Layer | None:
    return _product(finder, given["input"], finder.matrix(given["weight"]), given["bias"])


def _matrix_product(finder: _Finder, _: ProgramStep, given: Mapping[str, Any]) -> Layer | None:
    second = finder.matrix(given.get("mat2", given.get("other")))
    first = given.get("self")
    if second is None or (finder.axes(first) or 0) < 2:
        return None
    return _product(finder, first, (second[0], not second[1]), None)


def _added_product(finder: _Finder, _: ProgramStep, given: Mapping[str, Any]) -> Layer | None:
    second = finder.matrix(given["mat2"])
    if second is None or (given["alpha"], given["beta"]) != (1, 1):
        return None
    return _product(finder, given["mat1"], (second[0], not second[1]), given["self"])


def _contraction(finder: _Finder, _: ProgramStep, given: Mapping[str, Any]) -> Layer | None:
    """Return the layer of an einsum over the last axis of a tensor and one of a matrix."""
    terms, _arrow, result = given["equation"].replace(" ", "").partition("->")
    pairs = list(zip(terms.split(","), given["tensors"], strict=False))
    for (own, first), (axes, second) in (pairs, pairs[::-1]) if len(pairs) == 2 else ():
        matrix, free = finder.matrix(second), own[:-1]
        contracted, kept = own[-1:], result[-1:]
        if (
            matrix is None
            or result[:-1] != free
            or axes not in {contracted + kept, kept + contracted}
        ):
            continue
        letters = free.replace("...", "") + contracted + kept
        if (
            letters.isalpha()
            and len(set(letters)) == len(letters)
            and (finder.axes(first) or 0) > 1
        ):
            weight, turned = matrix
            return _product(finder, first, (weight, turned != (axes == contracted + kept)), None)
    return None


def _product(
    finder: _Finder, first: Any, matrix: tuple[str, bool] | None, added: Any
) -> Layer | None:
    """Return a linear layer, whose matrix (out, in) a program may hold as (in, out)."""
    if matrix is None:
        return None
    weight, turned = matrix
    outputs, inputs = finder.about(weight).shape[:: -1 if turned else 1]
    bias = finder.parameter(added)
    if (bias is None) != (added is None) or (bias and finder.about(bias).shape != (outputs,)):
        return None
    settings = {"in_features": inputs, "out_features": outputs, "bias": bias is not None}
    return _layer(finder, nn.Linear, settings, first, {"weight": weight, "bias": bias}, turned)


def _embedding(finder: _Finder, _: ProgramStep, given: Mapping[str, Any]) -> Layer | None:
    weight = finder.parameter(given["weight"])
    if weight is None or len(finder.about(weight).shape) != 2:
        return None
    count, features = finder.about(weight).shape
    padding = given["padding_idx"]  # -1 stands for none
    settings = {
        "num_embeddings": count,
        "embedding_dim": features,
        "padding_idx": padding if isinstance(padding, int) and padding >= 0 else None,
        "scale_grad_by_freq": given["scale_grad_by_freq"],
        "sparse": given["sparse"],
    }
    return _layer(finder, nn.Embedding, settings, given["indices"], {"weight": weight})


def _norm(finder: _Finder, step: ProgramStep, given: Mapping[str, Any]) -> Layer | None:
    entries = ("weight", "bias", "running_mean", "running_var")
    held = {entry: finder.tensor(given[entry]) for entry in entries}
    if not finder.only_first(step) or given.get("training") is True:
        return None
    mean, kind = held["running_mean"], _NORMS.get(finder.axes(given["input"]) or 0)
    if kind is None or mean is None or held["running_var"] is None:
        return None
    if (held["weight"] is None) != (held["bias"] is None):
        return None
    counted = f"{mean.rpartition('.')[0]}.num_batches_tracked"
    settings = {
        "num_features": finder.about(mean).shape[0],
        "eps": given["eps"],
        "momentum": given["momentum"],
        "affine": held["weight"] is not None,
    }
    held["num_batches_tracked"] = finder.tensor({"tensor": counted})
    return _layer(finder, kind, settings, given["input"], held)


def _dropout(_: _Finder, step: ProgramStep, given: Mapping[str, Any]) -> Layer:
    return Layer(f"dropouts.{step.name}", nn.Dropout, {"p": given["p"]}, given["input"], {})


def _layer(
    finder: _Finder,
    kind: type[nn.Module],
    settings: dict[str, Any],
    given: Any,
    held: Mapping[str, str | None],
    turned: bool = False,
) -> Layer | None:
    tensors = {entry: name for entry, name in held.items() if name is not None}
    leading = tensors.get("weight") or tensors["running_mean"]
    if "weight" in tensors:
        settings["dtype"] = getattr(torch, finder.about(leading).dtype)
    name = _module_name(leading)
    if finder.owns_more(name, tensors.values()):
        name = leading  # the module of that name would take them for its own
    return Layer(name, kind, settings, given, tensors, turned)


def _module_name(tensor: str) -> str:
    """Return the name of the module that holds a tensor; one of an attention is not its own."""
    for ending in (".weight", ".running_mean", "_weight"):
        if tensor.endswith(ending) and len(tensor) > len(ending):
            return tensor.removesuffix(ending)
    return tensor


_MAKERS = {
    **{f"conv{count}d": _convolution for count in (1, 2, 3)},
    **{f"conv_transpose{count}d": _convolution for count in (1, 2, 3)},
    "convolution": _convolution,
    "linear": _linear,
    "einsum": _contraction,
    "matmul": _matrix_product,
    "mm": _matrix_product,
    "addmm": _added_product,
    "embedding": _embedding,
    "batch_norm": _norm,
    "_native_batch_norm_legit_no_training": _norm,
    "dropout": _dropout,
}
"""What makes layers of steps, by the names of their operators."""
