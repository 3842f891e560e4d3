"""Products of a few rows with large matrices, as each step of a generation makes them, at the speed of memory.

Such a product reads every weight once, so memory bounds it. PyTorch's general product of a few rows reads weights
several times slower than memory allows. Two ways out, the same numbers within rounding:

- `codec.common.packed.pack_linear` and `PackedTransformer` lay the weights out once, for a tenth of the time a step.
  It is a second copy of every weight.
- `linear` copies nothing, for a model of gigabytes. It cuts the product over the threads, or swaps its operands. It is
  slower than packing from two rows on at the sizes of a small voice, from four at a MusicGen's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.common.packed import pack_linear
from lm.transformer import Block, KVCache, Transformer, rotary_tables

MOST_ROWS = 8  # beyond that `linear` leaves the product to `F.linear`, which is faster


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
        y = cache.attend(layer, qk[:, :H], qk[:, H:], v.transpose(1, 2), mask)
        x = self.out(y.transpose(1, 2).reshape(B, S, -1)).add_(x)
        gate, up = self.gate_up(torch.rms_norm(x, (D,), self.ffn_norm, self.eps)).chunk(2, -1)
        return self.down(F.silu(gate).mul_(up)).add_(x)


class PackedTransformer:
    """What a `Transformer` computes with a cache, from a snapshot of its weights; for inference only."""

    def __init__(self, transformer: Transformer) -> None:
        self.config = transformer.config
        self.blocks = [_PackedBlock(block) for block in transformer.blocks()]
        self.norm = transformer.norm.weight.detach()

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and signed sine of a whole run, made once; each step takes its rows.

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
        """Run the next inputs x [B, S, D] with their rows of `tables` -> [B, S, D], normed; the cache moves on by S.

        ``mask`` is added to the scores, [B or 1, 1, S or 1, keys]; without one all S see all that the cache holds.
        """
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, cache, index)
        cache.length += x.shape[1]
        return torch.rms_norm(x, x.shape[2:], self.norm, self.config.norm_eps)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x [..., in] by weight [out, in], transposed -> [..., out]; quick for a few float32 rows on a CPU.

    If gradients are recorded, and for other devices or dtypes, it is `F.linear` itself.
    """
    size, out = x.shape[-1], weight.shape[0]
    rows = x.numel() // size
    if rows > MOST_ROWS or x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(x, weight)
    flat = x.reshape(rows, size)
    if rows in (2, 3):
        # Contiguous again: attention's fused kernel needs it.
        return (weight @ flat.t()).t().contiguous().view(*x.shape[:-1], out)
    parts = torch.get_num_threads()
    if out % parts:
        return F.linear(x, weight)
    pieces = weight.view(parts, out // parts, size)
    if rows == 1:
        return torch.bmm(pieces, flat.t().expand(parts, size, 1)).view(*x.shape[:-1], out)
    y = torch.bmm(flat.expand(parts, rows, size), pieces.transpose(1, 2))  # [parts, rows, out / parts]
    return y.transpose(0, 1).reshape(*x.shape[:-1], out)
