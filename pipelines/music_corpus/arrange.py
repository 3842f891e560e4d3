"""Arrange a score as a clip: a key, a tempo, instruments, where it begins, its room and its level."""

from __future__ import annotations

from random import Random

from pipelines.music_corpus.instruments import DRUMS, INSTRUMENTS, octaves_into
from pipelines.music_corpus.score import ROLES, Clip, Note, Part, Piece, clip_id
from pipelines.music_corpus.styles import STYLES, Style

_SOLOISTS = ("piano", "acoustic guitar", "harp", "organ", "accordion", "harpsichord", "electric piano", "church organ")
_VOLUMES = {"melody": (92, 118), "chords": (62, 92), "bass": (76, 104), "drums": (64, 100)}
_WET = 0.5  # share of clips in a room


def arrange(piece: Piece, variation: int, seconds: float) -> Clip:
    """Return the clip of a piece with this number of its variation."""
    rng = Random(f"soundloom clip {piece.id} {variation}")
    style = STYLES[piece.style]
    tonic, tempo = rng.randrange(12), rng.randint(*style.tempo)
    shift = tonic - 12 if tonic > 6 else tonic
    begin = rng.choice(range(0, piece.bars, 4)) * piece.beats_per_bar
    parts = []
    for role, instrument in _orchestrate(piece, style, rng).items():
        notes = _window(piece, role, begin, tempo, seconds)
        if notes:
            parts.append(_part(role, instrument, notes, shift, rng))
    room = rng.randrange(2**31) if rng.random() < _WET else None
    name = clip_id(piece.id, variation, seconds)
    return Clip(name, piece, tonic, tempo, seconds, tuple(parts), room, round(rng.uniform(-9, -1), 2))


def _orchestrate(piece: Piece, style: Style, rng: Random) -> dict[str, str]:
    """Return who plays each role: all of them, some, or one instrument alone."""
    texture = rng.choices(("full", "no drums", "duo", "solo"), (4, 2, 2, 2))[0]
    if texture == "solo":
        soloist = rng.choice(_SOLOISTS)
        return {role: soloist for role in ROLES if role in piece.lines and role != "drums"}
    choices = {"melody": style.melody_by, "chords": style.chords_by, "bass": style.bass_by, "drums": (DRUMS,)}
    left_out = {"full": (), "no drums": ("drums",), "duo": ("bass", "drums")}[texture]
    return {role: rng.choice(choices[role]) for role in ROLES if role in piece.lines and role not in left_out}


def _window(piece: Piece, role: str, begin: int, tempo: int, seconds: float) -> list[Note]:
    """Return a role's notes that begin within the clip, in seconds; the piece repeats where the clip is longer."""
    beat = 60 / tempo
    notes = []
    for again in range(int((begin + seconds / beat) // piece.beats) + 1):
        for note in piece.lines[role]:
            start = (note.start + again * piece.beats - begin) * beat
            if 0 <= start < seconds - 0.03:  # shorter than that is a click, not a note
                notes.append(Note(start, min(note.length * beat, seconds - start), note.pitch, note.velocity))
    return sorted(notes, key=lambda note: (note.start, note.pitch))


def _part(role: str, instrument: str, notes: list[Note], shift: int, rng: Random) -> Part:
    if instrument != DRUMS:
        shift += octaves_into([note.pitch + shift for note in notes], INSTRUMENTS[instrument])
        notes = [Note(n.start, n.length, n.pitch + shift, n.velocity) for n in notes]
    notes = [Note(round(n.start, 5), round(n.length, 5), n.pitch, n.velocity) for n in notes]
    return Part(role, instrument, rng.randint(*_VOLUMES[role]), tuple(notes))
