"""The operators that a program may call: PyTorch's own on tensors, and arithmetic of sizes.

A program comes from a file, so that a name in it must not lead to any function of PyTorch's: some
read files, some load code.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alds_cli.errors import ArchitectureError

_SIZES: Mapping[str, Callable[..., Any]] = {
    **{
        f"operator.{function.__name__}": function
        for function in (
            *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv),
            *(operator.mod, operator.neg, operator.eq, operator.ne, operator.lt, operator.le),
            *(operator.gt, operator.ge, operator.getitem),
        )
    },
    **{f"math.{function.__name__}": function for function in (math.ceil, math.floor, math.trunc)},
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_float": torch.sym_float,
    "torch.sym_not": torch.sym_not,
    "torch.sym_ite": torch.sym_ite,
}

_TEXTS = frozenset(
    {
        *("approximate", "equation", "indexing", "mode", "norm", "padding", "padding_mode"),
        *("reduce", "rounding_mode", "side"),
    }
)
"""The only arguments of operators that may be text; in others it names files, for instance."""

_INNER = frozenset(
    {
        *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_shape_as_tensor", "_unsafe_view"),
        *("_fft_c2c", "_fft_c2r", "_fft_r2c", "_trilinear", "_weight_norm"),
        *("_weight_norm_interface", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"),
        *(f"_upsample_nearest_exact{count}d" for count in (1, 2, 3)),
    }
)
"""Operators with a name for PyTorch's own use that are safe nevertheless."""

_REFUSED = frozenset({"from_file", "resize_", "set_", "set_data"})
"""Operators on a tensor's memory instead of its numbers."""


def operator_named(name: str) -> Any:
    """Return the operator of a program's step.

    Raises:
        ArchitectureError: there is no such operator, or programs may not call it.
    """
    if name in _SIZES:
        return _SIZES[name]
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    if namespace == "aten" and packet not in _REFUSED:
        found: Any = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if isinstance(found, torch._ops.OpOverload) and _is_harmless(found, packet):  # noqa: SLF001
            return found
    quantised = "quantized" in namespace
    raise ArchitectureError(
        f"the program calls {name}, which is not an operator that programs may call here",
        tip="compress the network before it is quantised" if quantised else None,
    )


def size_of(tensor: Tensor, axis: int) -> int:
    """Return an extent; unlike the operator's answer, a tracer follows it."""
    return tensor.shape[axis]


_INPLACE: Mapping[str, Any] = {"inplace": True}

_PUBLIC: Mapping[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {
    **{
        f"aten.{name}.default": (getattr(torch, name), {})
        for name in ("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "exp", "sqrt", "abs", "neg")
    },
    **{f"aten.{name}.Tensor": (getattr(torch, name), {}) for name in ("add", "sub", "mul", "div")},
    **{
        f"aten.{name}.default": (getattr(functional, name), {})
        for name in (
            *("gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu"),
            *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
            *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
        )
    },
    **{
        f"aten.{name}_.default": (getattr(functional, name), _INPLACE)
        for name in ("silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu")
    },
    "aten.add_.Tensor": (operator.iadd, {}),
    "aten.mul_.Tensor": (operator.imul, {}),
    "aten.cat.default": (torch.cat, {}),
    "aten.flatten.using_ints": (torch.flatten, {}),
    "aten.mean.dim": (torch.mean, {}),
    "aten.permute.default": (torch.permute, {}),
    "aten.reshape.default": (torch.reshape, {}),
    "aten.squeeze.dim": (torch.squeeze, {}),
    "aten.sym_size.int": (size_of, {}),
    "aten.transpose.int": (torch.transpose, {}),
    "aten.unsqueeze.default": (torch.unsqueeze, {}),
    "aten.view.default": (torch.reshape, {}),
}
"""PyTorch's functions that call an operator with the arguments that they are given, and what they
are given beside. What follows channels through a network knows functions."""


def public_form(
    name: str, options: Mapping[str, Any]
) -> tuple[Callable[..., Any], Mapping[str, Any]]:
    """Return what calls the operator of a step, with its arguments by name.

    It is a function of PyTorch's for general use, where there is one, or the operator itself.

    Raises:
        ArchitectureError: as `operator_named`.
    """
    target = operator_named(name)
    found, further = _PUBLIC.get(name, (target, {}))
    if found in {operator.iadd, operator.imul} and options:
        return target, options
    return found, {**options, **further}


def _is_harmless(found: Any, packet: str) -> bool:
    """Return whether an operator is one of tensors alone, for general use."""
    texts = {each.name for each in found._schema.arguments if "str" in str(each.type)}  # noqa: SLF001
    general = not packet.startswith("_") or packet.startswith("__") or packet in _INNER
    return texts <= _TEXTS and (general or torch.Tag.core in found.tags)


def by_name(target: Any, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of an operator's call by name, those left out by their defaults.

    Raises:
        ArchitectureError: there are more than the operator takes.
    """
    schema = target._schema.arguments  # noqa: SLF001
    if len(arguments) > len(schema):
        raise ArchitectureError(f"the program gives {target} too many arguments")
    given = {each.name: value for each, value in zip(schema, arguments, strict=False)}
    rest = {each.name: each.default_value for each in schema if each.has_default_value()}
    return {**rest, **given, **options}
