"""A transformer on a page: rotary attention, SwiGLU, RMSNorm and a key-value cache, in Llama's layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.config import TransformerConfig

__all__ = ["KVCache", "Transformer", "TransformerConfig"]


_FIRST_ROOM = 512  # positions that a cache allocates at first; it grows as it fills


class KVCache:
    """All layers' keys and values, [B, kv_heads, room, head_dim] each, for at most ``max_length`` positions.

    ``length`` are filled. Room grows as it fills, so that memory follows what is written, not what was allowed.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int], max_length: int, like: Tensor) -> None:
        """``shape`` is [B, kv_heads, head_dim]; dtype and device are those of ``like``."""
        batch, heads, size = shape
        room = min(max_length, _FIRST_ROOM)
        self.max_length = max_length
        self.length = 0
        # What lies past ``length`` is never read, so it need not be set.
        self.keys, self.values = (
            [torch.empty(batch, heads, room, size, dtype=like.dtype, device=like.device) for _ in range(layers)]
            for _ in range(2)
        )

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write after the filled part (``length`` moves on only after the last layer) and return all filled."""
        begin, new = self.length, keys.shape[2]
        end = begin + new
        all_keys, all_values = self.keys[layer], self.values[layer]
        if end > all_keys.shape[2]:
            all_keys, all_values = (self._larger(old, end) for old in (all_keys, all_values))
            self.keys[layer], self.values[layer] = all_keys, all_values
        all_keys.narrow(2, begin, new).copy_(keys)
        all_values.narrow(2, begin, new).copy_(values)
        return all_keys.narrow(2, 0, end), all_values.narrow(2, 0, end)

    def attend(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Append keys and values, and attend with q [B, heads, S, size] to all filled; ``mask`` is added to scores."""
        keys, values = self.append(layer, keys, values)
        return F.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=keys.shape[1] != q.shape[1])

    def _larger(self, old: Tensor, needed: int) -> Tensor:
        room = min(max(needed, 2 * old.shape[2]), max(needed, self.max_length))
        larger = old.new_empty(*old.shape[:2], room, old.shape[3])
        larger[:, :, : self.length] = old[:, :, : self.length]
        return larger


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary angles: positions [B, S] or [S] -> two [B or 1, 1, S, head_dim], float32."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions.float().unsqueeze(-1) * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    angles = angles.unsqueeze(0) if angles.dim() == 2 else angles
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [B, H, S, head_dim] by its positions (Llama's layout: the first half pairs with the second)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attend with q [B, H, S, size] to k, v [B, kv_heads, keys, size]; ``mask`` is added to the scores."""
    if mask is not None and q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad:
        # Training in bfloat16 on the CPU: forward and backward of plain products take 0.6 of the fused kernel's time
        # (250 to 900 positions, one thread). It keeps scores in bfloat16, as inputs and outputs already are.
        groups = q.shape[1] // k.shape[1]
        k, v = (k, v) if groups == 1 else (k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)) + mask
        return torch.matmul(scores.softmax(dim=-1), v)
    gqa = q.shape[1] != k.shape[1]
    if gqa and mask is not None and q.device.type != "cpu":
        # No fused kernel of a GPU takes both a mask and fewer keys than queries; the one that would be left stores all
        # scores, [B, H, S, keys] a layer. Repeated keys are small next to those.
        groups, gqa = q.shape[1] // k.shape[1], False
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


class Attention(nn.Module):
    """Self-attention with rotary positions and grouped keys and values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        heads, kv_heads, size = config.num_heads, config.kv_heads, config.head_dim
        self.qkv = nn.Linear(config.dim, (heads + 2 * kv_heads) * size, bias=False)
        self.out = nn.Linear(heads * size, config.dim, bias=False)
        self.q_norm = nn.RMSNorm(size, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(size, eps=config.norm_eps) if config.qk_norm else None

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, rotated keys, and values, each [B, heads, S, head_dim]."""
        c = self.config
        B, S, _ = x.shape
        qkv = self.qkv(x).view(B, S, c.num_heads + 2 * c.kv_heads, c.head_dim).transpose(1, 2)
        q, k, v = qkv.split([c.num_heads, c.kv_heads, c.kv_heads], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        cos, sin = cos.to(v.dtype), sin.to(v.dtype)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        B, S, _ = x.shape
        q, k, v = self.project(x, cos, sin)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = attend(q, k, v, mask, causal=mask is None and self.config.causal and S > 1)
        return self.out(y.transpose(1, 2).reshape(B, S, -1))


class Block(nn.Module):
    """One layer: attention, then SwiGLU, each with its norm before and its residual around."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.gate_up = nn.Linear(config.dim, 2 * config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return self.dropout(self.down(F.silu(gate) * up))

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), cos, sin, mask, cache, layer))
        return x + self.feed_forward(x)


class Transformer(nn.Module):
    """Layers over embedded inputs; embedding and output heads belong to the models around it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self._initialize()

    def _initialize(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = 0.64 * parameter.shape[1] ** -0.5
                # The last layer of each branch starts smaller, so that the residual stream does not grow with depth.
                if name.endswith(("out.weight", "down.weight")):
                    std /= (2 * self.config.num_layers) ** 0.5
                nn.init.normal_(parameter, std=std)

    def init_cache(self, batch: int, max_length: int, dtype: torch.dtype | None = None) -> KVCache:
        """Return an empty cache for ``max_length`` positions on the model's device."""
        c = self.config
        like = self.norm.weight if dtype is None else self.norm.weight.to(dtype)
        return KVCache(c.num_layers, (batch, c.kv_heads, c.head_dim), max_length, like)

    def blocks(self) -> Iterator[Block]:
        """Yield the layers, typed."""
        return (cast(Block, layer) for layer in self.layers)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Run x [B, S, D] at positions float [B, S] or [S] -> [B, S, D], normed.

        ``mask`` is bool (True = may attend), [B or 1, 1, S or 1, keys]; without one, attention is causal or full as
        the config says. With a cache, keys are all that it holds plus these S, and its length moves on by S.
        """
        S = x.shape[1]
        if cache is not None:
            if cache.length + S > cache.max_length:
                raise ValueError(f"cache of {cache.max_length} positions cannot take {cache.length} + {S}")
            if mask is None and self.config.causal and S > 1 and cache.length:
                keys = torch.arange(cache.length + S, device=x.device)
                mask = (keys <= torch.arange(cache.length, cache.length + S, device=x.device)[:, None])[None, None]
        if mask is not None and mask.dtype == torch.bool:
            mask = additive_mask(mask, _compute_dtype(x))
        cos, sin = rotary_tables(positions, self.config.head_dim, self.config.rope_theta)
        cos, sin = cos.to(_compute_dtype(x)), sin.to(_compute_dtype(x))
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, mask, cache, index)
        if cache is not None:
            cache.length += S
        return self.norm(x)

    @torch.no_grad()
    def attention_maps(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return all layers' attention weights, for pictures: x [1, S, D] -> float [layers, heads, S, S]."""
        c = self.config
        S = x.shape[1]
        if mask is None and c.causal:
            mask = torch.ones(S, S, dtype=torch.bool, device=x.device).tril()[None, None]
        cos, sin = rotary_tables(positions, c.head_dim, c.rope_theta)
        maps = []
        for index, layer in enumerate(self.blocks()):
            q, k, _ = layer.attention.project(layer.attention_norm(x), cos, sin)
            k = k.repeat_interleave(c.num_heads // c.kv_heads, dim=1)
            scores = (q @ k.transpose(-1, -2)).float() * c.head_dim**-0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            maps.append(scores.softmax(dim=-1)[0])
            x = layer(x, cos, sin, None if mask is None else additive_mask(mask, _compute_dtype(x)), None, index)
        return torch.stack(maps)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bool mask as 0 / -inf; made once a forward instead of once a layer."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that attention gets: autocast's if it is on, else the input's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
