"""Compose a score: chords by a progression, a melody from chord to chord, accompaniment by the style's patterns.

All is a function of the seed. The tonic is C; `pipelines.music_corpus.arrange` chooses key, tempo and instruments.
"""

from __future__ import annotations

from random import Random

from pipelines.music_corpus.lines import bass_bar, chord_bar, drum_bar, swung
from pipelines.music_corpus.score import Note, Piece
from pipelines.music_corpus.styles import MODAL, PROGRESSIONS, STYLES, Style
from pipelines.music_corpus.theory import chord_pitches, scale_pitch, third

SOURCE, LICENCE = "soundloom generator", "Apache-2.0 (this package)"
_FORM = "AABA"  # of four bars each; a blues has twelve bars
_LOWEST, _HIGHEST = -3, 11  # scale steps of a melody around C5's octave


def compose(seed: int) -> Piece:
    """Return the score with this number: its style is sampled, and everything else by the style."""
    rng = Random(f"soundloom score {seed}")
    name = rng.choice(sorted(STYLES))
    style = STYLES[name]
    mode = rng.choice(style.modes)
    degrees = _chords(style, mode, rng)
    melody = _melody(style, mode, degrees, rng)
    lines = {"melody": melody, **accompany(style, mode, degrees, rng)}
    used = {role: tuple(notes) for role, notes in lines.items() if notes}
    return Piece(f"made-{seed:06d}", SOURCE, LICENCE, name, mode, style.meter, len(degrees), used)


def accompany(style: Style, mode: str, degrees: list[int], rng: Random) -> dict[str, list[Note]]:
    """Return the lines of chords, bass and drums for one chord a bar, by patterns that the style offers."""
    chords, bass = rng.choice(style.chords), rng.choice(style.basses)
    drums = rng.choice(style.drums) if style.drums else ""
    lines: dict[str, list[Note]] = {"chords": [], "bass": [], "drums": []}
    size = 4 if style.sevenths else 3
    pitches = [chord_pitches(mode, degree, size) for degree in degrees]
    for bar, chord in enumerate(pitches):
        at = float(bar * style.meter)
        after = pitches[(bar + 1) % len(pitches)][0]
        lines["chords"] += chord_bar(chords, at, style.meter, chord, rng)
        lines["bass"] += bass_bar(bass, at, style.meter, chord, after, rng)
        if drums:
            lines["drums"] += drum_bar(drums, at, style.meter, style.swing, rng)
    return lines


def _chords(style: Style, mode: str, rng: Random) -> list[int]:
    """Return one scale degree a bar: 12 bars of a blues, or 16 in the form AABA that end on the tonic."""
    # A mode that is neither major nor minor needs its own turns, or it sounds like the key that shares its notes.
    known = MODAL.get(mode) or style.progressions or PROGRESSIONS[third(mode)]
    known = style.progressions if style.progressions and len(style.progressions[0]) == 12 else known
    first = rng.choice(known)
    if len(first) == 12:
        return list(first)
    sections = {"A": first, "B": rng.choice(known)}
    degrees = [degree for section in _FORM for degree in sections[section]]
    return [*degrees[:-1], 0]


def _melody(style: Style, mode: str, degrees: list[int], rng: Random) -> list[Note]:
    """Return a melody: chord tones on strong beats, steps between them, the rhythm of its first bars repeated."""
    rhythms = [_rhythm(style, rng) for _ in range(2)]
    notes: list[Note] = []
    step = rng.choice((0, 2, 4))
    for bar, degree in enumerate(degrees):
        last = bar == len(degrees) - 1
        rhythm = [(0.0, float(style.meter))] if last else rhythms[bar % 2]
        for start, length in rhythm:
            step = _next_step(step, degree, strong=start in (0, 2), rng=rng)
            if rng.random() < 0.08 and start:
                continue  # a rest
            pitch = 72 + scale_pitch(mode, step)
            # The leading tone of the dominant of minor, so that the melody agrees with its chord.
            pitch += int(mode == "minor" and degree == 4 and step % 7 == 6)
            at = bar * style.meter + swung(start, style.swing)
            notes.append(Note(at, 0.95 * length, pitch, rng.randint(84, 104)))
    return notes


def _rhythm(style: Style, rng: Random) -> list[tuple[float, float]]:
    """Return (start, length) of the notes of a bar, in quarter notes."""
    at, rhythm = 0.0, []
    while at < style.meter:
        whole_beat = at % 1 == 0
        length = 0.5 if not whole_beat or rng.random() < style.eighths else rng.choice((1.0, 1.0, 2.0))
        length = min(length, style.meter - at)
        rhythm.append((at, length))
        at += length
    return rhythm


def _next_step(step: int, degree: int, *, strong: bool, rng: Random) -> int:
    """Return the next scale step: on a strong beat a tone of the chord on ``degree``, else a step or a small leap."""
    if strong:
        wanted = step + rng.choice((-2, -1, 0, 1, 2))
        tones = [s for s in range(_LOWEST, _HIGHEST + 1) if (s - degree) % 7 in (0, 2, 4)]
        return min(tones, key=lambda tone: (abs(tone - wanted), tone))
    moved = step + rng.choice((-1, -1, 1, 1, 2, -2, 0))
    return max(_LOWEST, min(_HIGHEST, moved))
