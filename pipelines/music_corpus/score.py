"""What a score is: lines of notes in C, and the clip that gives them a key, a tempo and instruments."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pipelines.music_corpus.instruments import DRUMS, INSTRUMENTS
from pipelines.music_corpus.theory import key_name, third

VERSION = 1  # part of every clip's id: raise it with every change that makes other notes, sounds or captions of a seed
ROLES = ("melody", "chords", "bass", "drums")


@dataclass(frozen=True)
class Note:
    """A note: ``start`` and ``length`` in quarter notes, or in seconds once a clip is made."""

    start: float
    length: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Piece:
    """A score whose tonic is C: a line of notes for each role. ``bars`` bars repeat without end."""

    id: str
    source: str
    licence: str
    style: str
    mode: str
    beats_per_bar: int
    bars: int
    lines: dict[str, tuple[Note, ...]]

    @property
    def beats(self) -> int:
        """The quarter notes of the whole piece."""
        return self.bars * self.beats_per_bar


@dataclass(frozen=True)
class Part:
    """What one instrument plays in a clip, notes in seconds; ``volume`` is 0 to 127."""

    role: str
    instrument: str
    volume: int
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Clip:
    """Some seconds of a piece in one key, tempo and instrumentation. ``room``: the seed of its room; None = dry."""

    id: str
    piece: Piece
    tonic: int
    tempo: int
    seconds: float
    parts: tuple[Part, ...]
    room: int | None
    level_db: float

    @property
    def instruments(self) -> list[str]:
        """The instruments of the clip, each once, the melody's first."""
        return list(dict.fromkeys(part.instrument for part in self.parts))

    @property
    def notes_per_second(self) -> float:
        """Pitched notes that begin in each second."""
        return sum(len(part.notes) for part in self.parts if part.instrument != DRUMS) / self.seconds

    def attributes(self) -> dict[str, Any]:
        """Return everything that is known exactly about the clip, without its notes."""
        piece = self.piece
        return {
            "tonic": self.tonic,
            "mode": piece.mode,
            "third": third(piece.mode),
            "key": key_name(self.tonic, piece.mode),
            "tempo": self.tempo,
            "beats_per_bar": piece.beats_per_bar,
            "style": piece.style,
            "instruments": self.instruments,
            "families": list(dict.fromkeys(INSTRUMENTS[name].family for name in self.instruments)),
            "notes_per_second": round(self.notes_per_second, 2),
            "room": self.room is not None,
            "score": piece.id,
            "source": piece.source,
            "licence": piece.licence,
        }


def clip_id(*parts: object) -> str:
    """Return 16 hex digits of the SHA-256 of what identifies a clip."""
    return hashlib.sha256(":".join(map(str, (VERSION, *parts))).encode()).hexdigest()[:16]
