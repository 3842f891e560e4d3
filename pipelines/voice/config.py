"""voice.json: a voice's settings and facts, checked field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from codec.common.checked import read_json
from codec.errors import SoundloomError, quoted
from lm.config import from_dict
from lm.generation.request import GenerateConfig
from pipelines.voice.request import with_current_names

FORMAT, VERSION = "soundloom-voice", 1
VOICE_FILE = "voice.json"
_MOST_FILES = 1000
_NAME_PART = re.compile(r"\w[\w .+-]{0,99}")


@dataclass(frozen=True)
class SpeakerFacts:
    """What a list of speakers shows, for example "woman" and "American"."""

    gender: str = ""
    accent: str = ""

    def __post_init__(self) -> None:
        for name in ("gender", "accent"):
            value = getattr(self, name)
            if len(value) > 40 or (value and not value.isprintable()):
                raise SoundloomError(f"{name} is {quoted(value)}; expected at most 40 printable characters")


@dataclass(frozen=True)
class VoiceConfig:
    """The contents of voice.json.

    ``retries``: how often the guard tries a sentence again; ``pause_seconds`` are put between sentences (a third of it
    where a sentence was cut at a clause); ``max_sentence_seconds``: longer sentences are cut; ``carry``: the first
    sentence is the prompt of the following ones, so that a model of many speakers keeps its speaker; ``levels``: decode
    the first n levels unless asked for others (None = all that the model writes). ``speakers``: facts about the voice
    itself, under its own name, and its other speakers. ``files``: SHA-256 of every file that the voice needs; empty in
    a voice that was made before files were listed.
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
    speakers: Mapping[str, SpeakerFacts] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        good = {
            "name": bool(self.name.strip()) and len(self.name) <= 100 and self.name.isprintable(),
            "language": bool(re.fullmatch(r"[A-Za-z0-9-]{1,35}", self.language)),
            "sample_rate": 0 < self.sample_rate <= 1_000_000,
            "codec_fingerprint": bool(re.fullmatch(r"[0-9a-f]{64}", self.codec_fingerprint)),
            "retries": 0 <= self.retries <= 20,
            "pause_seconds": 0 <= self.pause_seconds <= 10,
            "max_sentence_seconds": 1 <= self.max_sentence_seconds <= 120,
            "levels": self.levels is None or 1 <= self.levels <= 1000,
        }
        for name, fine in good.items():
            if not fine:
                raise SoundloomError(f"voice: {name} is {quoted(getattr(self, name))}, which is out of its range")


def write_record(config: VoiceConfig) -> str:
    """Return the text of voice.json."""
    record = {"format": FORMAT, "version": VERSION, **asdict(config)}
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def read_config(path: Path) -> VoiceConfig:
    """Read voice.json. Raises: SoundloomError that names the file and the field."""
    record = read_json(path, missing="a voice's folder holds it")
    if record.pop("format", None) != FORMAT:
        raise SoundloomError(f'{path}: is not a voice of soundloom; its "format" should be "{FORMAT}"')
    version = record.pop("version", None)
    if version != VERSION:
        raise SoundloomError(f"{path}: version {quoted(version)} is unknown; this soundloom reads version {VERSION}")
    speakers = _speakers(record.pop("speakers", {}), str(path))
    files = parse_files(record.pop("files", {}), str(path))
    if isinstance(record.get("generation"), dict):
        record["generation"] = with_current_names(record["generation"])
    config = from_dict(VoiceConfig, record, str(path))
    return replace(config, speakers=speakers, files=files)


def check_name(name: Any, where: str) -> str:
    """Return the name of a file or speaker. Raises: SoundloomError for control characters, "/", ".." and the like."""
    if not isinstance(name, str) or not _NAME_PART.fullmatch(name) or not name.isprintable():
        raise SoundloomError(f"{where}: {quoted(name)} is not a name; expected letters, digits, spaces and . _ + -")
    return name


def _speakers(values: Any, where: str) -> dict[str, SpeakerFacts]:
    if not isinstance(values, dict) or len(values) > _MOST_FILES:
        raise SoundloomError(f"{where}: speakers should be an object of at most {_MOST_FILES} names")
    where = f"{where}: speakers"
    return {check_name(name, where): from_dict(SpeakerFacts, facts, where) for name, facts in values.items()}


def parse_files(values: Any, where: str) -> dict[str, str]:
    """Return the SHA-256 of files by path. Raises: SoundloomError for a path out of the folder, or another digest."""
    if not isinstance(values, dict) or len(values) > _MOST_FILES:
        raise SoundloomError(f"{where}: files should be an object of at most {_MOST_FILES} names")
    for name, digest in values.items():
        for part in PurePosixPath(name).parts or ("",):
            check_name(part, f"{where}: files")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SoundloomError(f"{where}: files[{quoted(name)}] should be a SHA-256 of 64 hexadecimal digits")
    return dict(values)
