"""`load_codec`: the shipped codec, a folder, or a name on the Hugging Face hub, behind one face."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from codec.errors import SoundloomError
from codec.model import FORMAT, Codec

SHIPPED = Path(__file__).parent / "weights" / "speech-24khz"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


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


def load_codec(name_or_folder: str | os.PathLike[str] | None = None, *, native: bool = True) -> AudioCodec:
    """Open a codec, ready to run: the shipped one, a folder, or a hub name such as ``facebook/encodec_24khz``.

    A folder is one of ours or a checkpoint in transformers' format (EnCodec, DAC, Mimi, X-Codec, Higgs Audio). An
    EnCodec checkpoint that fits our own network (24 kHz mono) is opened as our `Codec`, which gives the same codes,
    streams and is faster; ``native=False`` leaves it to transformers.
    The network is used for a hub name only, and safetensors and JSON are all that is read.
    Raises: `SoundloomError` that says what was looked for and what would be right.
    """
    if name_or_folder is None:
        if not SHIPPED.is_dir():
            raise SoundloomError(f"the shipped codec is missing from this installation: no folder {SHIPPED}")
        return Codec.from_pretrained(SHIPPED)
    folder = _folder(os.fspath(name_or_folder))
    config = _config(folder)
    if config.get("format") == FORMAT:
        return Codec.from_pretrained(folder)
    from codec.adapters import ADAPTERS, open_adapter
    from codec.encodec_convert import convert_encodec, why_not_native

    model_type = config.get("model_type")
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


def _folder(name: str) -> Path:
    """The local folder that a name stands for; a hub name is downloaded, or found in the hub's cache."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise SoundloomError(f"{name} is a file; give the folder that holds config.json and model.safetensors")
    if not _HUB_NAME.fullmatch(name):
        raise SoundloomError(
            f"no codec {name!r}: there is no such folder, and a name on the hub has the form owner/name, "
            "such as facebook/encodec_24khz"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "model*.safetensors*"]))
    except Exception as error:
        said = str(error).strip().splitlines()
        raise SoundloomError(
            f"no codec {name!r}: there is no such folder here, and the Hugging Face hub did not give it: "
            f"{said[0] if said else type(error).__name__}"
        ) from None


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SoundloomError(f"{folder} is no codec: it has no config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SoundloomError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(config, dict):
        raise SoundloomError(f"{path} must hold a JSON object")
    return config
