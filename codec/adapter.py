"""The base of the codecs that transformers runs: checks, empty inputs, fingerprint, saving."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from codec.common.checked import read_json
from codec.common.devices import full_precision
from codec.errors import SoundloomError
from codec.face import CodecFace, CodecState


class TransformersCodec(CodecFace):
    """A codec of transformers: waveform ``[B, C, N]`` <-> codes long ``[B, K, T]``, ``T = ceil(N / hop_length)``.

    Any first n levels decode. ``model`` is transformers' own, for whatever this class does not offer.
    Subclasses define which model it is, how it encodes and decodes, and which settings and weights determine the codes.
    """

    model_class: ClassVar[str]
    code_settings: ClassVar[tuple[str, ...]]
    decoder_weights: ClassVar[tuple[str, ...]] = ("decoder.",)

    channels: int = 1
    streams = False

    def __init__(self, model: nn.Module, folder: Path) -> None:
        super().__init__()
        self.model: Any = model
        self.folder = folder
        self._read(self.model.config)

    def _read(self, config: Any) -> None:
        """Set the rates and sizes from transformers' configuration."""
        raise NotImplementedError

    def _encode(self, wave: Tensor) -> Tensor:
        raise NotImplementedError

    def _decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        """Encode a wave float ``[B, C, N]`` at ``sample_rate`` to codes long ``[B, K, T]``."""
        wave = self.checked_wave(wave)
        if wave.numel() == 0:
            return self.no_codes(wave)
        with full_precision(wave.device):
            return self._encode(wave)[..., : -(-wave.shape[-1] // self.hop_length)]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes ``[B, n, T]`` of any first n levels to a wave float ``[B, C, T * hop_length]``."""
        codes = self.checked_codes(codes)
        if codes.numel() == 0:
            return self.no_wave(codes)
        wave = self._decode(codes)
        short = codes.shape[-1] * self.hop_length - wave.shape[-1]
        if abs(short) >= self.hop_length:
            raise SoundloomError(f"{self.model_class} gave {wave.shape[-1]} samples for {codes.shape[-1]} frames")
        return F.pad(wave, (0, short))  # some decoders stop a few samples short of the last frame's end

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the codes: settings, encoder and codebooks as stored on disk.

        Names are left out, because transformers renames weights from release to release.
        """
        config = read_json(self.folder / "config.json")
        settings = {key: config.get(key) for key in ("model_type", *self.code_settings)}
        digests = []
        for path in weight_files(self.folder):
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    if not name.startswith(self.decoder_weights):
                        value = tensors.get_tensor(name).float().contiguous()
                        shape = repr(tuple(value.shape)).encode()
                        digests.append(hashlib.sha256(shape + value.numpy().tobytes()).hexdigest())
        return hashlib.sha256("\n".join([json.dumps(settings, sort_keys=True), *sorted(digests)]).encode()).hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Copy the checkpoint as it was read: ``config.json`` and its safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", *(path.name for path in self.folder.glob("model*.safetensors*"))):
            shutil.copy(self.folder / name, folder / name)

    def init_state(self, batch: int = 1) -> CodecState:
        """Start a stream. Raises: `SoundloomError` unless the codec `streams`."""
        raise self._whole_only()

    def encode_chunk(self, wave: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Encode the next samples of a stream. Raises: `SoundloomError` unless the codec `streams`."""
        raise self._whole_only()

    def decode_chunk(self, codes: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Decode the next codes of a stream. Raises: `SoundloomError` unless the codec `streams`."""
        raise self._whole_only()

    def _whole_only(self) -> SoundloomError:
        return SoundloomError(
            f"{self.model_class} does not stream here; use encode and decode, or a codec of soundloom's own networks"
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors of a checkpoint folder: one file, or shards."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))
