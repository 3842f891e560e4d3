"""Keys, modes and chords. Pitches are MIDI numbers: 60 is middle C."""

from __future__ import annotations

MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
}
_FLAT = ("C", "D flat", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
_SHARP = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "G sharp", "A", "B flat", "B")


def key_name(tonic: int, mode: str) -> str:
    """Return a key as a caption names it, such as ``F sharp minor``."""
    return f"{(_SHARP if third(mode) == 'minor' else _FLAT)[tonic % 12]} {mode}"


def third(mode: str) -> str:
    """Return major or minor, by the third of the mode: what a listener distinguishes first."""
    return "minor" if 3 in MODES[mode] else "major"


def scale_pitch(mode: str, step: int) -> int:
    """Return the semitones of scale step ``step`` above the tonic; step 7 is an octave."""
    octave, degree = divmod(step, 7)
    return 12 * octave + MODES[mode][degree]


def chord_pitches(mode: str, degree: int, size: int = 3) -> tuple[int, ...]:
    """Return a chord of thirds on a degree, in semitones above the tonic; in minor the dominant is major."""
    pitches = [scale_pitch(mode, degree + 2 * i) for i in range(size)]
    if mode == "minor" and degree % 7 == 4:
        pitches[1] += 1
    return tuple(pitches)
