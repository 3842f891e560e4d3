"""What a plan is made of: one utterance to tokenize, and the settings of a corpus."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from codec.common.checked import field
from codec.errors import SoundloomError


@dataclass(frozen=True)
class Utterance:
    """One thing to tokenize: a file, or ``duration`` seconds of it from ``start``.

    ``path`` is relative to the plan's root; where the source is a row of a data set (``row``), it is "" or names the
    data set's file. ``problem`` says why it cannot be used where that was already seen when planning.
    """

    id: str
    path: str
    text: str = ""
    speaker: str = ""
    language: str = ""
    row: int = -1
    start: float = 0.0
    duration: float = 0.0  # 0 = to the end
    size: int = 0  # of the file, 0 where it is not known
    sha256: str = ""  # its first digits, in plans of versions 1 and 2; the worker that reads a file hashes it
    seconds: float = 0.0  # in whole milliseconds; an estimate for shards and forecasts
    problem: str = ""

    @property
    def source(self) -> str:
        """Name the source for people."""
        return ", ".join([*([self.path] if self.path else []), *([f"row {self.row}"] if self.row >= 0 else [])])

    @classmethod
    def parse(cls, record: Any, name: str) -> Utterance:
        """Read one from JSON, absent fields having their defaults; `SoundloomError` for a wrong one."""
        values: dict[str, Any] = {}
        for spec in fields(cls):
            kind = {"int": int, "float": float, "str": str}[str(spec.type)]
            if isinstance(record, dict) and spec.name not in record and spec.name not in ("id", "path"):
                continue
            values[spec.name] = field(record, spec.name, kind, name)
        if any(not 0 <= values.get(key, 0) < 1e12 for key in ("start", "duration", "size", "seconds")):
            raise SoundloomError(f"{name}: a negative or endless time or size")
        return cls(**values)


@dataclass(frozen=True)
class Settings:
    """What, with the codec, determines the rows of a corpus; equal settings mean the same plan."""

    root: str  # folder that paths are relative to, or the data set's name
    corpus: str
    split: str = ""
    limit: int = 0
    max_seconds: float = 30.0
    min_seconds: float = 0.1
    text_column: str = ""
    audio_column: str = ""
    language: str = ""
    speaker: str = ""
    id_prefix: str = ""

    @classmethod
    def parse(cls, record: Any, name: str) -> Settings:
        """Read the settings from JSON; `SoundloomError` for a missing or mistyped one."""
        if isinstance(record, dict):
            record = {"id_prefix": ""} | record  # the first plans did not have it
        kinds = {"int": int, "float": float, "str": str}
        return cls(**{spec.name: field(record, spec.name, kinds[str(spec.type)], name) for spec in fields(cls)})


def shorten_path(item: Utterance) -> str:
    """Return the path with NUL in place of the id: most paths are an id with a folder and an ending.

    No path holds a NUL.
    """
    path = item.path.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in item.path else item.path
    return path.replace(item.id, "\0") if item.id else path


def whole_path(path: str, identity: str) -> str:
    """Return the path that `shorten_path` shortened."""
    return path.replace("\0", identity) if "\0" in path else path
