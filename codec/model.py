"""The codec: an encoder, a residual vector quantizer and a decoder behind one face."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from codec.common.checked import from_dict, read_json
from codec.common.files import check_file
from codec.conv import folded_state
from codec.errors import SoundloomError
from codec.quantize import QuantizerConfig, ResidualVectorQuantizer
from codec.seanet import SEANetConfig, SEANetDecoder, SEANetEncoder
from codec.spectral import SpectralConfig, SpectralDecoder, SpectralEncoder

FORMAT = "soundloom-codec"
_PIECE_SECONDS = {"seanet": 10.0, "spectral": 60.0}  # of a row, where it is alone in its batch


@dataclass(frozen=True)
class CodecConfig:
    """A codec's shape: which pair of networks, and the quantizer between them. Sample rate in Hz."""

    sample_rate: int = 24000
    network: Literal["spectral", "seanet"] = "spectral"
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    seanet: SEANetConfig = field(default_factory=SEANetConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)


@dataclass
class CodecState:
    """A stream's place: the encoder's and the decoder's past. One per request; `Codec.init_state` makes it."""

    encoder: Any
    decoder: Any


class Codec(nn.Module):
    """Waveform [B, C, N] <-> codes long [B, K, T], T = ceil(N / hop_length); any first n levels decode."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.network == "spectral":
            self.encoder, self.decoder = SpectralEncoder(config.spectral), SpectralDecoder(config.spectral)
            self.channels, latent_dim = 1, config.spectral.latent_dim
        else:
            self.encoder, self.decoder = SEANetEncoder(config.seanet), SEANetDecoder(config.seanet)
            self.channels, latent_dim = config.seanet.channels, config.seanet.latent_dim
        self.quantizer = ResidualVectorQuantizer(latent_dim, config.quantizer)
        self.sample_rate = config.sample_rate
        self.hop_length: int = self.encoder.hop_length
        self.frame_rate = config.sample_rate / self.hop_length
        self.codebook_size = config.quantizer.codebook_size
        self.num_levels = config.quantizer.num_levels

    @property
    def lookahead(self) -> int:
        """Samples by which `decode` waits for later codes; the codes themselves never depend on what follows."""
        return self.config.spectral.lookahead if self.config.network == "spectral" else 0

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in: float32 unless `compute_in` changed it."""
        return next(self.parameters()).dtype

    def compute_in(self, dtype: torch.dtype) -> Codec:
        """Let the networks compute in ``dtype``, to which their weights are rounded; returns the codec itself.

        Codebooks, the search in them, and waves stay float32. bfloat16 makes a SEANet half as fast again on CPUs that
        multiply it in hardware (docs/bench.md); a few codes differ, and so does the fingerprint, which keeps the two
        apart.
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
        """This codec with other weights in (parts of) its decoder; encoder and codebooks are shared, codes the same.

        ``weights``: tensors by their names in the decoder; what is not named stays. Raises: `SoundloomError` for names
        or shapes that the decoder does not have.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.decoder = copy.deepcopy(self.decoder)
        own = other.decoder.state_dict()
        for name, value in weights.items():
            if name not in own or own[name].shape != value.shape:
                has = f"has shape {list(own[name].shape)}" if name in own else "is none of its tensors"
                raise SoundloomError(f"decoder: {name} {list(value.shape)} does not fit this codec, where it {has}")
        other.decoder.load_state_dict(own | {name: value.to(own[name].dtype) for name, value in weights.items()})
        return other

    def equalized(self, gains: Tensor) -> Codec:
        """This codec, but of all that it decodes each frequency is e ** gain times as loud; see `with_decoder`.

        ``gains`` [decoder window // 2 + 1]: see `codec.equalize.spectrum_gains`. Raises: `SoundloomError` for a SEANet,
        which makes no spectra.
        """
        if not isinstance(self.decoder, SpectralDecoder):
            raise SoundloomError("a SEANet makes no spectra that could be equalized; only a spectral network does")
        bias = self.decoder.magnitude.bias.detach()
        if gains.shape != bias.shape:
            raise SoundloomError(f"gains have shape {list(gains.shape)}; this decoder makes {len(bias)} frequencies")
        return self.with_decoder({"magnitude.bias": bias + gains})

    def bitrate(self, levels: int | None = None) -> float:
        """Bits a second that the codes of the first `levels` levels (default: all) carry."""
        return self.frame_rate * (levels or self.num_levels) * math.log2(self.codebook_size)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides which codes a sound gets: the encoder, the codebooks and their shapes.

        A codec whose decoder alone was trained further keeps its fingerprint: old token grids stay valid.
        """
        digest = hashlib.sha256()
        shape = dataclasses.asdict(self.config)[self.config.network]
        shape.pop("weight_norm", None)  # the same codes with it and with it folded away
        digest.update(
            json.dumps({"sample_rate": self.sample_rate, self.config.network: shape}, sort_keys=True).encode()
        )
        tensors = {f"encoder.{name}": value for name, value in folded_state(self.encoder).items()}
        tensors |= {f"codebook.{k}": level.codebook for k, level in enumerate(self.quantizer.levels)}
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().float().contiguous()
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def _checked_wave(self, wave: Tensor) -> Tensor:
        if wave.dim() != 3 or wave.shape[1] != self.channels:
            raise SoundloomError(
                f"wave has shape {list(wave.shape)}; this codec takes [B, {self.channels}, N] at {self.sample_rate} Hz"
            )
        return wave

    def _checked_codes(self, codes: Tensor) -> Tensor:
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_levels:
            raise SoundloomError(
                f"codes have shape {list(codes.shape)}; this codec takes [B, n, T] with n from 1 to {self.num_levels}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise SoundloomError(
                f"codes run from {int(codes.min())} to {int(codes.max())}; "
                f"this codec's codebooks hold 0 to {self.codebook_size - 1}"
            )
        return codes

    def _checked_latent(self, latent: Tensor) -> Tensor:
        if latent.dim() != 3 or latent.shape[1] != self.quantizer.dim:
            raise SoundloomError(
                f"latent has shape {list(latent.shape)}; this codec's decoder takes [B, {self.quantizer.dim}, T]"
            )
        return latent

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """wave float [B, C, N] at `sample_rate` -> codes long [B, K, T]; the end is padded to a whole frame."""

        def step(piece: Tensor, state: Any = None, last: bool = False) -> Tensor:
            return self.quantizer.encode(self._latent(piece, state, last))

        return self._by_pieces(step, self.encoder, self._checked_wave(wave), self.hop_length)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """codes long [B, n, T] of any first n levels -> wave float [B, C, T * hop_length]."""

        def step(piece: Tensor, state: Any = None, last: bool = False) -> Tensor:
            return self._sound(self.quantizer.decode(piece), state, last)

        return self._by_pieces(step, self.decoder, self._checked_codes(codes), 1)

    @torch.inference_mode()
    def decode_latent(self, latent: Tensor) -> Tensor:
        """latent float [B, D, T], such as sums of codebook vectors, -> wave float [B, C, T * hop_length]."""
        return self._by_pieces(self._sound, self.decoder, self._checked_latent(latent), 1)

    def _by_pieces(self, step: Callable[..., Tensor], network: Any, signal: Tensor, unit: int) -> Tensor:
        """``step`` over the whole [B, ..., n] or, on a CPU, over one piece of time after another; ``unit`` is a frame.

        So the memory does not grow with the sound, and what a layer makes lies near when the next one reads it.
        """
        frames = max(1, round(_PIECE_SECONDS[self.config.network] * self.frame_rate / max(1, len(signal))))
        pieces = signal.split(frames * unit, -1) if signal.device.type == "cpu" else (signal,)
        if len(pieces) == 1:
            return step(signal)
        state, last = network.init_state(len(signal)), len(pieces) - 1
        return torch.cat([step(piece, state, i == last) for i, piece in enumerate(pieces)], -1)

    def init_state(self, batch: int = 1) -> CodecState:
        """A fresh stream for `encode_chunk` and `decode_chunk`."""
        return CodecState(self.encoder.init_state(batch), self.decoder.init_state(batch))

    @torch.inference_mode()
    def encode_chunk(self, wave: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """The next samples of a stream: wave [B, C, n], any n -> the codes now known [B, K, t], those of the whole.

        What does not fill a frame waits in the state; `last=True` ends the stream.
        """
        return self.quantizer.encode(self._latent(self._checked_wave(wave), state.encoder, last))

    @torch.inference_mode()
    def decode_chunk(self, codes: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """The next codes of a stream [B, n, t] -> the samples that are now final [B, C, ...], those of the whole.

        What still waits for a later frame comes with `last=True`, for which t may be 0.
        """
        return self._sound(self.quantizer.decode(self._checked_codes(codes)), state.decoder, last)

    @torch.inference_mode()
    def decode_latent_chunk(self, latent: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """`decode_chunk` for the next latents of a stream [B, D, t]."""
        return self._sound(self._checked_latent(latent), state.decoder, last)

    def _latent(self, wave: Tensor, state: Any, last: bool) -> Tensor:
        return self.encoder(wave.to(self.dtype), state, last).float()

    def _sound(self, latent: Tensor, state: Any = None, last: bool = False) -> Tensor:
        return self.decoder(latent.to(self.dtype), state, last).float()

    def save_pretrained(
        self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None, keep_codes: bool = False
    ) -> None:
        """Write config.json and model.safetensors, weight norm folded away.

        `dtype` (float16, say) halves the networks, not the codebooks. A rounded encoder gives a few other codes
        and has another fingerprint; with `keep_codes` only the decoder is rounded.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in folded_state(self).items()}
        if dtype is not None:
            rounded = ("decoder.",) if keep_codes else ("decoder.", "encoder.")
            tensors = {
                name: value.to(dtype) if value.is_floating_point() and name.startswith(rounded) else value
                for name, value in tensors.items()
            }
        save_file(tensors, folder / "model.safetensors")
        record = {"format": FORMAT, "version": 1, **dataclasses.asdict(self.config)}
        record["seanet"]["weight_norm"] = False
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Codec:
        """Open a folder that `save_pretrained` wrote, ready to run; raises `SoundloomError` where it does not fit."""
        folder = Path(folder)
        config = read_config(folder / "config.json")
        path = folder / "model.safetensors"
        try:
            _check_sizes(config, path)
            codec = cls(config)
            tensors = load_file(path)
            # float16 on disk is exact in float32: the same weights, hence the same codes, on every machine
            codec.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        except SoundloomError:
            raise
        except Exception as error:
            raise SoundloomError(f"{path} does not hold the weights that config.json describes: {error}") from None
        return codec.eval()


def _check_sizes(config: CodecConfig, path: Path) -> None:
    """Hold a config against the shapes that the weights' file tells, before anything of its sizes is made."""
    check_file(path, missing="a codec folder holds config.json and model.safetensors")
    with safe_open(path, framework="pt") as opened:
        shapes = {name: list(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no dict
    network = config.spectral if config.network == "spectral" else config.seanet
    counts = [n for name, n in vars(network).items() if name.endswith(("_blocks", "_layers"))]
    counts += [config.quantizer.num_levels]
    if max(counts) > len(shapes):
        raise SoundloomError(f"{path} holds {len(shapes)} tensors, too few for the layers that config.json describes")
    with torch.device("meta"):
        expected = {name: list(tensor.shape) for name, tensor in Codec(config).state_dict().items()}
    for name in sorted(set(expected) | set(shapes)):
        if expected.get(name) != shapes.get(name):
            told = f"{name} has shape {shapes.get(name)}, config.json asks for {expected.get(name)}"
            raise SoundloomError(f"{path} does not hold the weights that config.json describes: {told}")


def read_config(path: Path) -> CodecConfig:
    """Read a codec's config.json; unknown keys, wrong types and other formats raise `SoundloomError`."""
    record = read_json(path, missing="a codec folder holds config.json and model.safetensors")
    if record.pop("format", None) != FORMAT:
        raise SoundloomError(f'{path} is not a codec of soundloom: its "format" should be "{FORMAT}"')
    if record.pop("version", None) != 1:
        raise SoundloomError(f"{path} has an unknown version; this soundloom reads version 1")
    return from_dict(CodecConfig, record, str(path))
