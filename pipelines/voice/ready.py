"""Speakers as ready state: what a voice finds out about a speaker from its recording, stored so that it need not again.

The file ``speakers.safetensors`` of a voice's folder holds, for each speaker, codes, text ids, the fit of latents and
the decoder's equalized bias. A key names what all that follows from; a state with another key is made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.common.files import atomic_path, write_text
from codec.errors import SoundloomError
from codec.model import Codec
from codec.pretrained import AudioCodec
from lm.generation.latents import LatentFit
from pipelines.voice.config import VOICE_FILE, VoiceConfig, write_record
from pipelines.voice.contents import SPEAKERS_FOLDER, hash_files, require_regular
from pipelines.voice.request import Speaker, Style, VoicePrompt

READY_FILE = "speakers.safetensors"
_FORMAT = 1
_BIAS = "magnitude.bias"
_MOST_BYTES = 64 << 20

Key = bytes


def read_ready(folder: Path, config: VoiceConfig) -> dict[str, Tensor]:
    """Return the tensors of a voice's ready speakers; none where voice.json does not list the file.

    Raises: SoundloomError for a file that is too large or no safetensors.
    """
    path = folder / READY_FILE
    if READY_FILE not in config.files:
        return {}
    require_regular(path, folder)
    if path.stat().st_size > _MOST_BYTES:
        raise SoundloomError(f"{path}: has more than {_MOST_BYTES >> 20} MiB; delete it and its line in {VOICE_FILE}")
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise SoundloomError(f"{path}: not readable as safetensors ({error})") from None


def key_of(config: VoiceConfig, player: AudioCodec, name: str, style: Style) -> Key | None:
    """Return what a speaker's state follows from, as a hash; None for a voice that lists no files."""
    if not config.files:
        return None
    own = tuple(f"{SPEAKERS_FOLDER}/{name}{suffix}" for suffix in (".flac", ".wav", ".txt", ".ogg", ".mp3"))
    files = {path: digest for path, digest in config.files.items() if not _of_other_speakers(path, own)}
    facts = [_FORMAT, sorted(files.items()), config.codec_fingerprint, style.levels, style.sampling.sampled_levels]
    digest = hashlib.sha256(json.dumps(facts).encode())
    bias = _bias(player)
    if bias is not None:  # a codec's fingerprint leaves out its decoder
        digest.update(bias.detach().float().cpu().numpy().tobytes())
    return digest.digest()


def _of_other_speakers(path: str, own: tuple[str, ...]) -> bool:
    return path == READY_FILE or (path.startswith(f"{SPEAKERS_FOLDER}/") and path not in own)


def _bias(codec: AudioCodec) -> Tensor | None:
    return codec.decoder.state_dict().get(_BIAS) if isinstance(codec, Codec) else None


def pack(name: str, key: Key, prompt: VoicePrompt) -> dict[str, Tensor]:
    """Return a speaker's state as tensors, by names that begin with the speaker's."""
    speaker = prompt.speaker
    codes = prompt.codes if speaker is None else speaker.codes
    parts: dict[str, Tensor] = {
        "key": torch.tensor(list(key), dtype=torch.uint8),
        "codes": codes.to(torch.int32),
        "text_ids": torch.tensor(prompt.text_ids, dtype=torch.int32),
    }
    if speaker is not None and speaker.fit is not None:
        parts |= {"centre": speaker.fit.centre, "scale": speaker.fit.scale, "shift": speaker.fit.shift}
    bias = None if speaker is None or speaker.player is None else _bias(speaker.player)
    if bias is not None:
        parts["bias"] = bias
    parts["has_speaker"] = torch.tensor([speaker is not None], dtype=torch.uint8)
    return {f"{name}/{part}": value.detach().cpu().contiguous().clone() for part, value in parts.items()}


def unpack(
    stored: Mapping[str, Tensor], name: str, key: Key | None, text_ids: tuple[int, ...], levels: int, player: AudioCodec
) -> VoicePrompt | None:
    """Return a speaker's state, None where none is stored for this key and these text ids. ``levels``: the model's."""
    parts = {path.rpartition("/")[2]: value for path, value in stored.items() if path.rpartition("/")[0] == name}
    if key is None or "key" not in parts or bytes(parts["key"].tolist()) != key:
        return None
    if tuple(parts["text_ids"].tolist()) != text_ids:
        return None
    parts = {part: value.to(player.device) for part, value in parts.items()}
    codes = parts["codes"].long()
    if not bool(parts["has_speaker"][0]):
        return VoicePrompt(codes[:levels], text_ids)
    fit = LatentFit(parts["centre"], parts["scale"], parts["shift"]) if "centre" in parts else None
    own = player.with_decoder({_BIAS: parts["bias"]}) if "bias" in parts and isinstance(player, Codec) else None
    return VoicePrompt(codes[:levels], text_ids, Speaker(codes, fit, own))


def write_ready(folder: Path, config: VoiceConfig, states: Iterable[Mapping[str, Tensor]]) -> None:
    """Write the ready speakers of a voice's folder, then list the file in voice.json. Raises: SoundloomError."""
    tensors = {path: value for state in states for path, value in state.items()}
    path = folder / READY_FILE
    with atomic_path(path) as place:
        save_file(tensors, place)
    digest = hash_files(folder, ())[READY_FILE]
    files = dict(sorted({**config.files, READY_FILE: digest}.items()))
    write_text(folder / VOICE_FILE, write_record(replace(config, files=files)))
