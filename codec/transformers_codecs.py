"""Discrete codecs of transformers behind the same face as our `Codec`: EnCodec, DAC, Mimi, X-Codec, Higgs Audio.

transformers is imported only when one is opened. Weights come from safetensors alone, nothing that a folder holds is
run, and a checkpoint that lacks a weight is refused (transformers itself would fill the gap with random numbers).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import shutil
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from codec.audio import files as audio
from codec.common.checked import read_json
from codec.common.files import check_file
from codec.conv import fold_weight_norm
from codec.errors import SoundloomError


class TransformersCodec(nn.Module):
    """A codec of transformers: waveform ``[B, C, N]`` <-> codes long ``[B, K, T]``, ``T = ceil(N / hop_length)``.

    Any first n levels decode. ``model`` is transformers' own, for what lies outside this face.
    Subclasses say which model, how it encodes and decodes, and which of its settings and weights decide the codes.
    """

    model_class: ClassVar[str]
    code_settings: ClassVar[tuple[str, ...]]
    decoder_weights: ClassVar[tuple[str, ...]] = ("decoder.",)

    sample_rate: int
    channels: int = 1
    hop_length: int
    codebook_size: int
    num_levels: int

    def __init__(self, model: nn.Module, folder: Path) -> None:
        super().__init__()
        self.model = model
        self.folder = folder
        self._read(model.config)

    def _read(self, config: Any) -> None:
        """Set the rates and sizes from transformers' configuration."""
        raise NotImplementedError

    def _encode(self, wave: Tensor) -> Tensor:
        raise NotImplementedError

    def _decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length

    def bitrate(self, levels: int | None = None) -> float:
        """Bits a second that the codes of the first ``levels`` levels (default: all) carry."""
        return self.frame_rate * (levels or self.num_levels) * math.log2(self.codebook_size)

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Waveform float ``[B, C, N]`` at ``sample_rate`` to codes long ``[B, K, T]``."""
        if wave.dim() != 3 or wave.shape[1] != self.channels or wave.shape[2] == 0:
            raise SoundloomError(
                f"wave has shape {list(wave.shape)}; this codec takes [B, {self.channels}, N] at {self.sample_rate} Hz"
            )
        codes = self._encode(wave)
        return codes[..., : -(-wave.shape[-1] // self.hop_length)]

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes long ``[B, n, T]`` of any first n levels to waveform float ``[B, C, T * hop_length]``."""
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_levels or codes.shape[2] == 0:
            raise SoundloomError(
                f"codes have shape {list(codes.shape)}; this codec takes [B, n, T] with n from 1 to {self.num_levels}"
            )
        if not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise SoundloomError(
                f"codes run from {int(codes.min())} to {int(codes.max())}; "
                f"this codec's codebooks hold 0 to {self.codebook_size - 1}"
            )
        wave = self._decode(codes)
        short = codes.shape[-1] * self.hop_length - wave.shape[-1]
        if abs(short) >= self.hop_length:
            raise SoundloomError(f"{self.model_class} gave {wave.shape[-1]} samples for {codes.shape[-1]} frames")
        return F.pad(wave, (0, short))  # some decoders stop a few samples short of the last frame's end

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides which codes a sound gets: settings, encoder and codebooks as they lie on disk.

        Names are left out of it, because transformers renames weights from release to release.
        """
        config = read_json(self.folder / "config.json")
        told = {key: config.get(key) for key in ("model_type", *self.code_settings)}
        digests = []
        for path in _weight_files(self.folder):
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    if not name.startswith(self.decoder_weights):
                        value = tensors.get_tensor(name).float().contiguous()
                        shape = repr(tuple(value.shape)).encode()
                        digests.append(hashlib.sha256(shape + value.numpy().tobytes()).hexdigest())
        return hashlib.sha256("\n".join([json.dumps(told, sort_keys=True), *sorted(digests)]).encode()).hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Copy the checkpoint as it was read: ``config.json`` and its safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", *(path.name for path in self.folder.glob("model*.safetensors*"))):
            shutil.copy(self.folder / name, folder / name)

    def init_state(self, batch: int = 1) -> Any:
        """Raise `SoundloomError`: transformers' codecs run here on the whole only."""
        raise SoundloomError(
            f"{self.model_class} does not stream here; use encode and decode, or a codec of soundloom's own networks"
        )


class EncodecAdapter(TransformersCodec):
    """EnCodec as transformers runs it, with all codebooks of its highest bandwidth.

    Checkpoints that normalise and cut into chunks (48 kHz stereo) are fitted to the face so that codes alone hold the
    sound and frames stay on one clock:

    - *Chunks* follow one another without the reference's overlap of 1%, which would make 150 frames of 148.5 frames'
      time: ``T = ceil(N / hop_length)`` and a chunk's codes are those of transformers with ``overlap = 0``.
    - *Scale.* The loudness by which a chunk was divided is level 0, the same code over the chunk: logarithmic steps of
      0.12 dB (with 1,024 of them). The reference's codebooks are levels 1 to K - 1; level 0 alone gives no sound.
    """

    model_class = "EncodecModel"
    code_settings = (
        *("sampling_rate", "audio_channels", "normalize", "chunk_length_s", "upsampling_ratios", "pad_mode"),
        *("use_causal_conv", "norm_type", "dilation_growth_rate", "kernel_size", "use_conv_shortcut"),
    )
    quietest, loudest = 1e-6, 1.5  # root mean squares at the ends of the loudness scale

    def _read(self, config: Any) -> None:
        self.sample_rate, self.channels = config.sampling_rate, config.audio_channels
        self.hop_length, self.codebook_size = config.hop_length, config.codebook_size
        self.has_scale = bool(config.normalize)
        self.num_levels = config.num_quantizers + self.has_scale
        self.bandwidth = config.target_bandwidths[-1]
        self.chunk_frames = 0  # the whole is one chunk
        if config.chunk_length is not None:
            self.chunk_frames = config.chunk_length // self.hop_length
            if config.chunk_length % self.hop_length:
                raise SoundloomError(
                    f"EnCodec chunks of {config.chunk_length} samples must be whole frames of {self.hop_length}"
                )

    def _chunks(self, x: Tensor, frame: int) -> tuple[Tensor, ...]:
        return x.split(self.chunk_frames * frame, dim=-1) if self.chunk_frames else (x,)

    def _encode(self, wave: Tensor) -> Tensor:
        grids = []
        for chunk in self._chunks(wave, self.hop_length):
            out = self.model.encode(chunk, bandwidth=self.bandwidth, return_dict=True)
            codes = out.audio_codes[0]  # [B, K, t]
            if self.has_scale:
                loudness = self._loudness_code(out.audio_scales[0])  # [B, 1]
                codes = torch.cat([loudness[:, None].expand(-1, 1, codes.shape[-1]), codes], dim=1)
            grids.append(codes)
        return torch.cat(grids, dim=-1)

    def _decode(self, codes: Tensor) -> Tensor:
        waves = []
        for chunk in self._chunks(codes, 1):
            scale = None
            if self.has_scale:
                scale = self._loudness(chunk[:, 0, 0])
            sound = chunk[:, self.has_scale :]
            if sound.shape[1]:
                waves.append(self.model.decode(sound[None], [scale], return_dict=True).audio_values)
            else:
                samples = chunk.shape[-1] * self.hop_length
                waves.append(torch.zeros(len(chunk), self.channels, samples, device=chunk.device))
        return torch.cat(waves, dim=-1)

    def _loudness_code(self, scale: Tensor) -> Tensor:
        span = math.log(self.loudest / self.quietest)
        steps = (scale / self.quietest).clamp(min=1).log() / span * (self.codebook_size - 1)
        return steps.round().long().clamp(max=self.codebook_size - 1)

    def _loudness(self, code: Tensor) -> Tensor:
        span = math.log(self.loudest / self.quietest)
        return self.quietest * torch.exp(code.float() / (self.codebook_size - 1) * span)


class DacAdapter(TransformersCodec):
    """Descript's audio codec; the end is padded with zeros to a whole frame, as its feature extractor does."""

    model_class = "DacModel"
    code_settings = ("sampling_rate", "downsampling_ratios", "codebook_dim")

    def _read(self, config: Any) -> None:
        self.sample_rate, self.hop_length = config.sampling_rate, config.hop_length
        self.codebook_size, self.num_levels = config.codebook_size, config.n_codebooks

    def _encode(self, wave: Tensor) -> Tensor:
        return self.model.encode(F.pad(wave, (0, -wave.shape[-1] % self.hop_length)), return_dict=True).audio_codes

    def _decode(self, codes: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes, return_dict=True).audio_values[:, None]


class MimiAdapter(TransformersCodec):
    """Kyutai's Mimi; level 0 is its semantic codebook."""

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

    def _encode(self, wave: Tensor) -> Tensor:
        return self.model.encode(wave, return_dict=True).audio_codes

    def _decode(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes, return_dict=True).audio_values


class XcodecAdapter(TransformersCodec):
    """X-Codec, which encodes sound together with a speech model's features; the end is padded to a whole frame."""

    model_class = "XcodecModel"
    code_settings = ("sample_rate", "acoustic_model_config", "semantic_model_config", "channel_ratios", "strides")
    decoder_weights = ("acoustic_decoder.", "decoder_semantic.", "fc1.", "fc2.")

    def _read(self, config: Any) -> None:
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.codebook_size = config.codebook_size
        # As encode counts them; rounding can make it one fewer than the configuration says.
        self.num_levels = self.model.quantizer.get_num_quantizers_for_bandwidth(config.target_bandwidths[-1])

    def _encode(self, wave: Tensor) -> Tensor:
        return self.model.encode(F.pad(wave, (0, -wave.shape[-1] % self.hop_length)), return_dict=True).audio_codes

    def _decode(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes, return_dict=True).audio_values


class HiggsAudioAdapter(XcodecAdapter):
    """The codec of Higgs Audio v2: X-Codec's design at 24 kHz."""

    model_class = "HiggsAudioV2TokenizerModel"


ADAPTERS: dict[str, type[TransformersCodec]] = {
    "encodec": EncodecAdapter,
    "dac": DacAdapter,
    "mimi": MimiAdapter,
    "xcodec": XcodecAdapter,
    "higgs_audio_v2_tokenizer": HiggsAudioAdapter,
}


# Numbers of layers, each with tensors of its own: checked before anything, because even empty layers take time.
_COUNTS = ("num_quantizers", "n_codebooks", "num_residual_layers", "num_lstm_layers", "num_hidden_layers")


def import_transformers() -> types.ModuleType:
    """transformers, also beside a CPU-only torch, where torchaudio (which its audio models import) fails by itself."""
    with suppress(ImportError, OSError):
        audio._torchaudio()
    return importlib.import_module("transformers")


def open_adapter(folder: Path, model_type: str) -> TransformersCodec:
    """Open a checkpoint folder in transformers' format as the codec that ``model_type`` names.

    Raises: `SoundloomError` where transformers has no such model, or the folder's files do not fit it.
    """
    adapter = ADAPTERS[model_type]
    try:
        transformers = import_transformers()
        model_class = getattr(transformers, adapter.model_class)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise SoundloomError(f"{folder} needs {adapter.model_class} of transformers: {error}") from None
    for path in _weight_files(folder):
        check_file(path)
    if not _weight_files(folder):
        raise SoundloomError(f"{folder} holds no model.safetensors; weights in other formats are not read")
    try:
        with quiet(transformers):
            config = model_class.config_class.from_pretrained(folder, local_files_only=True)
            _require_weights(folder, model_class, config)
            model, told = model_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        lacking = sorted(told["missing_keys"]) + sorted(map(str, told.get("mismatched_keys", ())))
        if lacking:
            raise SoundloomError(f"it lacks {len(lacking)} weights of {adapter.model_class}, such as {lacking[0]}")
        fold_weight_norm(model)
        return adapter(model.eval(), folder).eval()
    except Exception as error:
        raise SoundloomError(f"{folder} cannot be opened as {adapter.model_class}: {error}") from None


def _weight_files(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))


def _require_weights(folder: Path, model_class: Any, config: Any) -> None:
    """Refuse a configuration that asks for far more weights than the files hold, before anything is allocated."""
    held = tensors_held = 0
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            names = tensors.keys()
            tensors_held += len(names)
            held += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    for part in (config, *(getattr(config, f"{kind}_model_config", None) for kind in ("acoustic", "semantic"))):
        for name in _COUNTS:
            if getattr(part, name, None) is not None and getattr(part, name) > tensors_held:
                raise SoundloomError(f"config.json has {name} {getattr(part, name)}, for {tensors_held} tensors")
    with torch.device("meta"):
        asked = sum(value.numel() for value in model_class(config).state_dict().values())
    if asked > 2 * held:
        raise SoundloomError(f"config.json describes {asked:,} numbers, its safetensors hold {held:,}")


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars or load reports of transformers; what matters in them comes as an error of ours."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
