"""Convolutions that keep their weights as oneDNN computes with them.

PyTorch hands oneDNN a convolution's weight in the order of its state dict, and oneDNN reorders it
into blocks in every call. That takes as long as reading and writing all weights: a sixth of the
time of a ResNet18 for one image. PyTorch's compiler orders them once, ahead of time; these modules
do the same in the first call, by the same operators.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_Packing = tuple[tuple[Any, ...], Tensor]


def can_pack(layer: nn.Module) -> bool:
    """Return whether a layer's weight can be ordered ahead: of a plain convolution in float32.

    A weight that a hook computes is a new one in every call.
    """
    return (
        type(layer) is nn.Conv2d
        and "weight" in layer._parameters  # noqa: SLF001
        and (layer.bias is None or "bias" in layer._parameters)  # noqa: SLF001
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.dtype == torch.float32
    )


class PackedConv2d(nn.Conv2d):
    """A convolution of the same parameters that orders its weight once for every shape of input.

    Where oneDNN does not compute it (other devices and types, gradients), or where the operators
    are missing from this build of PyTorch, it is an ordinary convolution.

    Args:
        layer: the convolution that it takes the place of; its parameters are shared.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({**layer.__dict__, "_packing": None})

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class names it so
        """Convolve (batch, in_channels, height, width)."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._conv_forward(input, self.weight, self.bias)  # type: ignore[no-any-return]
        else:  # noqa: RET505 - only so does TorchScript leave it alone
            return self._in_order(input)

    @torch.jit.unused
    def _in_order(self, given: Tensor) -> Tensor:
        if not self._computes_packed(given):
            plain: Tensor = self._conv_forward(given, self.weight, self.bias)
            return plain
        operators: Any = _operators()
        made: Tensor = operators.convolve(
            given,
            self._packed(given),
            self._parameters["bias"],  # `self.bias` takes as long as a small convolution
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            "none",
            [],
            "",
        )
        return made

    def _computes_packed(self, given: Tensor) -> bool:
        own = self._parameters["weight"]
        bias = self._parameters["bias"]
        return (
            own is not None
            and given.dtype is own.dtype is torch.float32
            and (bias is None or bias.dtype is torch.float32)
            and given.is_cpu
            and own.is_cpu
            and given.ndim == 4
            and given.numel() > 0
            and not (torch.is_grad_enabled() and (given.requires_grad or own.requires_grad))
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and bool(torch._C._get_mkldnn_enabled())  # noqa: SLF001 - `torch.backends.mkldnn` is slow
            and _operators() is not None
        )

    def _packed(self, given: Tensor) -> Tensor:
        """Return the weight ordered for inputs of this shape; weights may change between calls."""
        weight: Any = self._parameters["weight"]
        # Tensors made in inference mode count no versions.
        version = None if weight.is_inference() else weight._version  # noqa: SLF001
        key = (given.shape, weight.data_ptr(), version)
        # In the dictionary, TorchScript does not ask for its type.
        packing: _Packing | None = self.__dict__["_packing"]
        if packing is None or packing[0] != key:
            with torch.no_grad():
                operators: Any = _operators()
                geometry = self.padding, self.stride, self.dilation, self.groups
                ordered = operators.order(weight.detach(), *geometry, list(given.shape))
                self.__dict__["_packing"] = packing = key, ordered
        return packing[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the ordered weight out of copies and files: it is made again."""
        return {**self.__dict__, "_packing": None}


class _Operators(NamedTuple):
    """Those of PyTorch's compiler; there are no others that take ordered weights."""

    convolve: Any
    order: Any


@cache
def _operators() -> _Operators | None:
    """Return the operators, or None where this build of PyTorch lacks them."""
    library, names = torch.ops.mkldnn, ("_convolution_pointwise", "_reorder_convolution_weight")
    known: Any = torch.backends.mkldnn
    if not known.is_available() or not all(hasattr(library, name) for name in names):
        return None
    return _Operators(*(getattr(library, name).default for name in names))


def pack_convolutions(network: nn.Module) -> nn.Module:
    """Put packed convolutions in the place of plain ones, in a network that is returned.

    Modules in several places stay in all of them. Hooks on a convolution stay on it.
    """
    packed: dict[nn.Module, nn.Module] = {}
    if can_pack(network):
        return _packed_once(network, packed)
    for parent in list(network.modules()):
        for name, child in parent._modules.items():  # noqa: SLF001 - children may have two names
            if child is not None and can_pack(child):
                setattr(parent, name, _packed_once(child, packed))
    return network


def _packed_once(layer: Any, known: dict[nn.Module, nn.Module]) -> nn.Module:
    return known.setdefault(layer, PackedConv2d(layer))
