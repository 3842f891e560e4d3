"""`load_codec`: open a shipped codec, a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from codec.common.checked import read_json
from codec.common.hub import resolve
from codec.errors import SoundloomError, quoted
from codec.face import CodecState
from codec.folder import DECODERS, FORMAT
from codec.model import Codec

SHIPPED = Path(__file__).parent / "weights" / "speech-24khz"
#: the shipped codecs, which lie next to each other, by what they learned
SHIPPED_NAMES = {"speech": "speech-24khz", "music": "music-24khz"}
#: larger models of transformers that hold an EnCodec, and where
HOLDERS = {"musicgen": "audio_encoder", "musicgen_melody": "audio_encoder"}
_FILES = ["config.json", "model*.safetensors*", f"{DECODERS}/*.safetensors"]
_PICKLES = (".th", ".pth", ".pt", ".ckpt", ".bin")


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
    def device(self) -> torch.device:
        """Where the weights are; inputs are moved there, and results stay there."""

    @property
    def streams(self) -> bool:
        """Whether `init_state` starts a stream; other codecs run on the whole only."""

    @property
    def lookahead(self) -> int:
        """Samples by which decoding waits for later codes."""

    def piece_frames(self, batch: int = 1) -> int:
        """Return in pieces of how many frames the codec works; 0 where it takes the whole at once."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the codes."""

    def encode(self, wave: Tensor) -> Tensor:
        """Encode a wave float ``[B, C, N]`` to codes long ``[B, K, T]``, ``T = ceil(N / hop_length)``."""

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes of any first n levels ``[B, n, T]`` to a wave ``[B, C, T * hop_length]``."""

    def init_state(self, batch: int = 1) -> CodecState:
        """Start a stream. Raises: `SoundloomError` unless the codec `streams`."""

    def encode_chunk(self, wave: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Encode the next samples of a stream: the codes now known, those of the whole."""

    def decode_chunk(self, codes: Tensor, state: CodecState, last: bool = False) -> Tensor:
        """Decode the next codes of a stream: the samples now final, those of the whole."""

    def bitrate(self, levels: int | None = None) -> float:
        """Return the bits a second of the first ``levels`` levels (default: all)."""

    def to(self, device: Any) -> Any:
        """Move the codec to another device; return it."""


def load_codec(
    name_or_folder: str | os.PathLike[str] | None = None,
    *,
    native: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    decoder: str | None = None,
) -> AudioCodec:
    """Open a codec, ready to run: a shipped one, a folder, or a hub name such as ``facebook/encodec_24khz``.

    A folder is one of ours or a checkpoint in transformers' format (EnCodec, DAC, Mimi, X-Codec, Higgs Audio). An
    EnCodec checkpoint that fits our own network (24 kHz mono, MusicGen's) is opened as our `Codec`, which gives the
    same codes, streams and is faster; ``native=False`` leaves it to transformers. From a MusicGen checkpoint its codec
    is opened. Safetensors and JSON are all that is read; the internet is used for a hub name only.

    Args:
        name_or_folder: what to open; None is the shipped codec of speech, "music" that of music.
        native: open EnCodec as our own network.
        dtype: ``torch.bfloat16`` computes in that, for speed, where the network is our SEANet (`Codec.compute_in`).
        device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the fastest of them that is there.
        decoder: the name of a further decoder in the folder (`Codec.decoders`): the same codes, another waveform.

    Raises: `SoundloomError` that says what was looked for and what would be right.
    """
    place = choose_device(device)
    codec = _open(name_or_folder, native, decoder)
    if dtype != torch.float32:
        if not isinstance(codec, Codec):
            raise SoundloomError(f"{name_or_folder}: runs in transformers' network, which computes in float32 here")
        codec.compute_in(dtype)
    return codec.to(place)


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of this name; ``auto`` is the fastest that is there.

    Raises: `SoundloomError` for an unknown name and for a device that this machine lacks.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SoundloomError(f"device {quoted(str(name))} is unknown; expected auto, {', '.join(there)}") from None
    if not there.get(device.type, True):
        raise SoundloomError(f"device {device}: this machine, or its torch, has none; auto takes what is there")
    return device


def shipped_folder(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of the shipped codec that a name means, whether it is there or not; None for other names.

    A codec's folder of this name in the working folder comes first; a folder of recordings does not.
    """
    known = {**SHIPPED_NAMES, **{folder: folder for folder in SHIPPED_NAMES.values()}}.get(os.fspath(name))
    return None if known is None or os.path.isfile(os.path.join(name, "config.json")) else SHIPPED.parent / known


def _open(name_or_folder: str | os.PathLike[str] | None, native: bool, decoder: str | None) -> AudioCodec:
    if name_or_folder is None:
        if not SHIPPED.is_dir():
            raise SoundloomError(f"the shipped codec is missing from this installation: no folder {SHIPPED}")
        return Codec.from_pretrained(SHIPPED, decoder)
    if str(name_or_folder).lower().endswith(_PICKLES) and os.path.isfile(name_or_folder):
        raise SoundloomError(
            f"{name_or_folder}: weights in pickles can run code and are never read; convert them to safetensors with "
            "transformers' conversion script for this codec, and give that folder"
        )
    shipped = shipped_folder(name_or_folder)
    if shipped is not None and not shipped.is_dir():
        raise SoundloomError(f"codec {name_or_folder} is missing from this installation: no folder {shipped}")
    folder = shipped or resolve(name_or_folder, "codec", _FILES, "facebook/encodec_24khz")
    config = read_json(folder / "config.json", missing="a codec folder holds it and model.safetensors")
    if config.get("format") == FORMAT:
        return Codec.from_pretrained(folder, decoder)
    if decoder is not None:
        raise SoundloomError(f"{folder} has no decoder {quoted(decoder)}; only codecs of our own format have several")
    return _open_published(folder, config, native)


def _open_published(folder: Path, config: dict[str, Any], native: bool) -> AudioCodec:
    """Open a checkpoint in transformers' format."""
    from codec.encodec_weights import convert_encodec, why_not_native
    from codec.transformers_codecs import ADAPTERS, open_adapter

    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in HOLDERS:
        return convert_encodec(folder, part=HOLDERS[model_type])
    if not isinstance(model_type, str) or model_type not in ADAPTERS:
        raise SoundloomError(
            f'{folder}/config.json is no codec: it has neither "format": "{FORMAT}" nor a "model_type" of '
            f"{', '.join(ADAPTERS)} (it is {quoted(model_type)})"
        )
    whole = (folder / "model.safetensors").is_file()
    if native and model_type == "encodec" and whole and why_not_native(config) is None:
        return convert_encodec(folder)
    return open_adapter(folder, model_type)
