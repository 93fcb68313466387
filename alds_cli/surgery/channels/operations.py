"""The operations whose effect on the channel axis is understood, as closed lists."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

ELEMENTWISE_MODULES = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Softplus,
    nn.Softsign,
    nn.Softshrink,
    nn.Hardshrink,
    nn.Threshold,
    nn.Dropout,
    nn.AlphaDropout,
)
"""Modules that treat every number separately, wherever the channel axis is."""

SPATIAL_MODULES = (
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.Upsample,
    nn.UpsamplingNearest2d,
    nn.UpsamplingBilinear2d,
    nn.ZeroPad2d,
    nn.ConstantPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
)
"""Modules that treat every channel separately if the channel axis is axis 1."""

ELEMENTWISE_FUNCTIONS: frozenset[Any] = frozenset(
    {
        F.relu,
        F.relu_,
        F.relu6,
        F.leaky_relu,
        F.elu,
        F.selu,
        F.celu,
        F.gelu,
        F.silu,
        F.mish,
        F.hardswish,
        F.hardsigmoid,
        F.hardtanh,
        F.sigmoid,
        F.tanh,
        F.softplus,
        F.dropout,
        torch.relu,
        torch.relu_,
        torch.sigmoid,
        torch.sigmoid_,
        torch.tanh,
        torch.exp,
        torch.sqrt,
        torch.square,
        torch.abs,
        torch.neg,
        torch.clamp,
        operator.neg,
    }
)

SPATIAL_FUNCTIONS: frozenset[Any] = frozenset(
    {
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.max_pool1d,
        F.max_pool2d,
        F.max_pool3d,
        torch.max_pool1d,
        torch.max_pool2d,
        torch.max_pool3d,
        F.avg_pool1d,
        F.avg_pool2d,
        F.avg_pool3d,
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
        F.adaptive_max_pool1d,
        F.adaptive_max_pool2d,
        F.adaptive_max_pool3d,
        F.interpolate,
    }
)

ELEMENTWISE_METHODS = frozenset(
    {
        "relu",
        "relu_",
        "sigmoid",
        "sigmoid_",
        "tanh",
        "clamp",
        "clamp_",
        "exp",
        "sqrt",
        "square",
        "abs",
        "neg",
        "clone",
        "contiguous",
        "detach",
        "float",
        "double",
        "half",
        "to",
        "type_as",
    }
)

BINARY_FUNCTIONS: frozenset[Any] = frozenset(
    {
        operator.add,
        operator.iadd,
        operator.sub,
        operator.isub,
        operator.mul,
        operator.imul,
        operator.truediv,
        operator.itruediv,
        operator.pow,
        torch.pow,
        torch.add,
        torch.sub,
        torch.mul,
        torch.div,
        torch.maximum,
        torch.minimum,
    }
)

BINARY_METHODS = frozenset(
    {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum"}
)

REDUCTIONS: frozenset[Any] = frozenset(
    {torch.mean, torch.sum, torch.amax, torch.amin, "mean", "sum", "amax", "amin"}
)

CONCATENATIONS: frozenset[Any] = frozenset({torch.cat, torch.concat, torch.concatenate})

FLATTENINGS: frozenset[Any] = frozenset({torch.flatten, "flatten"})

RESHAPINGS: frozenset[Any] = frozenset({torch.reshape, "view", "reshape"})

PERMUTATIONS: frozenset[Any] = frozenset({torch.permute, "permute"})

TRANSPOSITIONS: frozenset[Any] = frozenset(
    {torch.transpose, torch.swapaxes, "transpose", "swapaxes"}
)

SQUEEZINGS: frozenset[Any] = frozenset({torch.squeeze, "squeeze"})

UNSQUEEZINGS: frozenset[Any] = frozenset({torch.unsqueeze, "unsqueeze"})

MAKERS: frozenset[Any] = frozenset({"new_empty", "new_zeros", "new_ones", "new_full"})

FACT_METHODS: frozenset[Any] = frozenset({"dim", "is_floating_point"})


def drops_whole_samples(target: Any) -> bool:
    """Return whether a function is torchvision's stochastic depth, without importing that."""
    return getattr(target, "__module__", None) == "torchvision.ops.stochastic_depth"
