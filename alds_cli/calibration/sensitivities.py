"""Empirical sensitivities of channels: the largest share that one has in any response.

Method `pfp` prunes by them. Let a_j be the j-th input channel of a layer and w_ij the kernel
that its filter i applies to this channel. The sensitivity of the channel is

    s_j = max over images, positions and filters i of  ⟨w_ij, a_j⟩ / Σ_k ⟨w_ik, a_k⟩

for weights and activations that are not negative; 0 / 0 counts as 0. If there are both signs,
weights and activations are each split into a positive and a negative part, and the largest
sensitivity among the four combinations counts.

Source: Liebenwein, Baykal, Lang, Feldman, Rus, "Provable Filter Pruning for Efficient Neural
Networks", ICLR 2020, https://openreview.net/forum?id=BJxk01SYDH, Sec. 3, the definition of the
empirical sensitivity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.calibration.observing import Call, observe
from alds_cli.calibration.statistic import Statistic
from alds_cli.datasets import Batch
from alds_cli.numerics.grams import in_units, unit_exponent
from alds_cli.records import FloatArray, ProgressCallback
from alds_cli.surgery.channels import Channels

_PATCH_BYTES = 16 << 20
"""The most bytes of input patches that are unfolded at a time."""

_SHARE_BYTES = 1 << 20
"""The most bytes of shares that are computed at a time; they should fit a processor's cache."""

_TRANSPOSED: dict[type[nn.Module], Any] = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


def channel_sensitivities(
    network: nn.Module,
    channels: Channels,
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, FloatArray]:
    """Measure the sensitivities of the input channels of layers whose inputs may be removed.

    Args:
        network: takes (n, C, H, W); it is left unchanged.
        channels: the channels of the network that may be removed.
        batches: inputs and labels.
        device: where to compute; None means the CPU.
        progress: called after every batch.

    Returns:
        Sensitivities (inputs,) by layer name, each between 0 and 1. A layer that is never called
        is missing.

    Raises:
        DataError: there are no images, or the network does not accept them.
    """
    names = list(dict.fromkeys(name for group in channels.groups for name in group.inputs))
    found = observe(network, names, batches, _LargestShares(), device=device, progress=progress)
    return {name: shares.numpy() for name, shares in found.items()}


SENSITIVITIES: Statistic[Channels] = Statistic(
    "sensitivities", channel_sensitivities, "its inputs cannot be observed"
)
"""Of every layer whose inputs may be removed, their sensitivities."""


class _LargestShares:
    """An observer of layers without groups: its maxima do not depend on the batches' order."""

    def look(self, call: Call) -> Tensor:
        """Return the sensitivities on one batch, (inputs,) in float64."""
        given = call.inputs[0]
        with torch.no_grad():
            return largest_shares(call.layer, given).to("cpu", torch.float64)

    def merge(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the sensitivities on both batches."""
        return torch.maximum(before, after)


def largest_shares(layer: nn.Module, given: Tensor) -> Tensor:
    """Return the largest share of every input channel in any response of a layer, (inputs,).

    Args:
        layer: linear, or a convolution without groups, transposed or not.
        given: a batch of its inputs.
    """
    weight: Any = layer.weight
    dtype = torch.promote_types(given.dtype, torch.float32)
    activations = given.to(dtype)
    sides = [activations.clamp(min=0)]
    if (activations < 0).any():
        sides.append(activations.clamp(max=0).neg_())
    weights = in_units(weight.detach(), unit_exponent(weight)).to(dtype)  # shares stay the same
    kernels = weights.clamp(min=0), weights.clamp(max=0).neg()
    shares = [_shares(layer, kernel, side) for kernel in kernels for side in sides]
    return torch.stack(shares).amax(dim=0).clamp_(max=1.0)


def _shares(layer: nn.Module, kernel: Tensor, given: Tensor) -> Tensor:
    """Return the largest shares for a kernel and activations that are not negative."""
    if type(layer) in _TRANSPOSED:
        return _transposed_shares(layer, kernel, given)
    filters = len(kernel)
    by_channel = kernel.reshape(filters, kernel.shape[1], -1).transpose(0, 1).contiguous()
    together = kernel.reshape(filters, -1)
    most = given.new_zeros(kernel.shape[1])
    for patches in input_patches(layer, given):
        response = together @ patches.flatten(0, 1)
        inverse = _inverse(response)
        torch.maximum(most, _most(by_channel, patches, inverse), out=most)
    return most


def _inverse(response: Tensor) -> Tensor:
    """Return 1 / response, or 0 where the response is 0."""
    least = torch.finfo(response.dtype).tiny
    return torch.where(response >= least, 1 / response, 0.0)


def _most(by_channel: Tensor, patches: Tensor, inverse: Tensor) -> Tensor:
    """Return the maximum over filters and positions of ⟨w_ij, a_jp⟩ · inverse_ip by channel j.

    Args:
        by_channel: w, (c, f, κ).
        patches: a, (c, κ, p).
        inverse: (f, p).
    """
    channels, filters, _ = by_channel.shape
    positions = patches.shape[2]
    room = max(1, _SHARE_BYTES // (inverse.element_size() * filters))
    wide = min(positions, max(64, room))
    step = max(1, room // wide)
    most = by_channel.new_zeros(channels)
    for start in range(0, positions, wide):
        here = slice(start, start + wide)
        for first in range(0, channels, step):
            group = slice(first, first + step)
            shares = torch.bmm(by_channel[group], patches[group, :, here]).mul_(inverse[:, here])
            torch.maximum(most[group], shares.amax(dim=(1, 2)), out=most[group])
    return most


def input_patches(layer: nn.Module, given: Tensor) -> Iterator[Tensor]:
    """Yield the patches that a layer's kernel is applied to, a few positions at once: (c, κ, p).

    Kernel positions follow one another as in the columns of the folded weight, so that the folded
    weight times a patch is the output at its position, without the bias.

    Args:
        layer: linear, or a convolution, transposed or not.
        given: a batch of its inputs.
    """
    if isinstance(layer, nn.Linear):
        rows = given.reshape(-1, given.shape[-1])
        for some in torch.split(rows, max(1, _at_a_time(given.shape[-1:], given))):
            yield some.T.unsqueeze(1).contiguous()
        return
    make = _windows_between if type(layer) in _TRANSPOSED else _windows
    windows = make(layer, given)
    spatial = (windows.ndim - 2) // 2
    one = windows.shape[1:]
    samples = _at_a_time(one, given)
    lines = windows.shape[2] if samples > 0 else max(1, _at_a_time((one[0], *one[2:]), given))
    for some in torch.split(windows, max(1, samples)):
        for part in torch.split(some, lines, dim=2):
            # (n, c, positions…, kernel…) → (c, κ, p)
            kernel, positions = range(2 + spatial, 2 + 2 * spatial), range(2, 2 + spatial)
            spread = part.permute(1, *kernel, 0, *positions).contiguous()
            yield spread.flatten(1 + spatial).flatten(1, spatial)


def _at_a_time(shape: Iterable[int], like: Tensor) -> int:
    """Return how many tensors of a shape fit into `_PATCH_BYTES`; 0 if none does."""
    return _PATCH_BYTES // (like.element_size() * int(torch.Size(shape).numel()))


def _windows(layer: Any, given: Tensor) -> Tensor:
    """Return a view of the padded input, (n, c, positions…, kernel…)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = F.pad(given, _padding(layer), mode=mode)
    for axis, (kernel, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=2
    ):
        windows = windows.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return windows


def _windows_between(layer: Any, given: Tensor) -> Tensor:
    """Return a view of what each output of a transposed convolution is made from.

    It is an ordinary convolution with the kernel turned round, of the inputs with stride - 1 zeros
    between them: (n, c, positions…, kernel…).
    """
    extents = [
        (size - 1) * step + 1 for size, step in zip(given.shape[2:], layer.stride, strict=True)
    ]
    apart = given.new_zeros(*given.shape[:2], *extents)
    steps: tuple[Any, ...] = tuple(slice(None, None, step) for step in layer.stride)
    apart[(..., *steps)] = given
    reach = [d * (size - 1) for size, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    pairs = [
        (far - width, far - width + more)
        for far, width, more in zip(reach, layer.padding, layer.output_padding, strict=True)
    ]
    windows = F.pad(apart, [width for pair in reversed(pairs) for width in pair])
    for axis, (far, dilation) in enumerate(zip(reach, layer.dilation, strict=True), start=2):
        windows = windows.unfold(axis, far + 1, 1)[..., ::dilation]
    return windows.flip(tuple(range(2 + len(reach), windows.ndim)))


def _padding(layer: Any) -> list[int]:
    """Return the padding as `F.pad` takes it: (before, after) of the last axis, then forwards."""
    extents = zip(layer.kernel_size, layer.dilation, strict=True)
    if layer.padding == "same":
        totals = [dilation * (kernel - 1) for kernel, dilation in extents]
        pairs = [(total // 2, total - total // 2) for total in totals]
    elif layer.padding == "valid":
        pairs = [(0, 0) for _ in extents]
    else:
        pairs = [(width, width) for width in layer.padding]
    return [width for pair in reversed(pairs) for width in pair]


def _transposed_shares(layer: Any, kernel: Tensor, given: Tensor) -> Tensor:
    """Return the shares of a transposed convolution's channels; its kernel is (c, f, κ…)."""
    convolve = _TRANSPOSED[type(layer)]
    options = {
        "stride": layer.stride,
        "padding": layer.padding,
        "output_padding": layer.output_padding,
        "dilation": layer.dilation,
    }
    response = convolve(given, kernel, **options)
    inverse = _inverse(response)
    most = [
        (convolve(given[:, [j]], kernel[[j]], **options) * inverse).max()
        for j in range(len(kernel))
    ]
    return torch.stack(most)
