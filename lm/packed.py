"""A transformer made ready to write: the same numbers within rounding, in a tenth of the time a step.

A step of generation multiplies one or two rows by every weight of the model, so it is bound by how fast weights are
read, and PyTorch's general product of so few rows reads them several times slower than memory gives them. Here weights
are laid out once for few rows: in half precision where they are numbers of half precision anyway, as those of a
published checkpoint often are (nothing is rounded; products and sums stay float32), else in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.transformer import Block, KVCache, Transformer, rotary_tables

_FEW_ROWS = 2  # what the float32 layout is tuned for: one request, with and without text


def pack_linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """x [..., in] -> x · weightᵀ [..., out], fast for few rows: a snapshot of ``weight`` [out, in] as it is now.

    float32 on a CPU is packed for FBGEMM where half precision holds it exactly, else for oneDNN; anything else, or a
    build of PyTorch without these libraries, goes through `F.linear`.
    """
    weight = weight.detach()
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        if packs_in_half(weight):
            half = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)
            product = torch.ops.quantized.linear_dynamic_fp16.default
            return lambda x: product(x, half)
        if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            blocked = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _FEW_ROWS)
            product = torch.ops.mkldnn._linear_pointwise.default
            return lambda x: product(x, blocked, None, "none", [], "")
    return lambda x: F.linear(x, weight)


def packs_in_half(weight: Tensor) -> bool:
    """Whether `pack_linear` reads two bytes a weight: half precision holds it exactly, and FBGEMM is there."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    return torch.backends.quantized.engine in ("fbgemm", "x86", "onednn") and torch.equal(weight.half().float(), weight)


class _PackedBlock:
    def __init__(self, block: Block) -> None:
        c = block.attention.config
        self.heads, self.kv_heads, self.size, self.eps = c.num_heads, c.kv_heads, c.head_dim, c.norm_eps
        self.attention_norm, self.ffn_norm = block.attention_norm.weight.detach(), block.ffn_norm.weight.detach()
        attention = block.attention
        self.qkv, self.out = pack_linear(attention.qkv.weight), pack_linear(attention.out.weight)
        self.gate_up, self.down = pack_linear(block.gate_up.weight), pack_linear(block.down.weight)
        self.qk_norm: Tensor | None = None  # [heads + kv_heads, head_dim]
        if attention.q_norm is not None and attention.k_norm is not None:
            scales = (attention.q_norm.weight, self.heads), (attention.k_norm.weight, self.kv_heads)
            self.qk_norm = torch.cat([scale.detach().expand(count, -1) for scale, count in scales])

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache, layer: int) -> Tensor:
        B, S, D = x.shape
        H, size = self.heads, self.size
        turned = H + self.kv_heads
        qkv = self.qkv(torch.rms_norm(x, (D,), self.attention_norm, self.eps)).view(B, S, -1, size)
        qk, v = qkv[:, :, :turned], qkv[:, :, turned:]
        if self.qk_norm is not None:
            qk = torch.rms_norm(qk, (size,), None, self.eps).mul_(self.qk_norm)
        qk = torch.addcmul(qk * cos, qk.roll(size // 2, -1), sin).transpose(1, 2)  # [B, heads + kv_heads, S, size]
        keys, values = cache.append(layer, qk[:, H:], v.transpose(1, 2))
        y = F.scaled_dot_product_attention(qk[:, :H], keys, values, mask, enable_gqa=self.kv_heads != H)
        x = self.out(y.transpose(1, 2).reshape(B, S, -1)).add_(x)
        gate, up = self.gate_up(torch.rms_norm(x, (D,), self.ffn_norm, self.eps)).chunk(2, -1)
        return self.down(F.silu(gate).mul_(up)).add_(x)


class PackedTransformer:
    """What a `Transformer` computes with a cache, from a snapshot of its weights; for inference only.

    ``current`` tells whether the snapshot still is what the transformer holds.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.config = transformer.config
        self.blocks = [_PackedBlock(block) for block in transformer.layers]
        self.norm = transformer.norm.weight.detach()

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine of a whole run, made once, of which each step takes its rows.

        positions float [S] or [B, S] -> two [S, 1, head_dim] or [B, S, 1, head_dim].
        """
        cos, sin = rotary_tables(positions, self.config.head_dim, self.config.rope_theta)
        half = self.config.head_dim // 2
        cos, sin = cos[:, 0, :, None], sin[:, 0, :, None]
        if positions.dim() == 1:
            cos, sin = cos[0], sin[0]
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        return cos.to(self.norm.dtype), sin.to(self.norm.dtype)

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache) -> Tensor:
        """Next inputs x [B, S, D] with their rows of `tables` -> [B, S, D], normed; the cache moves on by S.

        ``mask`` is added to the scores, [B or 1, 1, S or 1, keys]; without one all S see all that the cache holds.
        """
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, cache, index)
        cache.length += x.shape[1]
        return torch.rms_norm(x, x.shape[2:], self.norm, self.config.norm_eps)


def weights_version(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Changes whenever a weight of ``module`` is written to, moved or replaced: where a snapshot is out of date."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in module.parameters())
