"""MusicGen's kind of delay model: text through cross-attention, sinusoidal positions, pre-LayerNorm, GELU.

Simple and Controllable Music Generation (Copet et al., 2023, arXiv 2306.05284). The network is our own;
`lm.musicgen.checkpoint` opens and writes its published checkpoints. Without text, cross-attention adds nothing at all
(it has no biases), so the branch without text, which guidance needs, leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.errors import SoundloomError
from lm.cpu_linear import linear
from lm.delay import Pattern
from lm.loss import LMOutput
from lm.transformer import KVCache

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


@dataclass(frozen=True)
class MusicGenLMConfig:
    """Shape of a `MusicGenLM`.

    ``text_dim`` is the width of the text encoder's states. With two ``channels`` (stereo) levels come in pairs, left
    and right, that share a delay. ``max_steps`` is the longest grid, in steps, that positions are made for.
    """

    num_levels: int = 4
    codebook_size: int = 2048
    dim: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    ffn_dim: int = 4096
    text_dim: int = 768
    channels: int = 1
    max_steps: int = 2048
    activation: str = "gelu"

    def __post_init__(self) -> None:
        for name in ("num_levels", "codebook_size", "dim", "num_layers", "num_heads", "ffn_dim", "text_dim"):
            if getattr(self, name) < 1:
                raise SoundloomError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.dim % self.num_heads or self.dim < 4:
            raise SoundloomError(f"dim {self.dim} does not divide into {self.num_heads} heads (4 channels at least)")
        if self.channels not in (1, 2) or self.num_levels % self.channels:
            raise SoundloomError(
                f"{self.num_levels} levels over {self.channels} channels: one channel, or two in pairs"
            )
        if self.max_steps < self.num_levels:
            raise SoundloomError(f"max_steps is {self.max_steps}; it must be at least num_levels, {self.num_levels}")
        if self.activation not in ACTIVATIONS:
            raise SoundloomError(f"activation {self.activation!r}: expected one of {', '.join(ACTIVATIONS)}")

    @property
    def empty_id(self) -> int:
        """Input where a level has no code: before its first frame and after its last."""
        return self.codebook_size

    @property
    def num_inputs(self) -> int:
        """Size of a level's input table: the codes and EMPTY."""
        return self.codebook_size + 1

    @property
    def pattern(self) -> Pattern:
        """The delay pattern: one step a level; in stereo a pair of levels, left and right, shares a delay."""
        return Pattern([level // self.channels for level in range(self.num_levels)])

    @property
    def lag(self) -> int:
        """Steps by which the last level runs behind the first."""
        return self.pattern.lag


@dataclass
class MusicGenState:
    """State of a generation: self-attention's cache and each layer's keys and values of the text, made once.

    The first ``rows`` of the batch have text, each text [rows, heads, L, head_dim]; the rest of the batch has none.
    Without a cache all steps are taken at once.
    """

    cache: KVCache | None
    text: list[tuple[Tensor, Tensor]]
    mask: Tensor | None
    rows: int


class MusicGenBlock(nn.Module):
    """One layer: self-attention, attention to the text, feed-forward; each with LayerNorm before, residual around."""

    def __init__(self, config: MusicGenLMConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.activation = config.num_heads, ACTIVATIONS[config.activation]
        self.self_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.self_out = nn.Linear(dim, dim, bias=False)
        self.text_norm = nn.LayerNorm(dim)
        self.text_q = nn.Linear(dim, dim, bias=False)
        self.text_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.text_out = nn.Linear(dim, dim, bias=False)
        self.ffn_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, dim, bias=False)

    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of text [rows, L, D]: two [rows, heads, L, head_dim], contiguous."""
        rows, L, D = text.shape
        kv = self.text_kv(text).view(rows, L, 2, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).contiguous()
        return kv[0], kv[1]

    def forward(self, x: Tensor, state: MusicGenState, layer: int, mask: Tensor | None) -> Tensor:
        """Run x [B, S, D]; ``mask`` (for several steps after others) is as in `scaled_dot_product_attention`."""
        B, S, D = x.shape
        qkv = linear(_norm(x, self.self_norm), self.qkv.weight).view(B, S, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if state.cache is not None:
            k, v = state.cache.append(layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and S > 1)
        x = x + linear(y.transpose(1, 2).reshape(B, S, D), self.self_out.weight)
        if state.rows:
            looks = self._look(x[: state.rows], state, layer)
            x = x + looks if state.rows == B else torch.cat([x[: state.rows] + looks, x[state.rows :]])
        h = self.activation(linear(_norm(x, self.ffn_norm), self.up.weight))
        return x + linear(h, self.down.weight)

    def _look(self, x: Tensor, state: MusicGenState, layer: int) -> Tensor:
        rows, S, D = x.shape
        q = linear(_norm(x, self.text_norm), self.text_q.weight).view(rows, S, self.heads, -1).transpose(1, 2)
        k, v = state.text[layer]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=state.mask)
        return linear(y.transpose(1, 2).reshape(rows, S, D), self.text_out.weight)


class MusicGenLM(nn.Module):
    """Text states to codes [B, K, T] in T + lag steps, each step one code a level, delayed by ``pattern``.

    There is no end: one asks for a number of frames.
    """

    def __init__(self, config: MusicGenLMConfig) -> None:
        super().__init__()
        self.config = config
        self.pattern = config.pattern
        K, dim = config.num_levels, config.dim
        # One table for all levels: level k owns rows k * num_inputs …, so that one lookup sums the levels.
        self.code_embedding = nn.Parameter(torch.randn(K * config.num_inputs, dim) * 0.02)
        project = config.text_dim != dim
        self.text_projection: nn.Linear | None = nn.Linear(config.text_dim, dim) if project else None
        self.layers = nn.ModuleList(MusicGenBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(dim)
        self.heads = nn.Parameter(torch.randn(K * config.codebook_size, dim) * dim**-0.5)
        self._table: Tensor | None = None

    def blocks(self) -> Iterator[MusicGenBlock]:
        """Yield the layers, typed."""
        return (cast(MusicGenBlock, layer) for layer in self.layers)

    def step_inputs(self, codes: Tensor) -> Tensor:
        """Return the input ids of all steps: codes [B, K, T] -> [B, K, T + lag + 1]."""
        return self.pattern.inputs(codes, self.config.empty_id, self.config.empty_id)

    # --- scoring --------------------------------------------------------------------------------------------------

    def forward(self, text_states: Tensor, text_lengths: Tensor, codes: Tensor, lengths: Tensor) -> LMOutput:
        """Score codes long [B, K, T] given text_states float [B, L, text_dim]: logits [B, K, T, codes], aligned.

        A row whose text length is 0 has no text. Every code of the first ``lengths`` frames is scored.
        """
        T = codes.shape[2]
        inside = torch.arange(T, device=codes.device) < lengths[:, None, None]
        inputs = self.step_inputs(torch.where(inside, codes.long(), self.config.empty_id))[:, :, :-1]
        hidden = self._run(self._see(text_states, text_lengths), inputs)
        c = self.config
        aligned = self.pattern.aligned(hidden, T)  # [K, B, T, D]
        heads = self.heads.view(c.num_levels, c.codebook_size, -1).transpose(1, 2)
        logits = torch.bmm(aligned.flatten(1, 2), heads).view(c.num_levels, len(codes), T, -1).transpose(0, 1)
        return LMOutput(logits, inside.expand_as(codes))

    # --- steps ----------------------------------------------------------------------------------------------------

    def start(
        self, text_states: Tensor | None, text_lengths: Tensor | None, batch: int, max_steps: int
    ) -> MusicGenState:
        """Return a state for ``batch`` rows; the first have the text [rows, L, text_dim] (None: no row has any)."""
        c = self.config
        if text_states is None or text_lengths is None:
            state = MusicGenState(None, [], None, 0)
        else:
            state = self._see(text_states, text_lengths)
        if state.rows > batch:
            raise SoundloomError(f"text_states are of {state.rows} rows, the batch is of {batch}")
        shape = (batch, c.num_heads, c.dim // c.num_heads)
        state.cache = KVCache(c.num_layers, shape, max_steps, self.heads)
        return state

    def _see(self, text_states: Tensor, text_lengths: Tensor) -> MusicGenState:
        """Return every layer's keys and values of the text, without a cache."""
        rows, L, width = text_states.shape
        if width != self.config.text_dim:
            raise SoundloomError(f"text_states are {width} wide; this model's text encoder is {self.config.text_dim}")
        text = text_states if self.text_projection is None else self.text_projection(text_states)
        shown = torch.arange(L, device=text.device) < text_lengths[:, None]
        text = text * shown[:, :, None]
        mask = None
        if not bool(shown.all()):
            # A row without text has keys and values of zero: it may attend everywhere and finds nothing.
            mask = (shown | (text_lengths == 0)[:, None])[:, None, None]
        return MusicGenState(None, [layer.text_keys_values(text) for layer in self.blocks()], mask, rows)

    def advance(self, state: MusicGenState, inputs: Tensor) -> Tensor:
        """Take the next n steps with input ids [B, K, n]: scores [B, K, codes] of the last of them."""
        hidden = self._run(state, inputs)[:, -1]
        return linear(hidden, self.heads).view(len(inputs), self.config.num_levels, -1)

    def _run(self, state: MusicGenState, inputs: Tensor) -> Tensor:
        """Return the hidden states [B, S, D], normed, of the next steps with input ids [B, K, S]."""
        B, K, S = inputs.shape
        cache = state.cache
        first, room = (0, S) if cache is None else (cache.length, cache.max_length)
        if first + S > room:
            raise ValueError(f"cache of {room} steps cannot take {first} + {S}")
        offsets = torch.arange(K, device=inputs.device) * self.config.num_inputs
        rows = (inputs.transpose(1, 2) + offsets).reshape(B * S, K)
        x = F.embedding_bag(rows, self.code_embedding, mode="sum").view(B, S, -1)
        x = x + self._positions(room, x)[first : first + S]
        mask = None
        if S > 1 and first:
            keys = torch.arange(first + S, device=x.device)
            mask = keys <= keys[first:, None]
        for index, layer in enumerate(self.blocks()):
            x = layer(x, state, index, mask)
        if cache is not None:
            cache.length += S
        return _norm(x, self.norm)

    def _positions(self, steps: int, like: Tensor) -> Tensor:
        """Return the positions of ``steps`` steps or more [steps, D]: cosines, then sines."""
        table = self._table
        if table is None or len(table) < steps or table.device != like.device or table.dtype != like.dtype:
            with torch.inference_mode(False):  # training may read a table that generation made
                half = like.shape[-1] // 2
                rates = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
                angles = torch.arange(steps).float()[:, None] * rates
                table = torch.cat([angles.cos(), angles.sin()], dim=1)
                self._table = table = F.pad(table, (0, like.shape[-1] % 2)).to(like.device, like.dtype)
        return table


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    # The module's own call costs as much as the work, at one step.
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
