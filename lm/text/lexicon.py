# ruff: noqa: RUF001 - phonemes look like letters
"""Pronunciations: the phoneme symbols, and a word list that says how English words sound.

The alphabet is misaki's (the one of Kokoro's family): one character a phoneme, stress marks before the vowel.
Inside a text tokenizer a stress mark and its vowel are one symbol, so that every symbol is something that takes
time to say, and letters of words that no lexicon knows are symbols of their own, never taken for phonemes.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from codec.errors import SoundloomError

VOWELS = "AIOWYaeiouæɐɑɒɔəɚɛɜɪʊʌᵊᵻ"
CONSONANTS = "bdfhjklmnprstvwxzðŋɡɹɾʃʒʔʤʧθT"
STRESS = "ˈˌ"
PUNCTUATION = ".,?!;:-"
PHONEMES = VOWELS + CONSONANTS

# Model folders hold these code points: append to VOWELS at its end only, never reorder. 0xE000 opens Unicode's
# private use area, and the fullwidth block mirrors ASCII at a fixed distance.
_STRESSED = {mark + vowel: chr(0xE000 + i * 2 + j) for i, vowel in enumerate(VOWELS) for j, mark in enumerate(STRESS)}
_UNSTRESSED = {symbol: pair for pair, symbol in _STRESSED.items()}
_FULLWIDTH = 0xFF00 - 0x20
_LETTERS = {c: chr(ord(c) + _FULLWIDTH) for c in "abcdefghijklmnopqrstuvwxyz'"}
_UNLETTERS = {symbol: c for c, symbol in _LETTERS.items()}
SYMBOLS = PHONEMES + "".join(_UNSTRESSED) + "".join(_UNLETTERS) + PUNCTUATION + " "

_STRESS_PAIR = re.compile(f"[{STRESS}]+([^{VOWELS}{STRESS}]*)([{VOWELS}])")
_NOT_PHONEME = re.compile(f"[^{re.escape(PHONEMES + STRESS)} ]")
_SAID = f"[{re.escape(PHONEMES + STRESS)}][{re.escape(PHONEMES + STRESS)} ]*"
_LINE = re.compile(rf"('?[A-Za-z]+(?:['-][A-Za-z]+)*'?)\t({_SAID})(?:\t({_SAID}))?")
_MAX_BYTES = 64 << 20
_CONTRACTIONS = {"'ll": "əl", "'ve": "əv", "'re": "əɹ", "'d": "d", "'m": "m"}

SHIPPED = "en-us"


def shipped_path(name: str = SHIPPED) -> Path:
    """Path of a lexicon that comes with soundloom (only ``en-us`` so far)."""
    return Path(__file__).parent / "lexicons" / f"{name}.tsv.gz"


def clean_phonemes(phonemes: str) -> str:
    """Drop every character that is no phoneme, stress mark or space; a stress mark ends up right before its vowel."""
    phonemes = _NOT_PHONEME.sub("", phonemes)
    phonemes = _STRESS_PAIR.sub(lambda m: m[1] + m[0][0] + m[2], phonemes)
    return re.sub(f"[{STRESS}](?![{VOWELS}])", "", phonemes).strip()


def to_symbols(phonemes: str) -> str:
    """Phonemes as tokenizer symbols: each stressed vowel becomes one character."""
    return re.sub(f"[{STRESS}].", lambda m: _STRESSED[m[0]], clean_phonemes(phonemes))


def spell(word: str) -> str:
    """A word's letters (a-z and ') as tokenizer symbols, distinct from every phoneme."""
    return "".join(_LETTERS[c] for c in word.lower() if c in _LETTERS)


def readable(symbols: str) -> str:
    """Tokenizer symbols as people read them: stress marks apart again, spelled words as ``<word>``."""
    letters = re.escape("".join(_UNLETTERS))
    symbols = re.sub(f"[{letters}]+", lambda m: "<" + "".join(_UNLETTERS[c] for c in m[0]) + ">", symbols)
    return "".join(_UNSTRESSED.get(c, c) for c in symbols)


class Lexicon:
    """Words with their pronunciations; some have a second one before a vowel (``the``, ``to``).

    Keys keep their case where it matters (``Polish``, ``NASA``, letters by name as ``A``…``Z``); a lookup tries the
    word as written, in lower case and capitalised.
    """

    def __init__(self, words: Mapping[str, str], before_vowel: Mapping[str, str] | None = None) -> None:
        self.words = dict(words)
        self.before_vowel = dict(before_vowel or {})

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def _find(self, word: str, before_vowel: bool) -> str | None:
        for key in (word, word.lower(), word.capitalize()):
            found = (self.before_vowel.get(key) if before_vowel else None) or self.words.get(key)
            if found:
                return found
        return None

    def lookup(self, word: str, before_vowel: bool = False) -> str | None:
        """Phonemes of one word, or None; possessives and contractions follow from the word they hang on."""
        found = self._find(word, before_vowel)
        if found:
            return found
        bare = word.strip("'")
        if bare and bare != word:
            return self.lookup(bare, before_vowel)
        stem, mark, tail = word.rpartition("'")
        base = self._find(stem, False) if mark else None
        if base is None:
            return None
        tail = mark + tail.lower()
        return base + (_possessive(base) if tail == "'s" else _CONTRACTIONS[tail]) if tail in _TAILS else None

    @classmethod
    def of(cls, words: Mapping[str, str]) -> Lexicon:
        """Check words with their phonemes. Raises: SoundloomError for a word or phonemes of another form."""
        for word, phonemes in words.items():
            if not _LINE.fullmatch(f"{word}\t{phonemes}"):
                shown = f"{word[:40]!r}, {phonemes[:40]!r}"
                raise SoundloomError(f"{shown}: expected a word and its phonemes in misaki's alphabet")
        return cls(words)

    @classmethod
    def load(cls, path: str | Path) -> Lexicon:
        """Read a UTF-8 TSV, gzipped or not: word, phonemes and, optionally, phonemes before a vowel; ``#`` comments.

        Raises: SoundloomError where the file is missing, damaged, too large or holds a line of another form.
        """
        data = _read(Path(path))
        words: dict[str, str] = {}
        before_vowel: dict[str, str] = {}
        for number, line in enumerate(data.split("\n"), 1):
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise SoundloomError(
                    f"{path}, line {number}: expected 'word<TAB>phonemes[<TAB>phonemes before a vowel]' with phonemes "
                    f"of misaki's alphabet, found {line[:80]!r}"
                )
            word, phonemes, second = match.groups()
            words[word] = phonemes
            if second:
                before_vowel[word] = second
        if not words:
            raise SoundloomError(f"{path}: the lexicon holds no word")
        return cls(words, before_vowel)

    def dumps(self, header: str = "") -> bytes:
        """The lexicon as gzipped TSV, sorted; the same words give the same bytes."""
        lines = [f"# {line}" for line in header.splitlines()]
        for word in sorted(self.words):
            extra = self.before_vowel.get(word)
            lines.append("\t".join([word, self.words[word], *([extra] if extra else [])]))
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0, filename="") as file:
            file.write(("\n".join(lines) + "\n").encode())
        return buffer.getvalue()


_TAILS = {"'s", *_CONTRACTIONS}


def _possessive(phonemes: str) -> str:
    """How 's sounds after a word that ends in these phonemes."""
    if phonemes[-1] in "szʃʒʧʤ":
        return "ᵻz"
    return "s" if phonemes[-1] in "ptkfθ" else "z"


def _read(path: Path) -> str:
    """A lexicon file's text, unpacked no further than 64 MiB."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            data = gzip.GzipFile(fileobj=raw).read(_MAX_BYTES + 1) if packed else raw.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise SoundloomError(f"{path}: a lexicon of more than {_MAX_BYTES >> 20} MiB is not read")
        return data.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise SoundloomError(f"{path}: not a readable lexicon ({error}); expected UTF-8 TSV, gzipped or not") from error


@lru_cache(maxsize=4)
def load_lexicon(path: str | Path = SHIPPED) -> Lexicon:
    """A lexicon by the name of a shipped one or by path; kept in memory, so treat it as read-only."""
    is_name = isinstance(path, str) and re.fullmatch(r"[a-z]{2}-[a-z]{2}", path)
    return Lexicon.load(shipped_path(str(path)) if is_name else path)
