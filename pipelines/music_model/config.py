"""music.json: the settings and facts of a music model, checked field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from codec.common.checked import read_json
from codec.errors import SoundloomError, quoted
from lm.config import check_number, from_dict
from lm.generation.sampling import SamplingConfig
from pipelines.voice.config import parse_files

FORMAT, VERSION = "soundloom-music", 1
MUSIC_FILE = "music.json"
MOST_RETRIES = 20


@dataclass(frozen=True)
class MusicConfig:
    """The contents of music.json.

    ``levels``: decode the first n levels; ``sampled_levels``: of these, the first n as sampled codes and the others
    from expected latents (see `lm.generation.request.GenerateConfig`; None: all as sampled codes). ``sampling``: how
    codes are sampled unless asked for otherwise; ``retries``: how often the guard tries a window again;
    ``window_seconds``: what the model learned to write at once; ``stride_seconds``: what each window after the first
    adds. ``files``: SHA-256 of every file that the model needs.
    """

    name: str
    sample_rate: int
    codec: str
    codec_fingerprint: str
    levels: int
    sampled_levels: int | None = None
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(1.0, None, 250, 1.0, 2.5))
    retries: int = 2
    window_seconds: float = 10.0
    stride_seconds: float = 5.0
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.name.strip() and len(self.name) <= 100 and self.name.isprintable()):
            raise SoundloomError(f"music: name is {quoted(self.name)}; expected 1 to 100 printable characters")
        if not re.fullmatch(r"[0-9a-f]{64}", self.codec_fingerprint):
            raise SoundloomError(f"music: codec_fingerprint is {quoted(self.codec_fingerprint)}; expected a SHA-256")
        check_number("sample_rate", self.sample_rate, int, 1, 1_000_000)
        check_number("levels", self.levels, int, 1, 1024)
        check_number("sampled_levels", self.sampled_levels, int, 1, self.levels, optional=True)
        check_number("retries", self.retries, int, 0, MOST_RETRIES)
        check_number("window_seconds", self.window_seconds, float, 1, 120)
        check_number("stride_seconds", self.stride_seconds, float, 0.5, self.window_seconds)


def write_record(config: MusicConfig) -> str:
    """Return the text of music.json."""
    record = {"format": FORMAT, "version": VERSION, **asdict(config)}
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def read_config(path: Path) -> MusicConfig:
    """Read music.json. Raises: SoundloomError that names the file and the field."""
    record = read_json(path, missing="the folder of a music model holds it")
    if record.pop("format", None) != FORMAT:
        raise SoundloomError(f'{path}: is not a music model of soundloom; its "format" should be "{FORMAT}"')
    version = record.pop("version", None)
    if version != VERSION:
        raise SoundloomError(f"{path}: version {quoted(version)} is unknown; this soundloom reads version {VERSION}")
    files = parse_files(record.pop("files", {}), str(path))
    return replace(from_dict(MusicConfig, record, str(path)), files=files)
