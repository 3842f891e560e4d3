"""The spectral networks for a few steps at a time, as a stream gives them: packed weights, and steps before channels.

Here a chunk of 80 ms costs what its arithmetic costs. With the layers as they are trained, most of its time would go to
laying weights out again for each product and each convolution. The numbers are the same, within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.common.packed import pack_linear, weights_version
from codec.conv import steps_first

if TYPE_CHECKING:
    from codec.spectral import ConvNeXtBlock, SpectralDecoder, SpectralEncoder, SpectralState

_MOST_ROWS = 256  # steps times rows of a batch; longer pieces spend their time in arithmetic
_ROWS = 8  # steps of 80 ms


class FewSteps(nn.Module):
    """A network that keeps a packed copy of its weights for short chunks; `pack` makes it."""

    def __init__(self) -> None:
        super().__init__()
        self._packed: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # a packed copy is made again, never copied

    def pack(self) -> Callable[..., Any]:
        """Return the network as a function of a few steps, from its weights as they are now."""
        raise NotImplementedError

    def packed(self, x: Tensor, rows: int, state: SpectralState | None) -> Any:
        """Return what `pack` made, or None where a chunk has too many rows for it to pay."""
        if state is None or rows > _MOST_ROWS or x.dtype != torch.float32 or not steps_first(x):
            return None
        if state.packed is None:  # once a stream: its weights do not change
            version = weights_version(self.parameters())
            if self._packed is None or self._packed[0] != version:
                self._packed = (version, self.pack())
            state.packed = self._packed[1]
        return state.packed

    def groups(self, chunks: Sequence[Tensor], rows: Sequence[int], states: Sequence[SpectralState]) -> list[list[int]]:
        """Return which neighbours can run at once, as places: few rows in all, and the same packed weights."""
        groups: list[list[int]] = []
        total, shared = 0, None
        for place, (chunk, n, state) in enumerate(zip(chunks, rows, states, strict=True)):
            packed = self.packed(chunk, n, state) if n else None
            if packed is None or packed is not shared or total + n > _MOST_ROWS:
                groups.append([])
                total = 0
            groups[-1].append(place)
            total, shared = total + n, packed
        return groups


class _Norm:
    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape, self.weight, self.bias, self.eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


def _product(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    return pack_linear(layer.weight, layer.bias, _ROWS)


class Streams:
    """Where the chunks of several streams stand when they are run one after another, ``steps`` of each."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = list(steps)
        self._kept: dict[int, Tensor] = {}

    def ends(self, past: int) -> list[int]:
        """Return where each stream's chunk ends if ``past`` steps stand before each chunk."""
        return [(row + 1) * past + end for row, end in enumerate(accumulate(self.steps))]

    def kept(self, past: int) -> Tensor:
        """Return which outputs of a layer with ``past`` steps belong to a chunk: long [all steps]."""
        if past not in self._kept:
            runs = zip(self.ends(past), self.steps, strict=True)
            self._kept[past] = torch.cat([torch.arange(end - past - n, end - past) for end, n in runs])
        return self._kept[past]


class _Block:
    """A `ConvNeXtBlock` on [B, T, C]."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        self.past = block.past
        assert block.depthwise.bias is not None
        self.taps = block.depthwise.weight.detach()[:, 0].t().contiguous().unbind(0)  # one [C] a step
        self.bias, self.scale = block.depthwise.bias.detach(), block.scale.detach()
        self.norm = _Norm(block.norm)
        self.up, self.down = _product(block.up), _product(block.down)

    def __call__(self, x: Tensor, past: dict[str, Tensor]) -> Tensor:
        T = x.shape[1]
        joined = torch.cat([self._before(past, x), x], 1)
        past[self.past.key] = joined[:, T:].transpose(1, 2)
        return self._pointwise(x, self._depthwise(joined, T))

    def together(self, x: Tensor, streams: Streams, pasts: Sequence[dict[str, Tensor]]) -> Tensor:
        """Take a chunk of several streams, one after another in x [1, steps, C]."""
        parts: list[Tensor] = []
        for chunk, past in zip(x.split(streams.steps, 1), pasts, strict=True):
            parts += (self._before(past, x), chunk)
        joined = torch.cat(parts, 1)
        for end, past in zip(streams.ends(self.past.length), pasts, strict=True):
            past[self.past.key] = joined[:, end - self.past.length : end].transpose(1, 2)
        # Outputs whose taps reach from one stream into the next are dropped.
        h = self._depthwise(joined, joined.shape[1] - self.past.length)
        return self._pointwise(x, h.index_select(1, streams.kept(self.past.length)))

    def _before(self, past: dict[str, Tensor], x: Tensor) -> Tensor:
        before = past.get(self.past.key)  # [B, C, n], as the block itself keeps it
        if before is None:
            return x.new_zeros(x.shape[0], self.past.length, x.shape[2])
        return before.transpose(1, 2)

    def _depthwise(self, joined: Tensor, T: int) -> Tensor:
        h = torch.addcmul(self.bias, joined[:, :T], self.taps[0])
        for step, tap in enumerate(self.taps[1:], 1):
            h.addcmul_(joined.narrow(1, step, T), tap)
        return h

    def _pointwise(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.addcmul(x, self.down(F.gelu(self.up(self.norm(h)))), self.scale)


def _blocks(blocks: nn.ModuleList) -> list[_Block]:
    return [_Block(cast("ConvNeXtBlock", block)) for block in blocks]


class PackedEncoder:
    """The encoder after its transform: features [B, F, 3 * bins] -> latent [B, D, T]."""

    def __init__(self, encoder: SpectralEncoder) -> None:
        self.stride = encoder.config.stride
        self.input, self.input_norm = _product(encoder.input), _Norm(encoder.input_norm)
        self.blocks, self.bottleneck = _blocks(encoder.blocks), _blocks(encoder.bottleneck)
        self.downsample, self.norm = _product(encoder.downsample), _Norm(encoder.norm)
        self.output = _product(encoder.output)

    def __call__(self, features: Tensor, past: dict[str, Tensor]) -> Tensor:
        x = self.input_norm(self.input(features))
        for block in self.blocks:
            x = block(x, past)
        B, steps, C = x.shape
        x = self.downsample(x.reshape(B, steps // self.stride, self.stride * C))
        for block in self.bottleneck:
            x = block(x, past)
        return self.output(self.norm(x)).transpose(1, 2)


class PackedDecoder:
    """The decoder before its transform: latent [B, D, T] -> logarithmic magnitude and phase, [B, F, bins] each."""

    def __init__(self, decoder: SpectralDecoder) -> None:
        self.stride = decoder.config.stride
        self.input, self.upsample = _product(decoder.input), _product(decoder.upsample)
        self.bottleneck, self.blocks = _blocks(decoder.bottleneck), _blocks(decoder.blocks)
        self.norm = _Norm(decoder.norm)
        heads = (decoder.magnitude, decoder.phase)
        self.heads = pack_linear(
            torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads]), _ROWS
        )

    def __call__(self, latent: Tensor, past: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x = self.input(latent.transpose(1, 2))
        for block in self.bottleneck:
            x = block(x, past)
        B, T, _ = x.shape
        x = self.upsample(x).reshape(B, T * self.stride, -1)
        for block in self.blocks:
            x = block(x, past)
        return self._spectra(x)

    def together(self, latents: Sequence[Tensor], pasts: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Take a chunk [1, D, t] of each of several streams: the spectra of all, one after another [1, F, bins]."""
        streams = Streams([latent.shape[2] for latent in latents])
        x = self.input(torch.cat(list(latents), 2).transpose(1, 2))
        for block in self.bottleneck:
            x = block.together(x, streams, pasts)
        x = self.upsample(x).reshape(1, x.shape[1] * self.stride, -1)
        streams = Streams([steps * self.stride for steps in streams.steps])
        for block in self.blocks:
            x = block.together(x, streams, pasts)
        return self._spectra(x)

    def _spectra(self, x: Tensor) -> tuple[Tensor, Tensor]:
        magnitude, phase = self.heads(self.norm(x)).chunk(2, -1)
        return magnitude, phase
