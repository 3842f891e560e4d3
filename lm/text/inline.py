# ruff: noqa: RUF002 - phonemes look like letters
"""Phonemes written into a text as Kokoro has them, such as ``[gif](/ʤˈɪf/)``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lm.text.language import Alphabet

# One character of them is not ASCII, so that [about](/about/) stays a link; "‿" stands for a space.
_SAID = re.compile(r"\[([^\[\]\n]{1,100})\]\(/(?=[^/\s()]{0,200}[^\x00-\x7f/\s()])([^/\s()]{1,200})/\)")
_JOINT = "‿"


def written(word: str, phonemes: str) -> str:
    """Return a word with its phonemes as a text holds them."""
    return f"[{word}](/{phonemes.strip().replace(' ', _JOINT)}/)"


def found(text: str) -> Iterator[tuple[str, str]]:
    """Yield the words of a text that have phonemes, with these, as written."""
    return ((match[1], match[2]) for match in _SAID.finditer(text))


def without_phonemes(text: str) -> str:
    """Return the text with the words alone."""
    return _SAID.sub(r"\1", text) if "](/" in text else text


def unknown_phonemes(phonemes: str, alphabet: Alphabet) -> str:
    """Return the characters that are no phonemes of the alphabet, nor IPA that it can write."""
    known = set(alphabet.phonemes + alphabet.stress + " ")
    return "".join(dict.fromkeys(c for c in alphabet.from_ipa(phonemes.replace(_JOINT, " ")) if c not in known))


def take_out(text: str, alphabet: Alphabet) -> tuple[str, dict[str, str]]:
    """Replace words that have phonemes by names that no rule of a normaliser touches; return those with the phonemes.

    A word without one phoneme of the alphabet stays as it is.
    """
    names: dict[str, str] = {}

    def one(match: re.Match[str]) -> str:
        phonemes = alphabet.clean(alphabet.from_ipa(match[2].replace(_JOINT, " ")))
        if not phonemes:
            return match[1]
        name = "qzx" + "".join(chr(ord("a") + int(digit)) for digit in str(len(names)))
        names[name] = phonemes
        return name

    return (_SAID.sub(one, text), names) if "](/" in text else (text, names)
