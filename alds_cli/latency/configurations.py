"""The properties of a layer that its running time depends on, and layers built from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.numerics.fold import pair_params
from alds_cli.records import PLAIN, Choice, Inference, LayerKind
from alds_cli.runtime.devices import computing_dtype
from alds_cli.surgery import bias_of, make_pair
from alds_cli.surgery.inference_form import laid_out
from alds_cli.surgery.layer_contents import extents_of, groups_of, kernel_of
from alds_cli.tracing.trace import LayerCall

_FAMILIES: Mapping[str, type[nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
}

_GEOMETRY = ("stride", "padding", "dilation", "output_padding", "padding_mode")

_SPREAD = 0.05
"""Standard deviation of random weights, large enough that no product is a denormal number."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything about a layer but the values of its weights, and the shape of its input.

    Layers of equal configuration take equal time. `geometry` holds the constructor
    arguments of a convolution other than channels, kernel, groups and bias; `channels_last` and
    `packed` say how its weights and its input lie, as in `Inference`.
    """

    kind: LayerKind
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    groups: int
    geometry: tuple[tuple[str, Any], ...]
    bias: bool
    dtype: str
    input_shape: tuple[int, ...]
    channels_last: bool = False
    packed: bool = False

    @property
    def key(self) -> str:
        """The configuration as a string, to identify it in a file."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def weights(self, choice: Choice | None = None) -> int:
        """Count the weights of the pair that a choice makes of the layer; None: of the layer."""
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel)
        if choice is None:
            return prod(shape)
        return pair_params(shape, choice.scheme, choice.k, choice.j, self.groups)

    def layer(self) -> nn.Module:
        """Build the layer on the meta device."""
        options: dict[str, Any] = {
            "bias": self.bias,
            "device": "meta",
            "dtype": getattr(torch, self.dtype),
        }
        if self.kind == "linear":
            return nn.Linear(self.in_channels, self.out_channels, **options).eval()
        if self.kind == "embedding":
            del options["bias"]
            return nn.Embedding(self.in_channels, self.out_channels, **options).eval()
        family: Any = _FAMILIES[self.kind]
        made: nn.Module = family(
            self.in_channels,
            self.out_channels,
            self.kernel,
            groups=self.groups,
            **dict(self.geometry),
            **options,
        )
        return made.eval()

    def pair(self, choice: Choice) -> nn.Sequential:
        """Build the pair that a choice makes of the layer, on the meta device."""
        return make_pair(self.layer(), choice)

    def laid_out(self, module: nn.Module) -> nn.Module:
        """Return the layer or a pair, on a device, with weights that lie as the layer's do."""
        form = Inference(channels_last=self.channels_last, packed=self.packed)
        return laid_out(module, form)

    def inputs(self, filler: Filler) -> Tensor:
        """Return a random input; of an embedding, indices."""
        if self.kind == "embedding":
            return filler.indices(self.input_shape, self.in_channels)
        dtype = getattr(torch, self.dtype)
        return filler.tensor(self.input_shape, dtype, channels_last=self.channels_last)


def configurations_of(
    layer: Any,
    kind: LayerKind,
    call: LayerCall,
    batch_size: int,
    device: torch.device,
    form: Inference = PLAIN,
) -> Counter[Configuration]:
    """Count the configurations in which a forward pass calls a layer.

    Args:
        layer: the module.
        kind: the kind in its `LayerSpec`.
        call: its calls in a forward pass of one sample. The first axis may hold more than
            samples, as in attention over windows, so it is multiplied by the batch size.
        batch_size: samples in a forward pass.
        device: where the layer computes; on the CPU half precision is widened.
        form: how the weights of two-dimensional convolutions lie.
    """
    flat = kind == "conv2d"
    inputs, outputs = extents_of(layer)
    kernel = kernel_of(layer)
    dtype = computing_dtype(layer.weight.dtype, device)
    return Counter(
        Configuration(
            kind=kind,
            in_channels=inputs,
            # A call may use only some rows of a packed projection.
            out_channels=made[-1] if kind == "linear" else outputs,
            kernel=kernel,
            groups=groups_of(layer),
            geometry=tuple((name, _given(layer, name)) for name in _geometry_of(kind))
            if kernel
            else (),
            bias=bias_of(layer) is not None,
            dtype=str(dtype).removeprefix("torch."),
            input_shape=(given[0] * batch_size, *given[1:]),
            channels_last=flat and form.channels_last,
            packed=flat and form.packed,
        )
        for given, made in call.shapes
    )


def _geometry_of(kind: LayerKind) -> tuple[str, ...]:
    transposed = kind.startswith("conv_transpose")
    return tuple(name for name in _GEOMETRY if transposed or name != "output_padding")


def _given(layer: Any, name: str) -> Any:
    value = getattr(layer, name)
    return value if isinstance(value, str) else tuple(value)


class Filler:
    """A source of random numbers of ordinary size for the tensors of layers to be timed.

    A million numbers are drawn once and then copied, since drawing takes longer than running
    a layer.
    """

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(0)
        self._drawn = torch.randn(1 << 20, generator=generator, device=device)

    def tensor(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        spread: float = 1.0,
        *,
        channels_last: bool = False,
    ) -> Tensor:
        """Make a new tensor whose entries have about the standard deviation `spread`.

        Args:
            shape: of the tensor.
            dtype: of its entries.
            spread: see above.
            channels_last: whether images (n, channels, height, width) lie so.
        """
        made = torch.empty(shape, dtype=dtype, device=self._drawn.device)
        numbers = self._drawn * spread
        flat = made.view(-1)
        for start in range(0, len(flat), len(numbers)):
            piece = flat[start : start + len(numbers)]
            piece.copy_(numbers[: len(piece)])
        if channels_last and made.ndim == 4:
            return made.contiguous(memory_format=torch.channels_last)
        return made

    def indices(self, shape: tuple[int, ...], count: int) -> Tensor:
        """Make random whole numbers of a shape, at least 0 and below `count`."""
        generator = torch.Generator(self._drawn.device).manual_seed(0)
        return torch.randint(count, shape, generator=generator, device=self._drawn.device)

    def fill(self, layer: nn.Module) -> nn.Module:
        """Replace the parameters of a layer on the meta device by random ones on this device."""
        for part in layer.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                drawn = self.tensor(tuple(parameter.shape), parameter.dtype, _SPREAD)
                setattr(part, name, nn.Parameter(drawn, requires_grad=False))
        return layer
