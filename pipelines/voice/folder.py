"""A voice as one folder that explains itself; nothing in it can run code.

::

    voice.json       {"format": "soundloom-voice", "version": 1, "name", "language", "sample_rate",
                      "codec": "codec" (a folder here) | "speech-24khz" (a shipped one) | a hub name,
                      "codec_fingerprint", "generation": {... GenerateConfig ...}, "retries", ...,
                      "speakers": {name: {"gender", "accent"}}, "files": {path: SHA-256}}
    lm/              the delay model;  or  coarse/ and fine/, the pair
    codec/           only where "codec" says so
    decoder.safetensors   the voice's own layers of the codec's decoder (`pipelines/tune_decoder.py`), if any
    speakers/        more speakers, if any: for each a recording, bella.flac, and its words, bella.txt
    speakers.safetensors  what the voice found out about them, so that it need not again, if any
    README.md        the card
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from codec.common.files import write_folder, write_text
from codec.common.hub import resolve
from codec.errors import SoundloomError
from codec.pretrained import AudioCodec
from lm.checkpoint import LoadedLM, load_lm, save_lm
from lm.fine_lm import CoarseFineLM, FineLM
from lm.step_lm import StepLM
from lm.text.tokenizer import MODEL_FILE
from pipelines.voice.codec_part import OWN_CODEC, copy_codec, open_codec, read_own_layers, require_fit, write_own_layers
from pipelines.voice.config import VOICE_FILE, SpeakerFacts, VoiceConfig, read_config, write_record
from pipelines.voice.contents import (
    SPEAKERS_FOLDER,
    Card,
    SpeakerPrompt,
    check_files,
    find_speakers,
    hash_files,
)
from pipelines.voice.ready import read_ready

__all__ = ["Card", "SpeakerFacts", "SpeakerPrompt", "VoiceConfig", "find_speakers", "find_voice", "open_voice_folder"]

CARD_FILE = "README.md"
SHIPPED_VOICES = Path(__file__).parent / "shipped"
DEFAULT_VOICE = "heart"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.tsv.gz", "*.md", f"{SPEAKERS_FOLDER}/*"]


@dataclass(frozen=True)
class VoiceParts:
    """The opened parts of a voice folder, by the names that `Voice` takes."""

    config: VoiceConfig
    codec: AudioCodec
    lm: LoadedLM
    card: Card | str = ""
    decoder: Mapping[str, Tensor] | None = None
    speakers: Mapping[str, SpeakerPrompt] = dataclasses.field(default_factory=dict)
    ready: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


def open_voice_folder(name: str | os.PathLike[str] | None) -> VoiceParts:
    """Open a voice's parts: the shipped one (None, or by its name), a folder, or a hub name. Raises: SoundloomError."""
    folder = find_voice(name)
    config, codec, lm = read_voice(folder)
    decoder = read_own_layers(folder, config.files, VOICE_FILE, "make_voice.py")
    speakers = find_speakers(folder / SPEAKERS_FOLDER, config.files)
    ready = read_ready(folder, config)
    return VoiceParts(config, codec, lm, Card(folder / CARD_FILE), decoder, speakers, ready)


def list_speakers(name: str | os.PathLike[str] | None = None) -> Iterator[tuple[str, str | None, SpeakerFacts]]:
    """Return (voice, speaker, facts) of one voice, or of all shipped ones; speaker None is the voice's own.

    Only voice.json and the names of files are read. Raises: SoundloomError.
    """
    folders = [find_voice(name)] if name is not None else [path.parent for path in _shipped()]
    for folder in folders:
        config = read_config(folder / VOICE_FILE)
        yield config.name, None, config.speakers.get(config.name, SpeakerFacts())
        for speaker in find_speakers(folder / SPEAKERS_FOLDER, config.files):
            yield config.name, speaker, config.speakers.get(speaker, SpeakerFacts())


def _shipped() -> list[Path]:
    """Return the voice.json of every shipped voice, the default one first."""
    return sorted(SHIPPED_VOICES.glob(f"*/{VOICE_FILE}"), key=lambda path: (path.parent.name != DEFAULT_VOICE, path))


def find_voice(name: str | os.PathLike[str] | None) -> Path:
    """Return the folder of a voice: a folder, a shipped voice's name, or a hub name, which is downloaded.

    Raises: SoundloomError where there is none.
    """
    if name is None:
        folder = SHIPPED_VOICES / DEFAULT_VOICE
        if not folder.is_dir():
            raise SoundloomError(
                f"the shipped voice is missing from this installation: no folder {folder}; name another with --voice"
            )
        return folder
    shipped = {path.parent.name: path.parent for path in _shipped()}
    return resolve(name, "voice", _HUB_FILES, "someone/voice", shipped)


def read_voice(folder: Path) -> tuple[VoiceConfig, AudioCodec, LoadedLM]:
    """Open a voice folder's config, codec and language model, and check that they fit and are those that it lists.

    Raises: SoundloomError that names the file.
    """
    path = folder / VOICE_FILE
    config = read_config(path)
    check_files(folder, config.files)
    codec = open_codec(folder, config.codec, path)
    require_fit(codec, config.codec, config.codec_fingerprint, config.sample_rate, path)
    if (folder / "lm").is_dir():
        lm = open_lm(folder / "lm", codec)
    elif (folder / "coarse").is_dir() and (folder / "fine").is_dir():
        lm = open_pair(folder / "coarse", folder / "fine", codec)
    else:
        raise SoundloomError(f"{folder}: has no language model; a voice holds lm/, or coarse/ and fine/")
    return config, codec, lm


def open_lm(folder: str | Path, codec: AudioCodec) -> LoadedLM:
    """Open a language model that writes whole grids, for this codec. Raises: SoundloomError."""
    lm = load_lm(folder, codec)
    if isinstance(lm.model, FineLM) or lm.model.decoder.levels != lm.model.config.num_levels:
        if isinstance(lm.model, CoarseFineLM):
            return lm
        raise SoundloomError(f"{folder}: writes only some of the levels; a pair is given as coarse and fine folders")
    return lm


def open_pair(coarse_folder: str | Path, fine_folder: str | Path, codec: AudioCodec) -> LoadedLM:
    """Open a coarse and a fine model as one. Raises: SoundloomError where they are not such, or do not fit."""
    coarse, fine = load_lm(coarse_folder, codec), load_lm(fine_folder, codec)
    if not (isinstance(coarse.model, StepLM) and coarse.model.levels == 1):
        raise SoundloomError(f"{coarse_folder}: is not a coarse model")
    if not isinstance(fine.model, FineLM):
        raise SoundloomError(f"{fine_folder}: is not a fine model")
    if (Path(coarse_folder) / MODEL_FILE).read_bytes() != (Path(fine_folder) / MODEL_FILE).read_bytes():
        raise SoundloomError(f"{coarse_folder} and {fine_folder} learned with different text tokenizers")
    return LoadedLM(CoarseFineLM(coarse.model, fine.model), coarse.tokenizer, coarse.codec_facts)  # type: ignore[arg-type]


def write_voice(
    folder: str | os.PathLike[str], parts: VoiceParts, dtype: str = "float32", replace: bool = False
) -> Path:
    """Write a voice folder; it appears whole or not at all. Returns the folder.

    ``dtype`` is the weights' type on disk. A codec of ours is copied where the config's codec is "codec". voice.json
    lists the SHA-256 of every file that the voice needs.
    Raises: SoundloomError where ``folder`` exists (unless ``replace``, for a voice), or cannot be written.
    """
    folder = Path(folder)
    require_free(folder, VOICE_FILE, "voice", replace)

    def fill(place: Path) -> None:
        _write_models(place, parts, dtype)
        for name, prompt in parts.speakers.items():
            (place / SPEAKERS_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(prompt.audio, place / SPEAKERS_FOLDER / f"{name}{prompt.audio.suffix}")
            write_text(place / SPEAKERS_FOLDER / f"{name}.txt", f"{prompt.text}\n")
        write_text(place / CARD_FILE, parts.card if isinstance(parts.card, str) else parts.card.read())
        config = dataclasses.replace(parts.config, files=hash_files(place, (CARD_FILE,)))
        write_text(place / VOICE_FILE, write_record(config))

    return write_folder(folder, fill)


def require_free(folder: Path, record: str, what: str, replace: bool) -> None:
    """Raises: SoundloomError where ``folder`` exists, unless it is one of a ``record`` that may be replaced."""
    if folder.exists():
        if not replace:
            raise SoundloomError(f"{folder}: exists already; choose another place, or say that it may be replaced")
        if not (folder / record).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise SoundloomError(f"{folder}: is not a {what}, so it is not replaced; choose another place")


def _write_models(place: Path, parts: VoiceParts, dtype: str) -> None:
    """Write the codec (where it is copied), the language model and the voice's own layers of the decoder."""
    lm, codec = parts.lm, parts.codec
    if parts.config.codec == OWN_CODEC:
        copy_codec(codec, place)
    if isinstance(lm.model, CoarseFineLM):
        for part, model in (("coarse", lm.model.coarse), ("fine", lm.model.fine)):
            save_lm(place / part, model, lm.tokenizer, lm.codec_facts, dtype)
    else:
        save_lm(place / "lm", lm.model, lm.tokenizer, lm.codec_facts, dtype)
    write_own_layers(place, parts.decoder, dtype)
