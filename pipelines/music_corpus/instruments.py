"""The instruments of General MIDI that the corpus plays: program, family, and a range that sounds like itself."""

from __future__ import annotations

from dataclasses import dataclass

DRUMS = "drums"
DRUM_CHANNEL = 9  # General MIDI's


@dataclass(frozen=True)
class Instrument:
    """``program`` counts from 0; notes are moved by octaves into ``low`` to ``high``."""

    program: int
    family: str
    low: int
    high: int


INSTRUMENTS = {
    "piano": Instrument(0, "piano", 28, 96),
    "electric piano": Instrument(4, "piano", 36, 91),
    "harpsichord": Instrument(6, "harpsichord", 36, 86),
    "music box": Instrument(10, "mallets", 60, 96),
    "vibraphone": Instrument(11, "mallets", 53, 89),
    "marimba": Instrument(12, "mallets", 48, 89),
    "organ": Instrument(16, "organ", 36, 88),
    "church organ": Instrument(19, "organ", 36, 88),
    "accordion": Instrument(21, "organ", 53, 88),
    "acoustic guitar": Instrument(24, "guitar", 40, 80),
    "steel guitar": Instrument(25, "guitar", 40, 80),
    "clean electric guitar": Instrument(27, "guitar", 40, 84),
    "overdriven guitar": Instrument(29, "guitar", 40, 84),
    "double bass": Instrument(32, "bass", 28, 55),
    "electric bass": Instrument(33, "bass", 28, 55),
    "synth bass": Instrument(38, "bass", 28, 55),
    "violin": Instrument(40, "strings", 55, 91),
    "viola": Instrument(41, "strings", 48, 79),
    "cello": Instrument(42, "strings", 36, 72),
    "plucked strings": Instrument(45, "strings", 43, 84),
    "harp": Instrument(46, "harp", 36, 91),
    "strings": Instrument(48, "strings", 40, 91),
    "choir": Instrument(52, "voice", 48, 79),
    "trumpet": Instrument(56, "brass", 55, 82),
    "trombone": Instrument(57, "brass", 40, 70),
    "French horn": Instrument(60, "brass", 43, 74),
    "brass section": Instrument(61, "brass", 43, 82),
    "saxophone": Instrument(65, "wind", 49, 80),
    "oboe": Instrument(68, "wind", 58, 88),
    "clarinet": Instrument(71, "wind", 50, 86),
    "flute": Instrument(73, "wind", 60, 93),
    "recorder": Instrument(74, "wind", 60, 91),
    "whistle": Instrument(78, "wind", 65, 96),
    "synth lead": Instrument(81, "synth", 48, 91),
    "synth pad": Instrument(89, "synth", 40, 84),
    "banjo": Instrument(105, "guitar", 48, 82),
    "fiddle": Instrument(110, "strings", 55, 91),
    DRUMS: Instrument(0, "drums", 35, 81),
}
FAMILIES = tuple(dict.fromkeys(instrument.family for instrument in INSTRUMENTS.values()))


def octaves_into(pitches: list[int], instrument: Instrument) -> int:
    """Return the shift, whole octaves in semitones, that brings most of the pitches into an instrument's range."""

    def outside(shift: int) -> tuple[int, int]:
        moved = [pitch + shift for pitch in pitches]
        return sum(not instrument.low <= pitch <= instrument.high for pitch in moved), abs(shift)

    return min(range(-48, 49, 12), key=outside)
