"""A voice as one folder that explains itself; nothing in it can run code.

::

    voice.json       {"format": "soundloom-voice", "version": 1, "name", "language", "sample_rate",
                      "codec": "codec" (a folder beside) | "speech-24khz" (one that is shipped) | a hub name,
                      "codec_fingerprint", "generation": {... GenerateConfig ...}, "retries", ...}
    lm/              the delay model;  or  coarse/ and fine/, the pair
    codec/           only where "codec" says so
    decoder.safetensors   layers of the codec's decoder that are the voice's own (`pipelines/tune_decoder.py`), if any
    speakers/        more speakers, if any: of each a recording, bella.flac, and what it says, bella.txt
    README.md        the card
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.common.checked import read_json
from codec.common.files import CARD_BYTES, check_file, read_text, write_folder, write_text
from codec.common.hub import resolve
from codec.errors import SoundloomError
from codec.pretrained import SHIPPED as SHIPPED_CODEC
from codec.pretrained import load_codec
from lm.checkpoint import DTYPES, LoadedLM, load_lm, save_lm
from lm.config import from_dict
from lm.fine_lm import CoarseFineLM, FineLM
from lm.generation.request import GenerateConfig
from lm.step_lm import StepLM
from lm.text.tokenizer import MODEL_FILE

FORMAT, VERSION = "soundloom-voice", 1
VOICE_FILE, CARD_FILE, OWN_CODEC, DECODER_FILE = "voice.json", "README.md", "codec", "decoder.safetensors"
SPEAKERS_FOLDER = "speakers"
SHIPPED_VOICES = Path(__file__).parent / "shipped"
DEFAULT_VOICE = "heart"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.tsv.gz", "*.md", f"{SPEAKERS_FOLDER}/*"]


@dataclass(frozen=True)
class VoiceConfig:
    """What voice.json says.

    ``retries``: how often the guard tries a sentence again; ``pause_seconds`` are put between sentences (a third of it
    where a sentence was cut at a clause); ``max_sentence_seconds``: longer sentences are cut; ``carry``: the first
    sentence is the prompt of the following, so that a model of many speakers keeps its speaker; ``levels``: decode the
    first n levels unless asked for others (None = all that the model writes).
    """

    name: str
    sample_rate: int
    codec: str
    codec_fingerprint: str
    language: str = "en"
    generation: GenerateConfig = field(default_factory=GenerateConfig)
    retries: int = 2
    pause_seconds: float = 0.15
    max_sentence_seconds: float = 12.0
    carry: bool = False
    levels: int | None = None

    def __post_init__(self) -> None:
        good = {
            "name": bool(self.name.strip()),
            "sample_rate": self.sample_rate > 0,
            "retries": 0 <= self.retries <= 20,
            "pause_seconds": 0 <= self.pause_seconds <= 10,
            "max_sentence_seconds": 1 <= self.max_sentence_seconds <= 120,
            "levels": self.levels is None or self.levels >= 1,
        }
        for name, fine in good.items():
            if not fine:
                raise SoundloomError(f"voice: {name} is {getattr(self, name)!r}, which is out of its range")


@dataclass(frozen=True)
class SpeakerPrompt:
    """What makes a voice sound like one of its other speakers: a recording of some seconds, and what it says."""

    audio: Path
    text: str


def find_voice(name: str | os.PathLike[str] | None) -> Path:
    """The folder of a voice: a folder, a shipped voice's name, or a hub name, which is downloaded.

    Raises: SoundloomError where there is none.
    """
    if name is None:
        folder = SHIPPED_VOICES / DEFAULT_VOICE
        if not folder.is_dir():
            raise SoundloomError(
                f"the shipped voice is missing from this installation: no folder {folder}; name another with --voice"
            )
        return folder
    shipped = {path.parent.name: path.parent for path in SHIPPED_VOICES.glob(f"*/{VOICE_FILE}")}
    return resolve(name, "voice", _HUB_FILES, "someone/voice", shipped)


def read_voice(folder: Path) -> tuple[VoiceConfig, Any, LoadedLM]:
    """Open all parts of a voice folder and check that they fit: its config, codec and language model.

    Raises: SoundloomError that names the file.
    """
    path = folder / VOICE_FILE
    config = _read_config(path)
    codec = _open_codec(folder, config, path)
    if codec.fingerprint != config.codec_fingerprint:
        raise SoundloomError(
            f"{path}: was made for a codec with fingerprint {config.codec_fingerprint[:16]}…, but {config.codec!r} has "
            f"{codec.fingerprint[:16]}…; give the voice its own codec, or make it again"
        )
    if codec.sample_rate != config.sample_rate:
        raise SoundloomError(f"{path}: sample_rate is {config.sample_rate}, the codec's is {codec.sample_rate}")
    if (folder / "lm").is_dir():
        lm = open_lm(folder / "lm", codec)
    elif (folder / "coarse").is_dir() and (folder / "fine").is_dir():
        lm = open_pair(folder / "coarse", folder / "fine", codec)
    else:
        raise SoundloomError(f"{folder}: has no language model; a voice holds lm/, or coarse/ and fine/")
    return config, codec, lm


def open_lm(folder: str | Path, codec: Any) -> LoadedLM:
    """A language model that writes whole grids, for this codec. Raises: SoundloomError."""
    lm = load_lm(folder, codec)
    if isinstance(lm.model, FineLM) or lm.model.decoder.levels != lm.model.config.num_levels:
        if isinstance(lm.model, CoarseFineLM):
            return lm
        raise SoundloomError(f"{folder}: writes only some of the levels; a pair is given as coarse and fine folders")
    return lm


def open_pair(coarse_folder: str | Path, fine_folder: str | Path, codec: Any) -> LoadedLM:
    """A coarse and a fine model as one. Raises: SoundloomError where they are not such, or do not fit."""
    coarse, fine = load_lm(coarse_folder, codec), load_lm(fine_folder, codec)
    if not (isinstance(coarse.model, StepLM) and coarse.model.levels == 1):
        raise SoundloomError(f"{coarse_folder}: is not a coarse model")
    if not isinstance(fine.model, FineLM):
        raise SoundloomError(f"{fine_folder}: is not a fine model")
    if (Path(coarse_folder) / MODEL_FILE).read_bytes() != (Path(fine_folder) / MODEL_FILE).read_bytes():
        raise SoundloomError(f"{coarse_folder} and {fine_folder} learned with different text tokenizers")
    return LoadedLM(CoarseFineLM(coarse.model, fine.model), coarse.tokenizer, coarse.codec_facts)  # type: ignore[arg-type]


def read_decoder(path: Path) -> dict[str, Tensor]:
    """A voice's own layers of its codec's decoder, float32 by name. Raises: SoundloomError."""
    check_file(path)
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise SoundloomError(f"{path}: does not hold tensors in the safetensors format ({error})") from error


def read_speaker_prompts(folder: Path) -> dict[str, SpeakerPrompt]:
    """The prompts in a folder by the speaker's name: of each a text, NAME.txt, and its recording, NAME.flac or such.

    None where there is no folder. Raises: SoundloomError where one of the two is missing, or a text is empty.
    """
    found = {}
    for path in sorted(folder.glob("*")):
        if path.suffix == ".txt" or path.name.startswith("."):
            continue
        text = path.with_suffix(".txt")
        words = read_text(text, CARD_BYTES, missing=f"it should hold what {path.name} says")
        found[path.stem] = SpeakerPrompt(path, words.strip())
        if not found[path.stem].text:
            raise SoundloomError(f"{text}: is empty; wanted the words that {path.name} says")
    lonely = {path.stem for path in folder.glob("*.txt")} - set(found)
    if lonely:
        raise SoundloomError(f"{folder}: has no recording of {', '.join(sorted(lonely))}, only what it says")
    return found


def write_voice(
    folder: str | os.PathLike[str],
    config: VoiceConfig,
    codec: Any,
    lm: LoadedLM,
    card: str,
    dtype: str = "float32",
    replace: bool = False,
    decoder: Mapping[str, Tensor] | None = None,
    speakers: Mapping[str, SpeakerPrompt] | None = None,
) -> Path:
    """Write a voice folder; it appears whole or not at all. Returns the folder.

    ``dtype`` is the weights' type on disk. A codec of ours goes along where ``config.codec`` is "codec",
    ``decoder``, the voice's own layers of its codec's decoder, and the recordings of its ``speakers``.
    Raises: SoundloomError where ``folder`` exists (unless ``replace``, for a voice), or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        if not replace:
            raise SoundloomError(f"{folder}: exists already; choose another place, or say that it may be replaced")
        if not (folder / VOICE_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise SoundloomError(f"{folder}: is not a voice, so it is not replaced; choose another place")

    def fill(place: Path) -> None:
        if config.codec == OWN_CODEC:
            codec.save_pretrained(place / OWN_CODEC)
        if isinstance(lm.model, CoarseFineLM):
            for part, model in (("coarse", lm.model.coarse), ("fine", lm.model.fine)):
                save_lm(place / part, model, lm.tokenizer, lm.codec_facts, dtype)
        else:
            save_lm(place / "lm", lm.model, lm.tokenizer, lm.codec_facts, dtype)
        if decoder:
            tensors = {name: value.to(DTYPES[dtype]).contiguous() for name, value in decoder.items()}
            save_file(tensors, place / DECODER_FILE)
        for name, prompt in (speakers or {}).items():
            (place / SPEAKERS_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(prompt.audio, place / SPEAKERS_FOLDER / f"{name}{prompt.audio.suffix}")
            write_text(place / SPEAKERS_FOLDER / f"{name}.txt", f"{prompt.text}\n")
        write_text(place / CARD_FILE, card)
        record = {"format": FORMAT, "version": VERSION, **asdict(config)}
        write_text(place / VOICE_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    return write_folder(folder, fill)


def _read_config(path: Path) -> VoiceConfig:
    record = read_json(path, missing="a voice's folder holds it")
    if record.pop("format", None) != FORMAT:
        raise SoundloomError(f'{path}: is not a voice of soundloom; its "format" should be "{FORMAT}"')
    version = record.pop("version", None)
    if version != VERSION:
        raise SoundloomError(f"{path}: version {version!r} is unknown; this soundloom reads version {VERSION}")
    return from_dict(VoiceConfig, record, str(path))


def _open_codec(folder: Path, config: VoiceConfig, path: Path) -> Any:
    """The codec that voice.json names; never a path out of the voice's own folder."""
    if config.codec == OWN_CODEC:
        return load_codec(folder / OWN_CODEC)
    if re.fullmatch(r"[\w-]+", config.codec):
        place = SHIPPED_CODEC.parent / config.codec
        if not place.is_dir():
            raise SoundloomError(f"{path}: codec {config.codec!r} is not shipped with this soundloom ({place})")
        return load_codec(place)
    if not _HUB_NAME.fullmatch(config.codec):
        raise SoundloomError(
            f'{path}: codec {config.codec!r}; expected "{OWN_CODEC}", "{SHIPPED_CODEC.name}" or a hub name owner/name'
        )
    return load_codec(config.codec)
