"""`load_codec`: the shipped codec, a folder, or a name on the Hugging Face hub, behind one face."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from codec.common.checked import read_json
from codec.common.hub import resolve
from codec.errors import SoundloomError
from codec.model import FORMAT, Codec

SHIPPED = Path(__file__).parent / "weights" / "speech-24khz"
#: larger models of transformers that hold an EnCodec, and where
HOLDERS = {"musicgen": "audio_encoder", "musicgen_melody": "audio_encoder"}


@runtime_checkable
class AudioCodec(Protocol):
    """What every codec here can do, ours and those of transformers."""

    sample_rate: int
    channels: int
    hop_length: int
    codebook_size: int
    num_levels: int

    @property
    def frame_rate(self) -> float:
        """Frames a second: ``sample_rate / hop_length``."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides which codes a sound gets."""

    def encode(self, wave: Tensor) -> Tensor:
        """Waveform float ``[B, C, N]`` to codes long ``[B, K, T]``, ``T = ceil(N / hop_length)``."""

    def decode(self, codes: Tensor) -> Tensor:
        """Codes of any first n levels ``[B, n, T]`` to waveform ``[B, C, T * hop_length]``."""

    def bitrate(self, levels: int | None = None) -> float:
        """Bits a second of the first ``levels`` levels (default: all)."""


def load_codec(
    name_or_folder: str | os.PathLike[str] | None = None, *, native: bool = True, dtype: torch.dtype = torch.float32
) -> AudioCodec:
    """Open a codec, ready to run: the shipped one, a folder, or a hub name such as ``facebook/encodec_24khz``.

    A folder is one of ours or a checkpoint in transformers' format (EnCodec, DAC, Mimi, X-Codec, Higgs Audio). An
    EnCodec checkpoint that fits our own network (24 kHz mono) is opened as our `Codec`, which gives the same codes,
    streams and is faster; ``native=False`` leaves it to transformers. Of a MusicGen checkpoint its codec is opened.
    ``dtype=torch.bfloat16`` computes in that, for speed, where the network is our SEANet (`Codec.compute_in`).
    The network is used for a hub name only, and safetensors and JSON are all that is read.
    Raises: `SoundloomError` that says what was looked for and what would be right.
    """
    codec = _open(name_or_folder, native)
    if dtype == torch.float32:
        return codec
    if not isinstance(codec, Codec):
        raise SoundloomError(f"{name_or_folder}: runs in transformers' network, which computes in float32 here")
    return codec.compute_in(dtype)


def _open(name_or_folder: str | os.PathLike[str] | None, native: bool) -> AudioCodec:
    if name_or_folder is None:
        if not SHIPPED.is_dir():
            raise SoundloomError(f"the shipped codec is missing from this installation: no folder {SHIPPED}")
        return Codec.from_pretrained(SHIPPED)
    patterns = ["config.json", "model*.safetensors*"]
    folder = resolve(name_or_folder, "codec", patterns, "facebook/encodec_24khz")
    config = read_json(folder / "config.json", missing="a codec folder holds it and model.safetensors")
    if config.get("format") == FORMAT:
        return Codec.from_pretrained(folder)
    from codec.encodec_weights import convert_encodec, why_not_native
    from codec.transformers_codecs import ADAPTERS, open_adapter

    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in HOLDERS:
        return convert_encodec(folder, part=HOLDERS[model_type])
    if not isinstance(model_type, str) or model_type not in ADAPTERS:
        raise SoundloomError(
            f'{folder}/config.json is no codec: it has neither "format": "{FORMAT}" nor a "model_type" of '
            f"{', '.join(ADAPTERS)} (it is {model_type!r})"
        )
    if (
        native
        and model_type == "encodec"
        and why_not_native(config) is None
        and (folder / "model.safetensors").is_file()
    ):
        return convert_encodec(folder)
    return open_adapter(folder, model_type)
