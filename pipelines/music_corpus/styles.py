"""A dozen and more styles: what the generator may choose from in each.

To add a style, add a row of `STYLES`; its name and moods become words of captions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: bars of scale degrees (0: the tonic's chord), by the third of the mode
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (0, 3, 0, 4), (0, 2, 3, 4), (0, 1, 4, 0), (0, 0, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 5, 3, 4), (0, 0, 3, 4), (0, 3, 6, 4)),
}
MODAL = {
    "dorian": ((0, 3, 0, 3), (0, 0, 6, 3), (0, 2, 3, 0)),
    "mixolydian": ((0, 6, 3, 0), (0, 3, 6, 0), (0, 0, 6, 0)),
    "lydian": ((0, 1, 0, 1), (0, 0, 1, 4)),
}
BLUES = ((0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4),)
LATIN = ((1, 4, 0, 5), (0, 5, 1, 4))

#: sixteenths of a 4/4 bar, or of its first three quarters: kick, snare, closed hat, open hat
DRUM_PATTERNS = {
    "rock": ("x.......x.x.....", "....x.......x...", "x.x.x.x.x.x.x.x.", "................"),
    "ballad": ("x.......x.......", "....x.......x...", "x...x...x...x...", "................"),
    "funk": ("x..x..x...x..x..", "....x..x.x..x..x", "xxxxxxxxxxxxxx.x", "..............x."),
    "disco": ("x...x...x...x...", "....x.......x...", "x.x.x.x.x.x.x.x.", "..x...x...x...x."),
    "techno": ("x...x...x...x...", "............x..x", "..x...x...x...x.", "................"),
    "swing": ("x.......x.......", "................", "x...x..xx...x..x", "....x.......x..."),
    "shuffle": ("x.......x.......", "....x.......x...", "x..xx..xx..xx..x", "................"),
    "bossa": ("x..xx..xx..xx..x", "x..x..x...x..x..", "x.x.x.x.x.x.x.x.", "................"),
    "reggae": ("........x.......", "........x.......", "x.x.x.x.x.x.x.x.", "................"),
    "march": ("x.......x.......", "x...x.xxx...x.x.", "................", "................"),
    "waltz": ("x...........", "....x...x...", "x...x...x...", "............"),
}


@dataclass(frozen=True)
class Style:
    """The choices of a style. ``tempo``: beats a minute; ``eighths``: share of eighth notes in melodies."""

    tempo: tuple[int, int]
    modes: tuple[str, ...]
    chords: tuple[str, ...]
    basses: tuple[str, ...]
    drums: tuple[str, ...]
    melody_by: tuple[str, ...]
    chords_by: tuple[str, ...]
    bass_by: tuple[str, ...] = ("electric bass",)
    meter: int = 4
    eighths: float = 0.5
    sevenths: bool = False
    swing: bool = False
    progressions: tuple[tuple[int, ...], ...] = ()
    moods: tuple[str, ...] = field(default=())


_ORCHESTRA = ("violin", "flute", "oboe", "clarinet", "cello", "piano")
STYLES = {
    "classical": Style(
        (66, 144), ("major", "minor"), ("alberti", "quarters", "halves"), ("roots", "halves"), (),
        _ORCHESTRA, ("piano", "strings", "harpsichord", "harp"), ("cello", "double bass"),
        moods=("elegant", "graceful"),
    ),
    "pop": Style(
        (88, 128), ("major", "major", "minor"), ("strum", "quarters", "broken"), ("eighths", "roots"),
        ("rock", "ballad"),
        ("piano", "synth lead", "clean electric guitar", "violin"), ("piano", "steel guitar", "electric piano"),
        moods=("catchy", "feel-good"),
    ),
    "ballad": Style(
        (56, 80), ("major", "minor"), ("broken", "halves"), ("roots", "halves"), ("ballad",),
        ("piano", "violin", "saxophone", "flute"), ("piano", "acoustic guitar", "strings"), eighths=0.3,
        moods=("tender", "romantic"),
    ),
    "rock": Style(
        (104, 160), ("minor", "mixolydian", "major"), ("strum", "eighths"), ("eighths",), ("rock",),
        ("overdriven guitar", "clean electric guitar", "organ"),
        ("overdriven guitar", "clean electric guitar", "organ"),
        moods=("driving", "powerful"),
    ),
    "jazz": Style(
        (84, 180), ("major", "dorian", "minor"), ("stabs", "halves"), ("walking",), ("swing",),
        ("saxophone", "trumpet", "piano", "vibraphone", "clarinet"),
        ("piano", "electric piano", "clean electric guitar"),
        ("double bass",), sevenths=True, swing=True, progressions=LATIN, moods=("smoky", "laid-back"),
    ),
    "blues": Style(
        (66, 120), ("mixolydian",), ("quarters", "stabs"), ("walking", "roots"), ("shuffle",),
        ("clean electric guitar", "saxophone", "piano", "organ"), ("piano", "organ", "steel guitar"),
        sevenths=True, swing=True, progressions=BLUES, moods=("gritty", "soulful"),
    ),
    "bossa nova": Style(
        (110, 140), ("major", "minor"), ("stabs",), ("fifths",), ("bossa",),
        ("flute", "saxophone", "acoustic guitar", "vibraphone"), ("acoustic guitar", "electric piano"),
        ("double bass",),
        sevenths=True, progressions=LATIN, moods=("breezy", "warm"),
    ),
    "funk": Style(
        (92, 116), ("dorian", "mixolydian"), ("stabs",), ("syncopated",), ("funk",),
        ("brass section", "saxophone", "clean electric guitar", "organ"), ("clean electric guitar", "electric piano"),
        sevenths=True, moods=("groovy", "punchy"),
    ),
    "reggae": Style(
        (70, 94), ("major", "minor", "dorian"), ("offbeat",), ("syncopated",), ("reggae",),
        ("organ", "trombone", "clean electric guitar"), ("clean electric guitar", "organ", "piano"),
        moods=("sunny", "relaxed"),
    ),
    "disco": Style(
        (112, 128), ("minor", "dorian", "major"), ("offbeat", "eighths"), ("octaves",), ("disco",),
        ("strings", "synth lead", "brass section"), ("electric piano", "clean electric guitar", "strings"),
        moods=("danceable", "glittering"),
    ),
    "techno": Style(
        (122, 142), ("minor", "dorian"), ("broken", "stabs"), ("octaves", "eighths"), ("techno",),
        ("synth lead",), ("synth pad", "synth lead"), ("synth bass",), moods=("hypnotic", "mechanical"),
    ),
    "ambient": Style(
        (54, 76), ("lydian", "major", "dorian"), ("whole",), ("roots",), (),
        ("piano", "flute", "vibraphone", "choir"), ("synth pad", "choir", "strings"), ("synth bass", "cello"),
        eighths=0.1, moods=("dreamy", "floating"),
    ),
    "folk": Style(
        (84, 132), ("major", "dorian", "mixolydian"), ("strum", "broken"), ("fifths", "roots"), (),
        ("fiddle", "whistle", "accordion", "flute", "banjo"), ("acoustic guitar", "steel guitar", "harp", "accordion"),
        ("double bass",), eighths=0.7, moods=("rustic", "lively"),
    ),
    "country": Style(
        (96, 140), ("major",), ("offbeat", "strum"), ("fifths",), ("rock",),
        ("fiddle", "banjo", "steel guitar"), ("steel guitar", "acoustic guitar", "piano"),
        moods=("easygoing", "hearty"),
    ),
    "waltz": Style(
        (96, 168), ("major", "minor"), ("waltz",), ("roots",), ("waltz",),
        ("violin", "accordion", "clarinet", "piano"), ("piano", "strings", "accordion"), ("double bass", "cello"),
        meter=3, moods=("swaying", "graceful"),
    ),
    "march": Style(
        (104, 124), ("major", "minor"), ("offbeat", "quarters"), ("fifths",), ("march",),
        ("trumpet", "brass section", "flute", "clarinet"), ("brass section", "French horn", "trombone"),
        ("trombone", "double bass"), moods=("proud", "festive"),
    ),
    "lullaby": Style(
        (58, 84), ("major",), ("waltz", "broken"), ("roots",), (),
        ("music box", "flute", "choir", "piano"), ("harp", "piano", "music box"), ("cello",), meter=3, eighths=0.2,
        moods=("gentle", "sleepy"),
    ),
}  # fmt: skip
