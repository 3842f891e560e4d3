"""What makes a language: its letters and phonemes as tokenizer symbols, its spoken forms, its sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

# Model folders hold these code points. 0xE000 opens Unicode's private use area; the fullwidth block mirrors ASCII at a
# fixed distance; other letters move to the plane that is private use as a whole.
_STRESSED, _FULLWIDTH, _PRIVATE_PLANE = 0xE000, 0xFF00 - 0x20, 0xF0000


@dataclass(frozen=True)
class Alphabet:
    """The symbols of a language's text tokenizer. Inside it, every symbol is something that takes time to say.

    ``letters``: lower case, of words that no lexicon knows; as symbols they are distinct from every phoneme.
    ``vowels`` and ``consonants``: one character a phoneme. Append to ``vowels`` at its end only, never reorder: a
    stress mark and its vowel are one symbol, whose code point follows from the vowel's place. ``ipa``: IPA, longest
    first, with the phonemes that it stands for, where these differ.
    """

    letters: str
    vowels: str
    consonants: str
    stress: str = "ˈˌ"
    punctuation: str = ".,?!;:-"
    ipa: tuple[tuple[str, str], ...] = ()

    @property
    def phonemes(self) -> str:
        """All phonemes, stress marks apart."""
        return self.vowels + self.consonants

    @cached_property
    def symbols(self) -> str:
        """Every symbol that a tokenizer of this language has an id for."""
        return self.phonemes + "".join(self._stressed.values()) + "".join(self._spelled.values()) + self._marks

    @property
    def _marks(self) -> str:
        return self.punctuation + " "

    @cached_property
    def letter_class(self) -> str:
        """The letters in both cases, for use inside a regular expression's brackets."""
        upper = (c.upper() for c in self.letters)
        return re.escape("".join(c for c in upper if len(c) == 1) + self.letters)

    @cached_property
    def word(self) -> str:
        """A regular expression for one word as normalised text holds it: letters, inner hyphens, apostrophes."""
        letters = f"[{self.letter_class}]+"
        return f"'?{letters}(?:['-]{letters})*'?"

    @cached_property
    def said(self) -> str:
        """A regular expression for a word's phonemes as a lexicon holds them."""
        known = re.escape(self.phonemes + self.stress)
        return f"[{known}][{known} ]*"

    @cached_property
    def _stressed(self) -> dict[str, str]:
        marks = len(self.stress)
        pairs = ((i * marks + j, mark + v) for i, v in enumerate(self.vowels) for j, mark in enumerate(self.stress))
        return {pair: chr(_STRESSED + place) for place, pair in pairs}

    @cached_property
    def _spelled(self) -> dict[str, str]:
        return {c: chr(ord(c) + (_FULLWIDTH if ord(c) < 0x80 else _PRIVATE_PLANE)) for c in [*self.letters, "'"]}

    @cached_property
    def _readable(self) -> dict[str, str]:
        return {symbol: pair for pair, symbol in self._stressed.items()}

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
        """What is no phoneme; a stress mark and what stands before its vowel; a lonely mark; a mark and its vowel."""
        return (
            re.compile(f"[^{re.escape(self.phonemes + self.stress)} ]"),
            re.compile(f"[{self.stress}]+([^{self.vowels}{self.stress}]*)([{self.vowels}])"),
            re.compile(f"[{self.stress}](?![{self.vowels}])"),
            re.compile(f"[{self.stress}]."),
        )

    def clean(self, phonemes: str) -> str:
        """Drop every character that is no phoneme, stress mark or space; put each stress mark before its vowel."""
        unknown, before_vowel, lonely, _ = self._patterns
        phonemes = before_vowel.sub(lambda m: m[1] + m[0][0] + m[2], unknown.sub("", phonemes))
        return lonely.sub("", phonemes).strip()

    def from_ipa(self, phonemes: str) -> str:
        """Return IPA in the phonemes of this alphabet; those themselves stay as they are."""
        for ipa, own in self.ipa:
            phonemes = phonemes.replace(ipa, own)
        return phonemes

    def to_symbols(self, phonemes: str) -> str:
        """Return phonemes as tokenizer symbols: each stressed vowel becomes one character."""
        return self._patterns[3].sub(lambda m: self._stressed[m[0]], self.clean(phonemes))

    def spell(self, word: str) -> str:
        """Return a word's letters as tokenizer symbols, distinct from every phoneme."""
        return "".join(self._spelled[c] for c in word.lower() if c in self._spelled)

    def readable(self, symbols: str) -> str:
        """Return tokenizer symbols as people read them: stress marks apart, spelled words as ``<word>``."""
        letters = {symbol: c for c, symbol in self._spelled.items()}
        spelled = f"[{re.escape(''.join(letters))}]+"
        symbols = re.sub(spelled, lambda m: "<" + "".join(letters[c] for c in m[0]) + ">", symbols)
        return "".join(self._readable.get(c, c) for c in symbols)


class Normalize(Protocol):
    """Text to its spoken form: letters of the alphabet, single spaces, punctuation; never raises, idempotent.

    ``is_word`` says which spellings are words (the shipped lexicon's by default).
    """

    def __call__(self, text: str, is_word: Callable[[str], bool] | None = None) -> str: ...


def _full_stop(text: str) -> str:
    text = text.rstrip()
    return f"{text}." if text[-1:].isalnum() else text


@dataclass(frozen=True)
class Language:
    """A language: a folder of its own, with ``lexicons/NAME.tsv.gz``, and a row in `lm.text.languages`.

    ``code`` is ISO 639's (``en``), with which the names of its lexicons begin (``en-us``). ``lexicon``: the one in use
    unless another is asked for; None spells every word. ``derive(word, find)``: phonemes of a form that follows from a
    listed word (``dog's``); ``find`` looks up the listed ones. ``homograph(words, i)``: phonemes of a word where its
    neighbours, punctuation marks too, ask for others than the lexicon's; else None. ``finish``: ends a text that just
    stops with a mark.
    """

    code: str
    name: str
    alphabet: Alphabet
    normalize: Normalize
    split_sentences: Callable[[str], list[str]]
    folder: Path
    lexicon: str | None = None
    derive: Callable[[str, Callable[[str], str | None]], str | None] | None = None
    homograph: Callable[[Sequence[str], int], str | None] | None = None
    finish: Callable[[str], str] = _full_stop

    def lexicon_path(self, name: str) -> Path:
        """Return the path of a lexicon that comes with the language."""
        return self.folder / "lexicons" / f"{name}.tsv.gz"
