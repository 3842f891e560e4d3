"""The codec on one page: an encoder, a residual vector quantizer and a decoder."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.batched import encode_rows
from codec.common.devices import full_precision
from codec.common.meta import shapes_only
from codec.config import CodecConfig
from codec.conv import folded_state
from codec.errors import SoundloomError, quoted
from codec.face import CodecFace, CodecState
from codec.folder import (
    check_tensor,
    decoder_names,
    errors_name,
    open_weights,
    read_config,
    read_decoder,
    read_tensors,
    rounded,
    write_codec,
)
from codec.quantize import ResidualVectorQuantizer
from codec.seanet import SEANetDecoder, SEANetEncoder
from codec.spectral import SpectralDecoder, SpectralEncoder

__all__ = ["Codec", "CodecConfig", "CodecState"]

_PIECE_SECONDS = {"seanet": 10.0, "spectral": 60.0}  # of a row that is alone in its batch


class Codec(CodecFace):
    """Waveform [B, C, N] <-> codes long [B, K, T], T = ceil(N / hop_length); any first n levels decode.

    ``decoders``: names of the further decoders in the folder that it was opened from, for `load_codec(decoder=...)`.
    """

    encoder: SpectralEncoder | SEANetEncoder
    decoder: SpectralDecoder | SEANetDecoder

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        if config.network == "spectral":
            self.encoder, self.decoder = SpectralEncoder(config.spectral), SpectralDecoder(config.spectral)
            self.channels, latent_dim = 1, config.spectral.latent_dim
        else:
            self.encoder, self.decoder = SEANetEncoder(config.seanet), SEANetDecoder(config.seanet)
            self.channels, latent_dim = config.seanet.channels, config.seanet.latent_dim
        self.quantizer = ResidualVectorQuantizer(latent_dim, config.quantizer)
        self.sample_rate = config.sample_rate
        self.hop_length = self.encoder.hop_length
        self.codebook_size = config.quantizer.codebook_size
        self.num_levels = config.quantizer.num_levels
        self.decoders: tuple[str, ...] = ()
        self._folder: Path | None = None  # where it was opened from

    @property
    def streams(self) -> bool:
        """Whether the networks are causal, so that `init_state` starts a stream."""
        return self.config.network == "spectral" or self.config.seanet.causal

    @property
    def lookahead(self) -> int:
        """Samples by which `decode` waits for later codes; the codes themselves never depend on what follows."""
        return self.config.spectral.lookahead if self.config.network == "spectral" else 0

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in: float32 unless `compute_in` changed it."""
        return next(self.parameters()).dtype

    def compute_in(self, dtype: torch.dtype) -> Codec:
        """Let the networks compute in ``dtype``, to which their weights are rounded; return the codec itself.

        Codebooks, the search in them, and waves stay float32. bfloat16 is faster for a SEANet on CPUs that multiply it
        in hardware; a few codes differ, and so does the fingerprint, which keeps the two apart.
        Raises: `SoundloomError` for other types, and for a spectral network, whose transforms need float32.
        """
        if dtype not in (torch.float32, torch.bfloat16):
            raise SoundloomError(f"a codec computes in float32 or bfloat16, not in {dtype}")
        if dtype != torch.float32 and self.config.network == "spectral":
            raise SoundloomError("this codec's spectral transforms need float32; only a SEANet computes in bfloat16")
        self.encoder.to(dtype)
        self.decoder.to(dtype)
        return self

    def with_decoder(self, weights: Mapping[str, Tensor]) -> Codec:
        """Return this codec with other weights in (parts of) its decoder; encoder and codebooks are shared.

        ``weights``: tensors by their names in the decoder; the others stay. The codes are the same.
        Raises: `SoundloomError` for names, shapes or values that the decoder cannot have.
        """
        own = self.decoder.state_dict()
        for name, value in weights.items():
            if name not in own or own[name].shape != value.shape:
                has = f"has shape {list(own[name].shape)}" if name in own else "is none of its tensors"
                raise SoundloomError(f"decoder: {name} {list(value.shape)} does not fit this codec, where it {has}")
            check_tensor(value, own[name].dtype, f"decoder: {name}")
        shared = {id(part): part for part in (self.encoder, self.quantizer)}
        other = copy.deepcopy(self, shared)
        other.decoder.load_state_dict(own | {name: value.to(own[name].dtype) for name, value in weights.items()})
        return other

    def equalized(self, gains: Tensor) -> Codec:
        """Return this codec, whose decoder makes each frequency e ** gain times as loud; see `with_decoder`.

        ``gains`` [decoder window // 2 + 1]: see `codec.equalize.spectrum_gains`. Raises: `SoundloomError` for a SEANet,
        which makes no spectra.
        """
        if not isinstance(self.decoder, SpectralDecoder):
            raise SoundloomError("a SEANet makes no spectra that could be equalized; only a spectral network does")
        bias = self.decoder.magnitude.bias.detach()
        if gains.shape != bias.shape:
            raise SoundloomError(f"gains have shape {list(gains.shape)}; this decoder makes {len(bias)} frequencies")
        return self.with_decoder({"magnitude.bias": bias + gains})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the codes: the encoder, the codebooks and their shapes.

        A codec whose decoder alone was trained further keeps its fingerprint: old token grids stay valid.
        """
        digest = hashlib.sha256()
        shape = dataclasses.asdict(self.config)[self.config.network]
        shape.pop("weight_norm", None)  # the same codes with it and with it folded away
        digest.update(
            json.dumps({"sample_rate": self.sample_rate, self.config.network: shape}, sort_keys=True).encode()
        )
        tensors = {f"encoder.{name}": value for name, value in folded_state(self.encoder).items()}
        tensors |= {f"codebook.{k}": codebook for k, codebook in enumerate(self.quantizer.codebooks())}
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().float().contiguous()
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        """Encode a wave float [B, C, N] to codes long [B, K, T]; the end is padded to a whole frame."""

        def step(piece: Tensor, state: Any = None, last: bool = False) -> Tensor:
            return self.quantizer.encode(self._latent(piece, state, last))

        wave = self.checked_wave(wave)
        with full_precision(wave.device):
            return self._by_pieces(step, self.encoder, wave, self.hop_length) if wave.numel() else self.no_codes(wave)

    def encode_rows(self, waves: Sequence[Tensor]) -> list[Tensor]:
        """Encode waves [C, N_i] of any lengths to codes [K, T_i], as one batch where the networks are causal."""
        return encode_rows(self, waves) if self.streams else super().encode_rows(waves)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes [B, n, T] of any first n levels to a wave float [B, C, T * hop_length]."""

        def step(piece: Tensor, state: Any = None, last: bool = False) -> Tensor:
            return self._sound(self.quantizer.decode(piece), state, last)

        codes = self.checked_codes(codes)
        return self._by_pieces(step, self.decoder, codes, 1) if codes.numel() else self.no_wave(codes)

    @torch.no_grad()
    def decode_latent(self, latent: Tensor) -> Tensor:
        """Decode latents float [B, D, T], such as sums of codebook vectors, to a wave [B, C, T * hop_length]."""
        latent = self._checked_latent(latent)
        return self._by_pieces(self._sound, self.decoder, latent, 1) if latent.numel() else self.no_wave(latent)

    def _by_pieces(self, step: Callable[..., Tensor], network: Any, signal: Tensor, unit: int) -> Tensor:
        """Apply ``step`` to the whole [B, ..., n] or, on a CPU, to one piece of time after another.

        The memory then does not grow with the length, and each layer finds its input in the cache. ``unit``: a frame's
        steps. A network that is not causal needs the whole.
        """
        frames = self.piece_frames(len(signal))
        pieces = signal.split(frames * unit, -1) if frames else (signal,)
        if len(pieces) == 1:
            return step(signal)
        state, last = network.init_state(len(signal)), len(pieces) - 1
        return torch.cat([step(piece, state, i == last) for i, piece in enumerate(pieces)], -1)

    def piece_frames(self, batch: int = 1) -> int:
        """Return in pieces of how many frames `encode` and `decode` work; 0 where they take the whole at once.

        A stream in chunks of this size computes what they do, to the bit.
        """
        if not self.streams or self.device.type != "cpu":
            return 0
        return max(1, round(_PIECE_SECONDS[self.config.network] * self.frame_rate / max(1, batch)))

    def init_state(self, batch: int = 1) -> CodecState:
        """Start a stream for `encode_chunk` and `decode_chunk`. Raises: `SoundloomError` unless it `streams`."""
        return CodecState(self.encoder.init_state(batch), self.decoder.init_state(batch), batch)

    @torch.no_grad()
    def encode_chunk(self, wave: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Encode the next samples of a stream [B, C, n], any n: the codes now known [B, K, t], those of the whole.

        Samples that do not fill a frame wait in the state; ``last=True`` ends the stream.
        """
        wave = self.checked_wave(wave)
        state.advance("encoding", len(wave), last)
        if state.norms is None:
            state.norms = self.quantizer.norms()
        with full_precision(wave.device):
            return self.quantizer.encode(self._latent(wave, state.encoder, last), state.norms)

    @torch.no_grad()
    def decode_chunk(self, codes: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Decode the next codes of a stream [B, n, t] to the samples now final [B, C, ...], those of the whole.

        Samples that wait for a later frame come with ``last=True``, for which t may be 0.
        """
        codes = self.checked_codes(codes)
        state.advance("decoding", len(codes), last)
        return self._sound(self.quantizer.decode(codes), state.decoder, last)

    @torch.no_grad()
    def decode_latent_chunk(self, latent: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Do as `decode_chunk` for the next latents of a stream [B, D, t]."""
        latent = self._checked_latent(latent)
        state.advance("decoding", len(latent), last)
        return self._sound(latent, state.decoder, last)

    @torch.no_grad()
    def decode_chunks(
        self, frames: Sequence[Tensor], states: Sequence[CodecState], last: Sequence[bool] | None = None
    ) -> list[Tensor]:
        """Decode the next frames of several streams of one row, any number of each: waves [C, n].

        ``frames``: codes [n, t] or latents float [D, t]. Each stream gets what `decode_chunk` gives it, within
        rounding; a spectral network reads its weights once for all.
        """
        ends = [False] * len(frames) if last is None else list(last)
        latents = [self._latent_of(one[None]) for one in frames]
        for state, end in zip(states, ends, strict=True):
            state.advance("decoding", 1, end)
        own = [state.decoder for state in states]
        if isinstance(self.decoder, SpectralDecoder):
            return [wave[0] for wave in self.decoder.together(latents, own, ends)]
        return [self._sound(*one)[0] for one in zip(latents, own, ends, strict=True)]

    def _latent_of(self, frames: Tensor) -> Tensor:
        """Return frames [B, n, t], codes or latents, as checked latents [B, D, t]."""
        if frames.is_floating_point():
            return self._checked_latent(frames)
        return self.quantizer.decode(self.checked_codes(frames))

    def _checked_latent(self, latent: Tensor) -> Tensor:
        if latent.dim() != 3 or latent.shape[1] != self.quantizer.dim:
            raise SoundloomError(
                f"latent has shape {list(latent.shape)}; this codec's decoder takes [B, {self.quantizer.dim}, T]"
            )
        return latent.to(self.device)

    def _latent(self, wave: Tensor, state: Any, last: bool) -> Tensor:
        return self.encoder(wave.to(self.dtype), state, last).float()

    def _sound(self, latent: Tensor, state: Any = None, last: bool = False) -> Tensor:
        return self.decoder(latent.to(self.dtype), state, last).float()

    def other_decoder(self, name: str) -> Codec:
        """Return this codec with a further decoder of its folder: the same codes, another waveform.

        Raises: `SoundloomError` for a codec that was not opened from a folder, or a name that is not in `decoders`.
        """
        if self._folder is None:
            raise SoundloomError(f"decoder {quoted(name)}: this codec was not opened from a folder")
        return self.with_decoder(read_decoder(self._folder, name))

    def save_pretrained(
        self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None, keep_codes: bool = False
    ) -> None:
        """Write config.json and model.safetensors, weight norm folded away.

        ``dtype`` (float16, say) halves the networks, not the codebooks. A rounded encoder gives a few other codes
        and has another fingerprint; with ``keep_codes`` only the decoder is rounded.
        """
        tensors = {name: value.detach().cpu().contiguous() for name, value in folded_state(self).items()}
        if dtype is not None:
            tensors = rounded(tensors, dtype, ("decoder.",) if keep_codes else ("decoder.", "encoder."))
        write_codec(Path(folder), self.config, tensors)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], decoder: str | None = None) -> Codec:
        """Open a folder that `save_pretrained` wrote, ready to run.

        ``decoder``: the name of one of the folder's further decoders, to use in place of its own.
        Raises: `SoundloomError` where the files do not fit each other, or a weight is not finite.
        """
        folder = Path(folder)
        config = read_config(folder / "config.json")
        with errors_name(folder):
            weights = open_weights(folder, config)
            with shapes_only():
                codec = cls(config)
            codec.load_state_dict(read_tensors(weights, codec.state_dict()), assign=True)
        codec.decoders, codec._folder = decoder_names(folder), folder
        return (codec if decoder is None else codec.with_decoder(read_decoder(folder, decoder))).eval()
