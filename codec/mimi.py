"""Kyutai's Mimi (Défossez et al. 2024), whole and as a stream.

transformers streams Mimi's encoder, but only in whole frames, and not its decoder. Here both are exact, because every
layer is causal: the transformers keep their keys and values, and each chunk of a convolution is preceded by as much of
its past as it depends on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codec.adapter import TransformersCodec
from codec.common.devices import full_precision
from codec.face import CodecState


class MimiAdapter(TransformersCodec):
    """Mimi as transformers runs it; level 0 is its semantic codebook."""

    model_class = "MimiModel"
    code_settings = (
        *("sampling_rate", "audio_channels", "upsampling_ratios", "pad_mode", "use_causal_conv", "sliding_window"),
        *("frame_rate", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "num_semantic_quantizers"),
    )
    decoder_weights = ("decoder.", "decoder_transformer.", "upsample.")

    def _read(self, config: Any) -> None:
        self.sample_rate, self.channels = config.sampling_rate, config.audio_channels
        self.hop_length = round(config.sampling_rate / config.frame_rate)
        self.codebook_size, self.num_levels = config.codebook_size, config.num_quantizers
        self.streams = bool(config.use_causal_conv)

    def _encode(self, wave: Tensor) -> Tensor:
        return self.model.encode(wave, return_dict=True).audio_codes

    def _decode(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes, return_dict=True).audio_values

    def init_state(self, batch: int = 1) -> CodecState:
        """Start a stream for `encode_chunk` and `decode_chunk`."""
        if not self.streams:
            raise self._whole_only()
        encoder, decoder, ratio = self.model.encoder, self.model.decoder, math.prod(self.model.config.upsampling_ratios)
        frames = self.hop_length // ratio  # steps of the transformers in a frame of codes
        # Releases of transformers differ in where the parts are.
        up, down = (encoder, decoder) if hasattr(encoder, "encoder_seanet") else (self.model, self.model)
        encoding = [
            _Convolutions(getattr(up, "encoder_seanet", encoder), self.hop_length, 1 / ratio),
            _Attention(up.encoder_transformer),
            _Convolutions(up.downsample, frames, 1 / frames),
        ]
        decoding = [
            _Convolutions(down.upsample, 1, frames),
            _Attention(down.decoder_transformer),
            _Convolutions(getattr(down, "decoder_seanet", decoder), 1, ratio),
        ]
        waiting = torch.zeros(batch, self.channels, 0, device=self.device)
        return CodecState(_Stream(encoding, waiting), _Stream(decoding, waiting), batch)

    @torch.no_grad()
    def encode_chunk(self, wave: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Encode the next samples of a stream [B, C, n], any n: the codes now known [B, K, t], those of the whole."""
        wave = self.checked_wave(wave)
        state.advance("encoding", len(wave), last)
        wave = torch.cat([state.encoder.waiting, wave], -1)
        whole = wave.shape[-1] if last else wave.shape[-1] // self.hop_length * self.hop_length
        state.encoder.waiting = wave[..., whole:]
        if whole == 0:
            return self.no_codes(wave[..., :0])
        with full_precision(wave.device):
            return self.model.quantizer.encode(state.encoder.run(wave[..., :whole]), None).transpose(0, 1)

    @torch.no_grad()
    def decode_chunk(self, codes: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Decode the next codes of a stream [B, n, t] to samples [B, C, t * hop_length], those of the whole."""
        codes = self.checked_codes(codes)
        state.advance("decoding", len(codes), last)
        if codes.shape[-1] == 0:
            return self.no_wave(codes)
        return state.decoder.run(self.model.quantizer.decode(codes))


@dataclass
class _Stream:
    """One direction of a stream: its parts in order, and samples that do not fill a frame yet."""

    parts: list[Any]
    waiting: Tensor

    def run(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class _Convolutions:
    """Causal convolutions, chunk by chunk: each chunk is preceded by the past that its outputs depend on.

    ``unit``: steps in which the past is kept, so that strides fall on the same places; ``rate``: outputs per input.
    """

    def __init__(self, network: nn.Module, unit: int, rate: float) -> None:
        self.network, self.rate = network, rate
        self.keep = math.ceil(_reach(network) / unit) * unit
        self.past: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.past is not None:
            x = torch.cat([self.past, x], -1)
        skip = 0 if self.past is None else round(self.past.shape[-1] * self.rate)
        self.past = x[..., max(0, x.shape[-1] - self.keep) :]
        return self.network(x)[..., skip:]


class _Attention:
    """A transformer, chunk by chunk, on [B, C, T]."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.past: Any = None

    def __call__(self, x: Tensor) -> Tensor:
        out = self.transformer(x.transpose(1, 2), past_key_values=self.past, use_cache=True)
        self.past = out.past_key_values
        return out.last_hidden_state.transpose(1, 2)


def _reach(network: nn.Module) -> float:
    """Return how many input steps before its own an output of causal convolutions depends on."""
    reach, step = 0.0, 1.0  # step: input steps of the network per input step of the layer
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d):
            reach += ((layer.kernel_size[0] - 1) * layer.dilation[0] + 1 - layer.stride[0]) * step
            step *= layer.stride[0]
        elif isinstance(layer, nn.ConvTranspose1d):
            reach += (math.ceil(layer.kernel_size[0] / layer.stride[0]) - 1) * step
            step /= layer.stride[0]
    return reach
