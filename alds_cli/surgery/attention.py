"""Multi-head attention whose projections may be low-rank pairs.

`nn.MultiheadAttention` uses the weights of its projections without calling any module, so pairs
cannot replace them there. `PairedAttention` computes the same with modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from alds_cli.tracing.trace import distinct_inputs


class PairedAttention(nn.Module):
    """An `nn.MultiheadAttention` whose projections are modules of their own.

    `in_proj` makes queries, keys and values at once; `out_proj` recombines the heads. Each
    is a linear layer or a pair, an `nn.Sequential` of `first` and `second`. Keys and values
    have the size of queries, and no key or value is added to those given. TorchScript can
    compile it.

    Source: Vaswani et al., NeurIPS 2017, Sec. 3.2.2; masks are those of `nn.MultiheadAttention`.
    """

    in_proj_weight = None
    in_proj_bias = None
    _qkv_same_embed_dim = False
    """PyTorch checks these three attributes, and with these values uses no fused kernels."""

    if TYPE_CHECKING:  # TorchScript would take these for the modules' types
        in_proj: Any
        out_proj: Any

    def __init__(
        self,
        in_proj: nn.Module,
        out_proj: nn.Module,
        *,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.in_proj = in_proj
        self.out_proj = out_proj

    @classmethod
    def of(cls, attention: nn.MultiheadAttention) -> PairedAttention:
        """Build the same attention from linear layers, with the same parameters."""
        out_proj: Any = attention.out_proj
        if type(out_proj) is NonDynamicallyQuantizableLinear:
            out_proj = linear_of(out_proj.weight, out_proj.bias)
        made = cls(
            packed_projection(attention),
            out_proj,
            embed_dim=attention.embed_dim,
            num_heads=attention.num_heads,
            dropout=attention.dropout,
            batch_first=attention.batch_first,
        )
        return made.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results are those of `nn.MultiheadAttention.forward`.

        Raises:
            RuntimeError: a mask has the wrong shape, or `is_causal` comes without a mask.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        heads = [self._heads(part) for part in self._project(query, key, value)]
        hinted = is_causal and key_padding_mask is None and not need_weights
        mask = None if hinted else _merged_mask(attn_mask, key_padding_mask, heads[0], heads[1])
        attended, weights = self._attend(heads, mask, need_weights=need_weights, causal=hinted)
        # (N, H, L, D) -> the layout of the query
        order = [0, 2, 1, 3] if self.batch_first else [2, 0, 1, 3]
        joined = attended.permute(order).reshape(query.shape)
        output: Tensor = self.out_proj(joined)
        if weights is None:
            return output, None
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return output, weights if batched else weights.squeeze(0)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return queries, keys and values; each input is multiplied only by the rows it needs."""
        inputs = distinct_inputs(query, key, value)
        if len(inputs) == 1:
            return list(self.in_proj(query).chunk(3, dim=-1))
        # TorchScript compiles only the branch that the projection's type needs.
        if hasattr(self.in_proj, "second"):
            weight, bias = self.in_proj.second.weight, self.in_proj.second.bias
        else:
            weight, bias = self.in_proj.weight, self.in_proj.bias
        found: list[Tensor] = []
        for tensor, parts in inputs:
            start = len(found) * self.embed_dim
            end = start + parts * self.embed_dim
            inner = self.in_proj.first(tensor) if hasattr(self.in_proj, "first") else tensor
            part_bias = None if bias is None else bias[start:end]
            found += list(F.linear(inner, weight[start:end], part_bias).chunk(parts, dim=-1))
        return found

    def _heads(self, projected: Tensor) -> Tensor:
        """Split (L, N, E), (N, L, E) or (L, E) into heads: (N, H, L, D)."""
        if projected.dim() == 2:
            projected = projected.unsqueeze(0)
        elif not self.batch_first:
            projected = projected.transpose(0, 1)
        batch, length, width = projected.shape
        split = (batch, length, self.num_heads, width // self.num_heads)
        return projected.reshape(split).transpose(1, 2)

    def _attend(
        self, heads: list[Tensor], mask: Tensor | None, *, need_weights: bool, causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return attended values (N, H, L, D) and, if needed, their weights (N, H, L, S)."""
        query, key, value = heads
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            attended = F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)
            return attended, None
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
        weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
        weights = F.dropout(weights, dropout) if dropout > 0 else weights
        return weights @ value, weights


def _merged_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, query: Tensor, key: Tensor
) -> Tensor | None:
    """Merge both masks into a term to add to the scores, broadcastable to (N, H, L, S)."""
    batch, heads, length, _ = query.shape
    keys = key.shape[2]
    found: Tensor | None = None
    if attn_mask is not None:
        expected = [length, keys] if attn_mask.dim() == 2 else [batch * heads, length, keys]
        _require_shape("attn_mask", attn_mask, expected)
        leading = [1, 1] if attn_mask.dim() == 2 else [batch, heads]
        spread = [leading[0], leading[1], length, keys]
        found = additive(attn_mask, query.dtype).reshape(spread)
    if key_padding_mask is not None:
        unbatched = key_padding_mask.dim() == 1 and batch == 1
        _require_shape("key_padding_mask", key_padding_mask, [keys] if unbatched else [batch, keys])
        padding = additive(key_padding_mask, query.dtype).reshape(batch, 1, 1, keys)
        found = padding if found is None else found + padding
    return found


def _require_shape(name: str, mask: Tensor, shape: list[int]) -> None:
    if list(mask.shape) != shape:
        raise RuntimeError(f"{name} has shape {list(mask.shape)}, but should have {shape}")


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a boolean mask into −∞ where it is true, so that nothing is attended to there."""
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


def packed_projection(attention: nn.MultiheadAttention) -> nn.Linear:
    """Return the packed projection of queries, keys and values as a linear layer, not copied."""
    if attention.in_proj_weight is None:
        raise ValueError("this attention has projections of different sizes, not a packed one")
    return linear_of(attention.in_proj_weight, attention.in_proj_bias)


def linear_of(weight: Any, bias: Any) -> nn.Linear:
    """Return a linear layer with these very parameters; a bias of None means no bias."""
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer
