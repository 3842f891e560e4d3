"""Lines of accompaniment: how chords, bass and drums move in each bar."""

from __future__ import annotations

from random import Random

from pipelines.music_corpus.score import Note
from pipelines.music_corpus.styles import DRUM_PATTERNS

KICK, SNARE, CLOSED_HAT, OPEN_HAT = 36, 38, 42, 46
#: (start, length) of chord strokes in a bar of four quarters; those past the end of a bar of three are left out
_STROKES = {
    "whole": ((0, 4),),
    "halves": ((0, 2), (2, 2)),
    "quarters": ((0, 1), (1, 1), (2, 1), (3, 1)),
    "eighths": tuple((i / 2, 0.5) for i in range(8)),
    "strum": ((0, 1), (1, 0.5), (1.5, 1), (2.5, 0.5), (3, 0.5), (3.5, 0.5)),
    "offbeat": ((0.5, 0.4), (1.5, 0.4), (2.5, 0.4), (3.5, 0.4)),
    "stabs": ((0, 0.4), (1.5, 0.4), (2.5, 0.4)),
    "waltz": ((1, 0.8), (2, 0.8)),
}
#: which chord tone each note takes, and its length
_BROKEN = {"alberti": ((0, 2, 1, 2), 0.5), "broken": ((0, 1, 2, 1), 0.5)}
#: (start, length, tone) of a bar: r root, f fifth, o octave, t third, a approach to the next root
_BASSES = {
    "roots": ((0, 4, "r"),),
    "halves": ((0, 2, "r"), (2, 2, "f")),
    "fifths": ((0, 1.8, "r"), (2, 1.8, "f")),
    "eighths": tuple((i / 2, 0.45, "r") for i in range(8)),
    "octaves": tuple((i / 2, 0.45, "ro"[i % 2]) for i in range(8)),
    "walking": ((0, 1, "r"), (1, 1, "t"), (2, 1, "f"), (3, 1, "a")),
    "syncopated": ((0, 0.7, "r"), (0.75, 0.5, "r"), (1.5, 0.5, "o"), (2.5, 0.5, "f"), (3.25, 0.5, "r")),
}


def chord_bar(pattern: str, at: float, beats: int, chord: tuple[int, ...], rng: Random) -> list[Note]:
    """Return a bar of chords around middle C; ``chord`` in semitones above C."""
    tones = sorted(52 + (tone - 52) % 12 for tone in chord)  # each in the octave from E below middle C
    if pattern in _BROKEN:
        order, length = _BROKEN[pattern]
        steps = [(i * length, length, tones[order[i % len(order)]]) for i in range(round(beats / length))]
        return [Note(at + start, length, pitch, rng.randint(62, 78)) for start, length, pitch in steps]
    notes = []
    for start, length in _STROKES[pattern]:
        velocity = rng.randint(60, 76)
        if start < beats:
            notes += [Note(at + start, min(length, beats - start), tone, velocity) for tone in tones]
    return notes


def bass_bar(pattern: str, at: float, beats: int, chord: tuple[int, ...], after: int, rng: Random) -> list[Note]:
    """Return a bar of bass in the octave from E1; ``after``: the root of the next chord, above C."""

    def low(tone: int) -> int:
        return 28 + (tone - 28) % 12

    root = low(chord[0])
    tones = {"r": root, "o": root + 12, "f": root + chord[2] - chord[0], "t": root + chord[1] - chord[0]}
    tones["a"] = low(after) - 1 if low(after) > root else low(after) + 1
    return [
        Note(at + start, min(length, beats - start), tones[tone], rng.randint(78, 96))
        for start, length, tone in _BASSES[pattern]
        if start < beats
    ]


def drum_bar(pattern: str, at: float, beats: int, swing: bool, rng: Random) -> list[Note]:
    """Return a bar of drums; ``swing`` delays every second eighth note."""
    notes = []
    for pitch, steps in zip((KICK, SNARE, CLOSED_HAT, OPEN_HAT), DRUM_PATTERNS[pattern], strict=True):
        for i, step in enumerate(steps[: 4 * beats]):
            if step == "x":
                notes.append(Note(at + swung(i / 4, swing), 0.2, pitch, rng.randint(72, 104)))
    return notes


def swung(beat: float, swing: bool) -> float:
    """Return when a note on an off-beat eighth sounds in a swing rhythm: at two thirds of the beat."""
    return int(beat) + 2 / 3 if swing and beat % 1 == 0.5 else beat
