"""What all codecs share: the checks of their inputs, and the rates that follow from their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from codec.errors import SoundloomError

_LARGEST_SAMPLE = 1e6  # full scale is 1; beyond this the squares in a network's spectra leave float32
_TO_FLOATS = {
    torch.int16: "divide by 32768",
    torch.int32: "divide by 2147483648",
    torch.int8: "divide by 128",
    torch.uint8: "subtract 128 and divide by 128",
    torch.int64: "divide by the largest value of the format that they came from",
}


@dataclass
class CodecState:
    """Position of a stream: the encoder's and the decoder's past. One per request; `init_state` makes it.

    norms: the codebooks' squared lengths, taken once a stream where the codec searches them itself.
    """

    encoder: Any
    decoder: Any
    batch: int = 1
    ended: set[str] = field(default_factory=set)
    norms: list[Tensor] | None = None

    def advance(self, direction: Literal["encoding", "decoding"], rows: int, last: bool) -> None:
        """Check that a chunk of this many rows continues the stream, and end it with ``last``.

        Raises: `SoundloomError` for another batch size, and after the end.
        """
        if rows != self.batch:
            raise SoundloomError(
                f"a chunk of {rows} rows in a stream of {self.batch}; init_state({rows}) starts one for {rows}"
            )
        if direction in self.ended:
            raise SoundloomError(f"{direction}: this stream has ended (last=True); init_state starts another")
        if last:
            self.ended.add(direction)


class CodecFace(nn.Module):
    """Base of every codec here; subclasses set the five sizes."""

    sample_rate: int
    channels: int
    hop_length: int
    codebook_size: int
    num_levels: int

    @property
    def lookahead(self) -> int:
        """Samples by which decoding waits for later codes."""
        return 0

    def piece_frames(self, batch: int = 1) -> int:
        """Return in pieces of how many frames the codec works; 0 where it takes the whole at once."""
        return 0

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs are moved there, and results stay there."""
        return next(self.parameters()).device

    def bitrate(self, levels: int | None = None) -> float:
        """Return the bits a second of the codes of the first ``levels`` levels (default: all)."""
        return self.frame_rate * (levels or self.num_levels) * math.log2(self.codebook_size)

    def checked_wave(self, wave: Tensor) -> Tensor:
        """Return a wave [B, C, N] of any float type in float32 on the codec's device.

        Raises: `SoundloomError` for other shapes, for integers and bools, and for samples that are not finite.
        """
        if not isinstance(wave, Tensor):
            raise SoundloomError(f"wave is a {type(wave).__name__}; give a torch tensor [B, {self.channels}, N]")
        if wave.dim() != 3 or wave.shape[1] != self.channels:
            raise SoundloomError(
                f"wave has shape {list(wave.shape)}; this codec takes [B, {self.channels}, N] at {self.sample_rate} Hz"
            )
        if not wave.is_floating_point():
            kind = str(wave.dtype).removeprefix("torch.")
            how = f": {_TO_FLOATS[wave.dtype]}" if wave.dtype in _TO_FLOATS else ""
            raise SoundloomError(f"wave holds {kind} samples; give floats from -1 to 1{how}")
        wave = wave.to(self.device, torch.float32)
        if wave.numel():
            low, high = (float(end) for end in torch.aminmax(wave))  # NaN comes through
            if not -_LARGEST_SAMPLE <= low <= high <= _LARGEST_SAMPLE:
                _refuse_samples(wave)
        return wave

    def checked_codes(self, codes: Tensor) -> Tensor:
        """Return codes [B, n, T] of any integer type as long on the codec's device.

        Raises: `SoundloomError` for other shapes and types, and for codes that no codebook has.
        """
        if not isinstance(codes, Tensor):
            raise SoundloomError(f"codes are a {type(codes).__name__}; give a torch tensor [B, n, T]")
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_levels:
            raise SoundloomError(
                f"codes have shape {list(codes.shape)}; this codec takes [B, n, T] with n from 1 to {self.num_levels}"
            )
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise SoundloomError(f"codes are {str(codes.dtype).removeprefix('torch.')}; this codec takes integers")
        codes = codes.to(self.device, torch.long)
        if codes.numel():
            low, high = (int(end) for end in torch.aminmax(codes))
            if not 0 <= low <= high < self.codebook_size:
                raise SoundloomError(
                    f"codes run from {low} to {high}; this codec's codebooks hold 0 to {self.codebook_size - 1}"
                )
        return codes

    def encode_rows(self, waves: Sequence[Tensor]) -> list[Tensor]:
        """Encode waves [C, N_i] of any lengths to the codes [K, T_i] that `encode` gives; here one after another."""
        return [self.encode(wave[None])[0] for wave in waves]

    def encode(self, wave: Tensor) -> Tensor:
        """Encode a wave float [B, C, N] to codes long [B, K, T]."""
        raise NotImplementedError

    def no_codes(self, wave: Tensor) -> Tensor:
        """Return the codes of a wave without samples or rows."""
        frames = -(-wave.shape[-1] // self.hop_length)
        return torch.zeros(len(wave), self.num_levels, frames, dtype=torch.long, device=wave.device)

    def no_wave(self, frames: Tensor) -> Tensor:
        """Return the wave of codes or latents without frames or rows."""
        return torch.zeros(len(frames), self.channels, frames.shape[-1] * self.hop_length, device=frames.device)


def _refuse_samples(wave: Tensor) -> None:
    wrong = ~(wave.abs() <= _LARGEST_SAMPLE)
    row, channel, sample = wrong.nonzero()[0].tolist()
    raise SoundloomError(
        f"wave holds {float(wave[row, channel, sample]):g} in row {row}, channel {channel}, sample {sample}; "
        "samples are finite and run from -1 to 1"
    )
