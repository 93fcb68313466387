"""Layers whose columns are gathered into clusters, the first halves of clustered pairs.

A clustered pair is `first`, one of the modules here, and `second`, a plain linear layer or 1×1
convolution. No `torch.nn` module multiplies each group of gathered features by its own matrix.
A clustered pair takes as few multiply-accumulates as a pair of slices, but it gathers its input
first, and for that lays out a convolution's patches in memory.

Source: Maalouf, Lang, Feldman, Rus, ICLR 2021, https://openreview.net/forum?id=EQfpYwF3-b;
Liebenwein et al., NeurIPS 2021, supplement A.2, on the costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.errors import BadWeightsError
from alds_cli.numerics.clustering.clustered_factors import (
    INDEX_BYTES,
    ClusteredFactors,
    clustered_residual,
    largest_rank,
    multiply_clusters,
    require_clusters,
)
from alds_cli.numerics.fold import fold, folded_shape, unfold
from alds_cli.records import CLUSTERED, Choice, IntArray, LayerSpec


class ClusteredPairs:
    """Pairs whose k parts are clusters of columns; see `pairs.PairForm`."""

    schemes = (CLUSTERED,)
    extra: Sequence[str] = ("order", "sizes")

    def reason_against(self, spec: LayerSpec) -> str | None:
        """Return why a layer's columns cannot be clustered; None if they can.

        Linear layers and convolutions of images have clusters if they have one group.
        """
        if spec.kind not in {"linear", "conv2d"}:
            return f"the columns of a {spec.kind} layer cannot be clustered"
        if spec.groups > 1:
            return f"the columns of {spec.groups} groups cannot be clustered"
        return None

    def complaint(self, spec: LayerSpec, choice: Choice) -> str | None:
        """Return why the number of clusters k, or j, does not fit a layer; None if both fit."""
        if reason := self.reason_against(spec):
            return reason
        rows, columns = folded_shape(spec.weight_shape, choice.scheme)
        if not 1 <= choice.k <= columns:
            return f"k = {choice.k} is not between 1 and its {columns} columns"
        full = largest_rank(rows, columns, choice.k)
        if not 1 <= choice.j <= full:
            return f"j = {choice.j} is not between 1 and {full}"
        return None

    def extra_bytes(self, spec: LayerSpec, choices: IntArray) -> IntArray:
        """Return the bytes that the columns' order and the clusters' sizes take: (n,)."""
        _, columns = folded_shape(spec.weight_shape, CLUSTERED)
        return INDEX_BYTES * (columns + choices[:, 1])

    def build(self, layer: nn.Module, choice: Choice, options: Mapping[str, Any]) -> nn.Sequential:
        """Build a module that gathers and multiplies, and a linear layer or 1×1 convolution."""
        inner, bias = choice.k * choice.j, layer.bias is not None
        pair = nn.Sequential()
        if isinstance(layer, nn.Linear):
            first = ClusteredLinear(layer.in_features, choice.k, choice.j, **options)
            pair.add_module("first", first)
            pair.add_module("second", nn.Linear(inner, layer.out_features, bias, **options))
        else:
            image = cast(nn.Conv2d, layer)
            pair.add_module("first", ClusteredConv2d(image, choice.k, choice.j, **options))
            pair.add_module("second", nn.Conv2d(inner, image.out_channels, 1, bias=bias, **options))
        return pair

    def fill(self, pair: nn.Sequential, extra: Sequence[Tensor]) -> None:
        """Set the columns' order and the clusters' sizes in the first half.

        Raises:
            ValueError: they are not a partition of the columns.
        """
        half: Any = pair
        half.first.set_clusters(*extra)

    def product(
        self,
        layer: nn.Module,
        choice: Choice,
        pair: nn.Sequential,
        halves: tuple[Tensor, Tensor],
        extra: Mapping[str, Tensor],
        name: str,
    ) -> Tensor:
        """Return the weight (f, c, κ…) that the clusters' products make, in float64.

        Raises:
            BadWeightsError: order and sizes are not a partition, as when a pair is loaded.
        """
        half: Any = pair
        half.first.take(extra, f"{name}.first")
        first, second = (tensor.to(torch.float64).flatten(1) for tensor in halves)
        matrix = multiply_clusters(first, second, half.first.order, half.first.lengths)
        return unfold(matrix, tuple(layer.weight.shape), choice.scheme)  # type: ignore[arg-type]

    def residual(
        self, weight: Tensor, tensors: Sequence[Tensor], choice: Choice, groups: int, unit: int
    ) -> float:
        """Return ‖W − Ŵ‖₂ / 2**unit in the paper's fold, which clusters have too."""
        del groups  # always 1
        first, second, order, sizes = tensors
        factors = ClusteredFactors(order, sizes, first.flatten(1), second.flatten(1))
        return clustered_residual(fold(weight, choice.scheme), factors, unit)


class ClusteredLinear(nn.Module):
    """A layer that gathers features into clusters and multiplies each by its own matrix.

    Its state is `weight` (j, columns), the clusters' matrices side by side, and two buffers:
    `order` (columns,) int32, the features cluster by cluster, and `sizes` (k,) int32. A new
    module's clusters are runs of neighbouring features.
    """

    if TYPE_CHECKING:  # TorchScript finds their types itself, and cannot read these
        order: Tensor
        sizes: Tensor

    def __init__(
        self,
        in_features: int,
        clusters: int,
        rank: int,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.rank = rank
        share, more = divmod(in_features, clusters)
        # Shapes on the meta device and in exported graphs need the lengths as numbers.
        self.lengths = [share + (number < more) for number in range(clusters)]
        self.weight = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=dtype))
        numbers = torch.arange(in_features, dtype=torch.int32, device=device)
        self.register_buffer("order", numbers)
        self.register_buffer("sizes", torch.tensor(self.lengths, dtype=torch.int32, device=device))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=in_features**-0.5)

    @property
    def clusters(self) -> int:
        """The number of clusters."""
        return len(self.lengths)

    def set_clusters(self, order: Tensor, sizes: Tensor) -> None:
        """Take other clusters, as many as before.

        Raises:
            ValueError: they are not a partition of the features.
        """
        if len(order) != self.in_features or len(sizes) != self.clusters:
            raise ValueError(f"these are not {self.clusters} clusters of {self.in_features}")
        require_clusters(order, sizes)
        self.order, self.sizes = order, sizes
        self.lengths = sizes.tolist()

    def take(self, tensors: Mapping[str, Tensor], name: str) -> None:
        """Take the clusters that a file holds under a module's name.

        Args:
            tensors: `order` and `sizes`.
            name: this module's name, for the message.

        Raises:
            BadWeightsError: they are not a partition of the features.
        """
        try:
            self.set_clusters(tensors["order"], tensors["sizes"])
        except ValueError as error:
            raise BadWeightsError(f"{name}: {error}", tip="the file is damaged") from error

    def forward(self, features: Tensor) -> Tensor:
        """Map features (…, columns) to (…, k·j)."""
        return self.multiplied(self.gathered(features))

    def gathered(self, features: Tensor) -> list[Tensor]:
        """Return the features of every cluster: (…, size) each."""
        return list(torch.split(features.index_select(-1, self.order), self.lengths, -1))

    def multiplied(self, parts: list[Tensor]) -> Tensor:
        """Multiply every cluster's features by its matrix: (…, k·j)."""
        weights = torch.split(self.weight, self.lengths, 1)
        return torch.cat([F.linear(part, weights[at]) for at, part in enumerate(parts)], -1)

    def extra_repr(self) -> str:
        """Return the text that `print` shows in the module."""
        return f"in_features={self.in_features}, clusters={self.lengths}, rank={self.rank}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Load as usual, then take over the clusters that the loaded values describe."""
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        if not (self.order.is_meta or self.sizes.is_meta):
            loaded = {"order": self.order, "sizes": self.sizes}
            self.take(loaded, prefix.removesuffix("."))


class ClusteredConv2d(ClusteredLinear):
    """A clustered layer on the patches of images: a column is a channel at a kernel position.

    It maps (…, c, h, w) to (…, k·j, h', w'), with or without a batch. Columns are numbered in
    the order (c, κ1, κ2), as in the folded weight. The geometry is that of an `nn.Conv2d`.
    """

    def __init__(self, layer: nn.Conv2d, clusters: int, rank: int, **options: Any) -> None:
        """Make a layer of the geometry of `layer`, with k clusters of rank j.

        Args:
            layer: the convolution with the geometry.
            clusters: k.
            rank: j.
            options: device and type of the tensors.
        """
        super().__init__(
            prod(layer.kernel_size, start=layer.in_channels), clusters, rank, **options
        )
        self.kernel_size = layer.kernel_size
        self.stride = layer.stride
        self.dilation = layer.dilation
        self.padding_mode = layer.padding_mode
        self._margins = _margins(layer)

    def gathered(self, features: Tensor) -> list[Tensor]:
        """Return the clusters' parts of all patches: (…, size, h', w') each."""
        if max(self._margins) > 0:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            features = F.pad(features, self._margins, mode)
        columns = self._patches(features).index_select(-3, self.order)
        return list(torch.split(columns, self.lengths, -3))

    def multiplied(self, parts: list[Tensor]) -> Tensor:
        """Multiply every cluster's parts by its matrix: (…, k·j, h', w')."""
        weights = torch.split(self.weight, self.lengths, 1)
        made = torch.cat([weights[at] @ part.flatten(-2) for at, part in enumerate(parts)], -2)
        return made.reshape(made.shape[:-1] + parts[0].shape[-2:])

    def _patches(self, image: Tensor) -> Tensor:
        """Turn a padded image (…, c, h, w) into its patches (…, columns, h', w').

        This is what `F.unfold` computes, but faster: windows are views, which are copied at once.
        """
        height, width = (self.dilation[at] * (self.kernel_size[at] - 1) + 1 for at in (0, 1))
        # (…, c, h, w) -> (…, c, h', w', κ1, κ2)
        windows = image.unfold(-2, height, self.stride[0]).unfold(-2, width, self.stride[1])
        windows = windows[..., :: self.dilation[0], :: self.dilation[1]]
        return windows.movedim((-2, -1), (-4, -3)).flatten(-5, -3)

    def extra_repr(self) -> str:
        """Return the text that `print` shows in the module."""
        return (
            f"{super().extra_repr()}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"dilation={self.dilation}, margins={self._margins}, mode={self.padding_mode}"
        )


def _margins(layer: nn.Conv2d) -> list[int]:
    """Return the padding of an image on the left, right, top and bottom, as `F.pad` takes it."""
    if layer.padding == "valid":
        return [0] * 4
    margins: list[int] = []
    for axis in (1, 0):
        if layer.padding == "same":
            both = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            margins += [both // 2, both - both // 2]
        else:
            margins += [int(layer.padding[axis])] * 2
    return margins
