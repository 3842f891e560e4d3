"""The codecs that transformers runs, with the methods of our `Codec`: EnCodec, DAC, Mimi, X-Codec, Higgs Audio.

transformers is imported only when one is opened. Weights come from safetensors alone, and no code of a folder is run.
A checkpoint that lacks a weight is refused (transformers itself would fill the gap with random numbers).
"""

from __future__ import annotations

import importlib
import math
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from codec.adapter import TransformersCodec, weight_files
from codec.audio.torchaudio_stub import import_torchaudio
from codec.common.checked import read_json
from codec.common.files import check_file
from codec.conv import fold_weight_norm
from codec.errors import SoundloomError, quoted
from codec.folder import check_tensor
from codec.mimi import MimiAdapter


class EncodecAdapter(TransformersCodec):
    """EnCodec as transformers runs it, with all codebooks of its highest bandwidth.

    Checkpoints that normalise and cut into chunks (48 kHz stereo) are adapted so that the codes alone determine the
    waveform, and frames stay on one clock:

    - *Chunks* follow one another without the reference's overlap of 1%, which would put 150 frames into the time of
      148.5: ``T = ceil(N / hop_length)``, and a chunk's codes are those of transformers with ``overlap = 0``. From the
      second chunk on they differ from the published model's; opening one warns about it.
    - *Scale.* The loudness that a chunk is divided by is level 0, one code for the chunk: logarithmic steps of 0.12 dB
      (with 1,024 of them). The reference's codebooks are levels 1 to K - 1; level 0 alone decodes to silence.
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
            if config.overlap:
                warnings.warn(
                    "this EnCodec's chunks overlap in the published model and do not here: "
                    "its codes differ from the published model's after the first chunk",
                    stacklevel=2,
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


class XcodecAdapter(TransformersCodec):
    """X-Codec, which also encodes a speech model's features; the end is padded to a whole frame."""

    model_class = "XcodecModel"
    code_settings = ("sample_rate", "acoustic_model_config", "semantic_model_config", "channel_ratios", "strides")
    decoder_weights = ("acoustic_decoder.", "decoder_semantic.", "fc1.", "fc2.")

    def _read(self, config: Any) -> None:
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.codebook_size = config.codebook_size
        # As encode counts them; rounding can make it one fewer than in the configuration.
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


# Numbers of layers, each with tensors of its own: checked first, because even empty layers take time.
_COUNTS = ("num_quantizers", "n_codebooks", "num_residual_layers", "num_lstm_layers", "num_hidden_layers")

_FLOATS = ("F64", "F32", "F16", "BF16")


def import_transformers() -> types.ModuleType:
    """Import transformers, also next to a CPU-only torch, where torchaudio (which its audio models import) fails."""
    with suppress(ImportError, OSError):
        import_torchaudio()
    return importlib.import_module("transformers")


def open_adapter(folder: Path, model_type: str) -> TransformersCodec:
    """Open a checkpoint folder in transformers' format as the codec that ``model_type`` names.

    Torch's global generator stays where it is.
    Raises: `SoundloomError` where transformers has no such model, or the folder's files do not fit it.
    """
    adapter = ADAPTERS[model_type]
    try:
        transformers = import_transformers()
        model_class = getattr(transformers, adapter.model_class)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise SoundloomError(f"{folder} needs {adapter.model_class} of transformers: {error}") from None
    for path in weight_files(folder):
        check_file(path)
    if not weight_files(folder):
        raise SoundloomError(f"{folder} holds no model.safetensors; weights in other formats are not read")
    refuse_kernels(read_json(folder / "config.json"), folder)
    try:
        with quiet(transformers), torch.random.fork_rng(devices=[]):
            config = model_class.config_class.from_pretrained(folder, local_files_only=True)
            _require_weights(folder, model_class, config)
            model, report = model_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        lacking = sorted(report["missing_keys"]) + sorted(map(str, report.get("mismatched_keys", ())))
        if lacking:
            raise SoundloomError(f"it lacks {len(lacking)} weights of {adapter.model_class}, such as {lacking[0]}")
        for name, value in model.state_dict().items():
            check_tensor(value, value.dtype, name)
        fold_weight_norm(model)
        return adapter(model.eval(), folder).eval()
    except Exception as error:
        raise SoundloomError(f"{folder} cannot be opened as {adapter.model_class}: {error}") from None


def refuse_kernels(config: Any, folder: Path) -> None:
    """Refuse a configuration that makes transformers fetch code from the hub: attention called "owner/kernel".

    Raises: `SoundloomError`.
    """
    if isinstance(config, dict):
        for key, value in config.items():
            if str(key).endswith("_implementation") and "/" in str(value):
                raise SoundloomError(f"{folder}: {key} {quoted(value)} is code of the hub, which is never run")
            refuse_kernels(value, folder)


def _require_weights(folder: Path, model_class: Any, config: Any) -> None:
    """Refuse a configuration that asks for far more weights than the files hold, before anything is allocated.

    Tensors that are no floats are refused too, but for single numbers.
    """
    held = tensors_held = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            names = tensors.keys()
            tensors_held += len(names)
            for name in names:
                piece = tensors.get_slice(name)
                size = math.prod(piece.get_shape())
                held += size
                if size > 1 and piece.get_dtype() not in _FLOATS:
                    raise SoundloomError(f"{path.name}: {name} holds {piece.get_dtype()} values; expected floats")
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
    """Silence transformers' progress bars and load reports; what matters in them becomes an error of ours."""
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
