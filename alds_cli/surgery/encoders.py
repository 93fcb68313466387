"""PyTorch's transformer encoders without the branches that hand whole weights to fused kernels.

Where a pair stands in an encoder these branches are never taken, but TorchScript compiles what is
never run, too, and there is no whole weight to compile.
"""

from __future__ import annotations

from torch import Tensor, nn

from alds_cli.surgery.attention import additive


def call_layers(part: nn.Module) -> None:
    """Let an encoder, or a layer of one, call its layers whatever the mode; others stay.

    Both settings turn the fused kernels off and do nothing else. Classes derived from PyTorch's
    keep their own code, which TorchScript may then be unable to compile.
    """
    if isinstance(part, nn.TransformerEncoderLayer):
        part.activation_relu_or_gelu = 0
    elif isinstance(part, nn.TransformerEncoder):
        part.use_nested_tensor = False
    for kind in (CallingEncoderLayer, CallingEncoder):
        if type(part) is kind.__base__:
            part.__class__ = kind


class CallingEncoderLayer(nn.TransformerEncoderLayer):
    """An `nn.TransformerEncoderLayer` that calls its layers.

    Source: Xiong et al., ICML 2020, Fig. 1: the norms after (`norm_first` false) or before.
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Encode a sequence; arguments are those of `nn.TransformerEncoderLayer.forward`."""
        mask, padding = _term(src_mask, src), _term(src_key_padding_mask, src)
        if self.norm_first:
            x = src + self._sa_block(self.norm1(src), mask, padding, is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(src + self._sa_block(src, mask, padding, is_causal))
        encoded: Tensor = self.norm2(x + self._ff_block(x))
        return encoded


class CallingEncoder(nn.TransformerEncoder):
    """An `nn.TransformerEncoder` that calls its layers with padded sequences as they are."""

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Encode a sequence; arguments are those of `nn.TransformerEncoder.forward`."""
        mask, padding = _term(mask, src), _term(src_key_padding_mask, src)
        causal = is_causal is True  # a hint; without it the mask alone says what is attended to
        for layer in self.layers:
            src = layer(src, src_mask=mask, is_causal=causal, src_key_padding_mask=padding)
        if self.norm is not None:
            src = self.norm(src)
        return src


def _term(mask: Tensor | None, src: Tensor) -> Tensor | None:
    """Return a mask as a term to add to scores, so that two masks have one type."""
    return None if mask is None else additive(mask, src.dtype)
