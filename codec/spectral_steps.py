"""The spectral networks for a few steps at a time, as a stream gives them: packed weights, and steps before channels.

Here a chunk of 80 ms costs what its arithmetic costs. With the layers as they are trained, most of its time would go to
laying weights out again for each product and each convolution. The numbers are the same, within rounding.
"""

from __future__ import annotations

from collections.abc import Callable
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


class _Norm:
    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape, self.weight, self.bias, self.eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


def _product(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    return pack_linear(layer.weight, layer.bias, _ROWS)


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
        before = past.get(self.past.key)  # [B, C, n], as the block itself keeps it
        if before is None:
            before = x.new_zeros(x.shape[0], x.shape[2], self.past.length)
        joined = torch.cat([before.transpose(1, 2), x], 1)
        past[self.past.key] = joined[:, T:].transpose(1, 2)
        h = torch.addcmul(self.bias, joined[:, :T], self.taps[0])
        for step, tap in enumerate(self.taps[1:], 1):
            h.addcmul_(joined.narrow(1, step, T), tap)
        h = self.down(F.gelu(self.up(self.norm(h))))
        return torch.addcmul(x, h, self.scale)


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
        magnitude, phase = self.heads(self.norm(x)).chunk(2, -1)
        return magnitude, phase
