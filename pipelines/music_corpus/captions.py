"""Describe a clip in words: several captions by templates, and what each of them names.

A caption holds no claim that is not an attribute of the clip. ``names`` lists the attributes that it states, so that a
judge asks only for what the text asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pipelines.music_corpus.instruments import DRUMS
from pipelines.music_corpus.score import Clip
from pipelines.music_corpus.styles import STYLES
from pipelines.music_corpus.theory import key_name, third

_COUNT = 4
#: the fastest tempo of each word
_TEMPI = ((70, ("very slow", "slow")), (92, ("slow", "unhurried")), (116, ("medium tempo", "moderate")))
_FAST = ((144, ("fast", "upbeat")), (1000, ("very fast", "quick")))
_DENSITIES = ((4.0, ("sparse", "minimal")), (9.0, ("", "")), (1e9, ("busy", "dense")))
_MOODS = {
    ("major", "slow"): ("calm", "peaceful", "warm"),
    ("major", "medium"): ("bright", "friendly", "hopeful"),
    ("major", "fast"): ("happy", "cheerful", "energetic"),
    ("minor", "slow"): ("sad", "melancholic", "wistful"),
    ("minor", "medium"): ("serious", "moody", "longing"),
    ("minor", "fast"): ("dark", "restless", "dramatic"),
}


@dataclass(frozen=True)
class Caption:
    """A text and the attributes that it names: style, mood, instruments, key, tempo, tempo number, density, metre."""

    text: str
    names: tuple[str, ...]


def describe_clip(clip: Clip) -> list[Caption]:
    """Return the clip's captions, all different, by its id alone; the first one is its text in the manifest."""
    rng = Random(f"soundloom caption {clip.id}")
    templates = [_sentence, _list, _piece, _short, _sentence, _list]
    rng.shuffle(templates)
    captions: dict[str, Caption] = {}
    for template in templates:
        caption = template(clip, rng)
        captions.setdefault(caption.text, caption)
    return list(captions.values())[:_COUNT]


def tempo_word(tempo: int, rng: Random) -> str:
    """Return a word for a tempo in beats a minute."""
    return rng.choice(next(words for limit, words in _TEMPI + _FAST if tempo < limit))


def instrument_words(clip: Clip) -> str:
    """Return the instruments in words: ``solo piano``, or ``violin, piano and drums``."""
    names = clip.instruments
    if len(names) == 1:
        return f"solo {names[0]}" if names[0] != DRUMS else DRUMS
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _mood(clip: Clip, rng: Random) -> str:
    speed = "slow" if clip.tempo < 92 else "medium" if clip.tempo < 116 else "fast"
    return rng.choice(_MOODS[third(clip.piece.mode), speed] + STYLES[clip.piece.style].moods)


def _density(clip: Clip, rng: Random) -> str:
    return rng.choice(next(words for limit, words in _DENSITIES if clip.notes_per_second < limit))


def _key(clip: Clip) -> str:
    return key_name(clip.tonic, clip.piece.mode)


def _article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _tempo(clip: Clip, rng: Random) -> tuple[str, tuple[str, ...]]:
    """Return the tempo in words, as a number, or both, and what that names."""
    word = tempo_word(clip.tempo, rng)
    number = f"{clip.tempo} beats per minute"
    return rng.choice(
        ((word, ("tempo",)), (number, ("tempo", "tempo number")), (f"{word}, {number}", ("tempo", "tempo number")))
    )


def _sentence(clip: Clip, rng: Random) -> Caption:
    """Return such as ``A slow, calm ballad for violin and piano in A minor``."""
    mood, word = _mood(clip, rng), tempo_word(clip.tempo, rng)
    first = f"{_article(f'{word}, {mood} {clip.piece.style}')} {rng.choice(('piece', 'tune', 'track'))}"
    text = f"{first} for {instrument_words(clip)} in {_key(clip)}"
    return Caption(_capital(text), ("tempo", "mood", "style", "instruments", "key"))


def _list(clip: Clip, rng: Random) -> Caption:
    """Return such as ``jazz, saxophone and piano, G dorian, 120 beats per minute``."""
    tempo, named = _tempo(clip, rng)
    parts = [clip.piece.style, instrument_words(clip), _key(clip), tempo]
    names = ["style", "instruments", "key", *named]
    if density := _density(clip, rng):
        parts.append(density)
        names.append("density")
    return Caption(", ".join(parts), tuple(names))


def _piece(clip: Clip, rng: Random) -> Caption:
    """Return such as ``Cheerful folk music in three-four time with fiddle and harp, D major``."""
    metre = {3: "in three-four time", 4: "in four-four time", 2: "in two-four time"}[clip.piece.beats_per_bar]
    mood = _mood(clip, rng)
    text = f"{mood} {clip.piece.style} music {metre} with {instrument_words(clip)}, {_key(clip)}"
    return Caption(_capital(text), ("mood", "style", "metre", "instruments", "key"))


def _short(clip: Clip, rng: Random) -> Caption:
    """Return such as ``slow solo piano in A minor``, or ``smoky jazz``."""
    if rng.random() < 0.5:
        return Caption(
            f"{tempo_word(clip.tempo, rng)} {instrument_words(clip)} in {_key(clip)}", ("tempo", "instruments", "key")
        )
    return Caption(f"{_mood(clip, rng)} {clip.piece.style}", ("mood", "style"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
