"""Waves of different lengths encoded as one batch: the codes that each has alone.

A row is followed by silence up to the batch's length. Nothing before it can know: the networks here are causal. Only a
layer that reflects looks past the end of a row, to fill its last step. So each row's end is reflected where it is.
A code may differ where two codebook vectors are equally near within rounding (about 1e-6): products of other shapes sum
in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from codec.common.devices import full_precision, to_device
from codec.conv import Conv1d
from codec.seanet import SEANetEncoder

if TYPE_CHECKING:
    from codec.model import Codec


@torch.no_grad()
def encode_rows(codec: Codec, waves: Sequence[Tensor]) -> list[Tensor]:
    """Encode waves float [C, N_i] to codes long [K, T_i], T_i = ceil(N_i / hop_length), in one batch where they can be.

    Short waves of a reflecting network are encoded alone: reflection at their start would meet that at their end.
    """
    encoder, hop = codec.encoder, codec.hop_length
    reflects = isinstance(encoder, SEANetEncoder) and encoder.config.pad_mode == "reflect"
    least = encoder.start_frames * hop if reflects and isinstance(encoder, SEANetEncoder) else 1
    together = [index for index, wave in enumerate(waves) if wave.shape[-1] >= least]
    codes = [codec.encode(wave[None])[0] if wave.shape[-1] < least else wave for wave in waves]
    if together:
        rows = [waves[index] for index in together]
        batch = codec.checked_wave(to_device(side_by_side(rows, hop), codec.device))
        made = _reflected(codec, batch, [row.shape[-1] for row in rows]) if reflects else codec.encode(batch)
        for index, row, own in zip(together, rows, made, strict=True):
            codes[index] = own[:, : -(-row.shape[-1] // hop)]
    return codes


def side_by_side(waves: Sequence[Tensor], hop_length: int) -> Tensor:
    """Return waves [C, N_i] as one batch [B, C, N] on the CPU, each followed by zeros.

    N is a whole number of frames, one of eight between a power of two and the next: batches then have few shapes.
    """
    frames = max(-(-wave.shape[-1] // hop_length) for wave in waves)
    unit = 1 << max(0, frames.bit_length() - 4)
    batch = torch.zeros(len(waves), waves[0].shape[0], -(-frames // unit) * unit * hop_length)
    for row, wave in zip(batch, waves, strict=True):
        row[:, : wave.shape[-1]] = wave
    return batch


def _reflected(codec: Codec, batch: Tensor, lengths: list[int]) -> Tensor:
    """Encode a batch [B, C, N] whose rows have these lengths, each row's end reflected at every layer with a stride."""
    encoder = codec.encoder
    assert isinstance(encoder, SEANetEncoder)
    steps = to_device(torch.tensor(lengths), batch.device)
    with full_precision(batch.device):
        x = batch.to(codec.dtype)
        for layer in encoder.layers:
            if isinstance(layer, nn.ELU):
                continue  # the convolution after it applies it
            if isinstance(layer, Conv1d) and layer.stride > 1:
                x = mirror_ends(x, steps, layer.stride)
                steps = -(-steps // layer.stride)
            x = layer(x)
        return codec.quantizer.encode(x.float())


def mirror_ends(x: Tensor, lengths: Tensor, stride: int) -> Tensor:
    """Fill each row's last step of ``stride`` by reflection: x [B, C, T] whose rows have ``lengths`` [B] -> [B, C, T].

    What lies past that step is left as it is.
    """
    last = lengths[:, None] - 1
    index = torch.arange(x.shape[-1], device=x.device)
    ends = lengths[:, None] + (-lengths[:, None]) % stride
    source = torch.where((index > last) & (index < ends), (2 * last - index).clamp(min=0), index)
    return x.gather(-1, source[:, None].expand(-1, x.shape[1], -1))
