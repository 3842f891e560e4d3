"""Possessives and contractions, whose pronunciation follows from the word before their apostrophe."""

from __future__ import annotations

from collections.abc import Callable

_CONTRACTIONS = {"'ll": "əl", "'ve": "əv", "'re": "əɹ", "'d": "d", "'m": "m"}


def derive(word: str, find: Callable[[str], str | None]) -> str | None:
    """Return the phonemes of ``dog's`` or ``they'll`` from those that ``find`` has for the word, else None."""
    stem, mark, tail = word.rpartition("'")
    base = find(stem) if mark else None
    if base is None:
        return None
    tail = mark + tail.lower()
    if tail == "'s":
        return base + _possessive(base)
    return base + _CONTRACTIONS[tail] if tail in _CONTRACTIONS else None


def _possessive(phonemes: str) -> str:
    """Return how 's sounds after a word that ends in these phonemes."""
    if phonemes[-1] in "szʃʒʧʤ":
        return "ᵻz"
    return "s" if phonemes[-1] in "ptkfθ" else "z"
