"""Read tunes from music21's corpus: melodies of printed collections, with accompaniment by the generator.

music21 itself is BSD; what its corpus holds is not all free. Only what `SOURCES` names is read, and of that no file
that states a copyright. `LEFT_OUT` names what is not read and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from codec.common.extras import install_hint
from codec.errors import SoundloomError
from pipelines.evaluation.packages import package_folder
from pipelines.music_corpus.compose import accompany
from pipelines.music_corpus.score import Note, Piece
from pipelines.music_corpus.styles import STYLES
from pipelines.music_corpus.theory import MODES, chord_pitches


@dataclass(frozen=True)
class Source:
    """A folder of music21's corpus. ``licence``: what is known of its terms."""

    folder: str
    title: str
    licence: str


_FREE = "public domain (tunes printed in {}); encoded by volunteers, whose files state no terms"
SOURCES = (
    Source("ryansMammoth", "Ryan's Mammoth Collection", _FREE.format("1883")),
    Source("oneills1850", "O'Neill's Music of Ireland", _FREE.format("1903")),
)
LEFT_OUT = {
    "palestrina": "rights to electronic formats are reserved (John Miller, 2000)",
    "bach": "most chorales carry a copyright of the edition (Margaret Greentree, 2004; CCARH, 1994)",
    "essenFolksong": "non-commercial use only",
    "schumann_clara": "CC BY-SA 4.0",
    "monteverdi": "the terms of the editions are not stated; two files name a publisher's copyright",
    "trecento": "the terms of the encodings are not stated; ten files name a licence",
    "airdsAirs": "the encoder's terms are not part of the files",
    "nottingham-dataset": "two tunes",
}
_CLAIM = re.compile(r"copyright|\(c\)\s*\d{4}|©|licen[cs]e|all rights|non-?commercial", re.IGNORECASE)
_METRES = {"2/4": 2, "3/4": 3, "4/4": 4, "2/2": 4}
_STYLES = {2: "folk", 3: "waltz", 4: "folk"}
_BARS = (8, 64)
_MOST_BYTES = 1 << 22


def tune_texts(root: Path | None = None) -> Iterator[tuple[str, Source, str]]:
    """Yield (id, source, ABC notation) of every tune that may be used, in order of the ids' files.

    Raises: SoundloomError where music21 is not installed.
    """
    folder = root or package_folder("music21", "music21", install_hint("music")) / "corpus"
    for source in SOURCES:
        paths = sorted((folder / source.folder).glob("*.abc"))
        if not paths:
            raise SoundloomError(f"{folder / source.folder}: no tunes; expected music21 with its corpus")
        for path in paths:
            text = path.read_text(encoding="utf-8", errors="replace")[:_MOST_BYTES]
            tunes = re.split(r"^(?=X:)", text, flags=re.MULTILINE)[1:]
            for i, tune in enumerate(tunes):
                if not _CLAIM.search(tune):
                    yield f"{source.folder}-{path.stem}-{i:03d}", source, tune


def read_tune(name: str, source: Source, text: str) -> Piece | None:
    """Return the tune as a piece in C; None where it is not in 2/4, 3/4, 4/4 or 2/2, too short, or cannot be read."""
    score = _parse(text)
    metre = _metre(score)
    if score is None or metre is None:
        return None
    key = next(iter(score.recurse().getElementsByClass("KeySignature")), None)
    tonic = getattr(key, "tonic", None)
    mode = str(getattr(key, "mode", ""))
    if tonic is None or mode not in MODES:
        return None
    melody = _melody(score, -int(tonic.pitchClass), metre)
    bars = int(max((note.start + note.length for note in melody), default=0) / metre + 0.75)
    if not _BARS[0] <= bars <= _BARS[1]:
        return None
    style = _STYLES[metre]
    degrees = harmonise(melody, mode, metre, bars)
    rest = accompany(replace(STYLES[style], meter=metre), mode, degrees, Random(f"soundloom tune {name}"))
    lines = {"melody": melody, **rest}
    used = {role: tuple(notes) for role, notes in lines.items() if notes}
    return Piece(name, f"music21 corpus, {source.title}", source.licence, style, mode, metre, bars, used)


def harmonise(melody: list[Note], mode: str, metre: int, bars: int) -> list[int]:
    """Return the chord of each bar: of the scale's triads but the diminished, the one that holds most of its melody."""
    triads = {degree: {pitch % 12 for pitch in chord_pitches(mode, degree)} for degree in range(7)}
    usable = {degree: tones for degree, tones in triads.items() if _has_fifth(mode, degree)}
    degrees = []
    for bar in range(bars):
        inside = [note for note in melody if bar * metre <= note.start < (bar + 1) * metre]

        def held(degree: int, notes: list[Note] = inside) -> float:
            share = sum(note.length for note in notes if note.pitch % 12 in usable[degree])
            return share + {0: 0.3, 3: 0.15, 4: 0.2}.get(degree, 0)

        degrees.append(max(usable, key=held))
    return [*degrees[:-1], 0]


def _has_fifth(mode: str, degree: int) -> bool:
    chord = chord_pitches(mode, degree)
    return chord[2] - chord[0] == 7


def _parse(text: str) -> Any:
    """Return music21's score of a tune in ABC; None where it cannot be read. Nothing is cached on disk."""
    from music21 import converter

    # music21 reads V: and odd ornaments of 1990s' files in many ways, and raises as many kinds of errors.
    try:
        return converter.parseData(text, format="abc").expandRepeats()
    except Exception:
        return None


def _metre(score: Any) -> int | None:
    if score is None:
        return None
    found = {time.ratioString for time in score.recurse().getElementsByClass("TimeSignature")}
    return _METRES.get(found.pop()) if len(found) == 1 else None


def _melody(score: Any, shift: int, metre: int) -> list[Note]:
    """Return the notes of the first part, tonic C, the first full bar at a multiple of the metre."""
    flat = score.parts[0].flatten().stripTies() if score.parts else score.flatten()
    bars = list(score.recurse().getElementsByClass("Measure"))
    first = float(bars[0].duration.quarterLength) if bars else 0.0
    upbeat = metre - first if 0 < first < metre else 0.0
    notes = []
    for note in flat.notes:
        length = float(note.duration.quarterLength)
        if length > 0:  # grace notes have none
            notes.append(Note(upbeat + float(note.offset), 0.95 * length, note.pitches[-1].midi + shift, 92))
    return notes
