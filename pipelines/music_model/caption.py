"""Bring a caption as people write it into the words of the captions that models learn from.

Those come from `pipelines.music_corpus.captions`: ``slow solo piano in A minor``, ``jazz, saxophone and piano, G
dorian, 120 beats per minute``. The text tokenizer does the rest, in training too: case goes, and numbers become words.
A caption of the corpus passes with the same tokens.
"""

from __future__ import annotations

import re
import unicodedata

from codec.errors import SoundloomError
from pipelines.music_corpus.theory import MODES, key_name

MOST_CHARACTERS = 2000  # the patterns below take time by the square of a text's length
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_ALTERED = {"sharp": 1, "#": 1, "flat": -1, "b": -1}
_MODE_NAMES = {"maj": "major", "min": "minor", "ionian": "major", "aeolian": "minor", "m": "minor"}
_ALTERATION = r"(?:[\s-]*(sharp|flat|#)|(b))?"
_MODE = "|".join((*MODES, *_MODE_NAMES))
_KEY = re.compile(rf"(?<![\w'])([A-Ga-g]){_ALTERATION}[\s-]+({_MODE.removesuffix('|m')})\b", re.IGNORECASE)
_CHORD = re.compile(r"(?<=\bin )([A-G])(?:(#)|(b))?(m)\b|(?<=\bkey of )([A-G])(?:(#)|(b))?(m)\b")
_TEMPO = re.compile(
    r"(?:(?:tempo\s*(?:of|is|=|:)?|♩\s*=)\s*)?(\d+)(?:\.\d+)?\s*(?:b\.?p\.?m\b\.?|beats?\s*(?:per|a|/)\s*min(?:ute)?s?\b)"
    r"|(?:\btempo\s*(?:of|is|=|:)?|♩\s*=)\s*(\d+)(?:\.\d+)?\b",
    re.IGNORECASE,
)
_METRE = re.compile(r"(?<![\d/])([2346])\s*/\s*([48])(?![\d/])(?:[\s-]*(?:time|metre|meter)\b)?", re.IGNORECASE)
_NUMBERS = {"2": "two", "3": "three", "4": "four", "6": "six", "8": "eight"}
# They were in no caption, so that a model has not learned what they do.
_MARKS = re.compile(r'[;:!?()\[\]"\u201c\u201d\u2026\u2013\u2014|]+|\.+(?=\s|$)|\s-+(?=\s)|(?<!\d)/|/(?!\d)')


def plain_caption(text: str) -> str:
    """Return a caption with keys, tempi, time signatures and marks as in the captions that models learn from.

    Raises: SoundloomError where it has more than 2,000 characters.

    >>> plain_caption("Slow piano in Db minor. 96 BPM!")
    'Slow piano in C sharp minor, 96 beats per minute'
    """
    if len(text) > MOST_CHARACTERS:
        raise SoundloomError(f"the text has {len(text)} characters, more than {MOST_CHARACTERS}; describe it shorter")
    text = unicodedata.normalize("NFKC", text.replace("♯", "#").replace("♭", "b"))
    text = _METRE.sub(lambda m: f"{_NUMBERS[m[1]]}-{_NUMBERS[m[2]]} time", text)
    text = _TEMPO.sub(lambda m: f"{m[1] or m[2]} beats per minute", text)
    text = _KEY.sub(lambda m: _key(m[1], m[2] or m[3], m[4]), text)
    text = _CHORD.sub(lambda m: _key(m[1] or m[5], m[2] or m[3] or m[6] or m[7], "minor"), text)
    text = _MARKS.sub(", ", text)
    parts = (" ".join(part.split()) for part in text.split(","))
    return ", ".join(part for part in parts if part)


def _key(letter: str, altered: str | None, mode: str) -> str:
    """Return a key as captions name it: of two names for the same key, theirs."""
    mode = _MODE_NAMES.get(mode.lower(), mode.lower())
    return key_name(_STEPS[letter.lower()] + _ALTERED.get((altered or "").lower(), 0), mode)
