"""A music model as one folder that explains itself; nothing in it can run code.

::

    music.json       {"format": "soundloom-music", "version": 1, "name", "sample_rate",
                      "codec": "codec" (a folder here) | "music-24khz" (a shipped one) | a hub name,
                      "codec_fingerprint", "levels", "sampling": {...}, "retries", "window_seconds", "stride_seconds",
                      "files": {path: SHA-256}}
    lm/              the delay model
    codec/           only where "codec" says so
    decoder.safetensors   the model's own layers of the codec's decoder, if any
    README.md        the card
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from codec.common.files import write_folder, write_text
from codec.common.hub import resolve
from codec.errors import SoundloomError
from codec.pretrained import AudioCodec
from lm.checkpoint import LoadedLM, save_lm
from pipelines.music_model.config import MUSIC_FILE, MusicConfig, read_config, write_record
from pipelines.voice.codec_part import OWN_CODEC, copy_codec, open_codec, read_own_layers, require_fit, write_own_layers
from pipelines.voice.contents import Card, check_files, hash_files
from pipelines.voice.folder import CARD_FILE, open_lm, require_free

SHIPPED_MUSIC = Path(__file__).parent / "shipped"
DEFAULT_MUSIC, SHIPPED_NAME = "small", "shipped"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.md"]


@dataclass(frozen=True)
class MusicParts:
    """The opened parts of a music folder, by the names that `MusicModel` takes."""

    config: MusicConfig
    codec: AudioCodec
    lm: LoadedLM
    decoder: Mapping[str, Tensor] | None = None
    card: Card | str = ""


def is_music_folder(name: str | os.PathLike[str]) -> bool:
    """Return whether a folder, or a shipped model's name, is a music model of soundloom."""
    try:
        return (Path(name).expanduser() / MUSIC_FILE).is_file() or name in (SHIPPED_NAME, *_shipped())
    except (OSError, RuntimeError, ValueError):
        return False


def _shipped() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(SHIPPED_MUSIC.glob(f"*/{MUSIC_FILE}"))}


def find_music(name: str | os.PathLike[str] | None) -> Path:
    """Return the folder of a music model: a folder, the shipped one (None, or "shipped"), or a hub name.

    Raises: SoundloomError where there is none.
    """
    if name is None or name == SHIPPED_NAME:
        folder = SHIPPED_MUSIC / DEFAULT_MUSIC
        if not (folder / MUSIC_FILE).is_file():
            raise SoundloomError(
                f"the shipped music model is missing from this installation: no folder {folder}; name another with "
                "--model, such as facebook/musicgen-small"
            )
        return folder
    return resolve(name, "music model", _HUB_FILES, "someone/music", _shipped())


def open_music_folder(name: str | os.PathLike[str] | None) -> MusicParts:
    """Open the parts of a music model, and check that they fit and are those that music.json lists.

    Raises: SoundloomError that names the file.
    """
    folder = find_music(name)
    path = folder / MUSIC_FILE
    config = read_config(path)
    check_files(folder, config.files, MUSIC_FILE)
    codec = open_codec(folder, config.codec, path)
    require_fit(codec, config.codec, config.codec_fingerprint, config.sample_rate, path)
    lm = open_lm(folder / "lm", codec)
    decoder = read_own_layers(folder, config.files, MUSIC_FILE, "make_music.py")
    return MusicParts(config, codec, lm, decoder, Card(folder / CARD_FILE))


def write_music(
    folder: str | os.PathLike[str], parts: MusicParts, dtype: str = "float32", replace: bool = False
) -> Path:
    """Write a music folder; it appears whole or not at all. Returns the folder.

    ``dtype`` is the weights' type on disk. A codec of ours is copied where the config's codec is "codec".
    Raises: SoundloomError where ``folder`` exists (unless ``replace``, for a music model), or cannot be written.
    """
    folder = Path(folder)
    require_free(folder, MUSIC_FILE, "music model", replace)

    def fill(place: Path) -> None:
        if parts.config.codec == OWN_CODEC:
            copy_codec(parts.codec, place)
        save_lm(place / "lm", parts.lm.model, parts.lm.tokenizer, parts.lm.codec_facts, dtype)
        write_own_layers(place, parts.decoder, dtype)
        write_text(place / CARD_FILE, parts.card if isinstance(parts.card, str) else parts.card.read())
        config = dataclasses.replace(parts.config, files=hash_files(place, (CARD_FILE,)))
        write_text(place / MUSIC_FILE, write_record(config))

    return write_folder(folder, fill)
