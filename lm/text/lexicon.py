"""A word list that says how words sound. The phonemes are those of its language's `lm.text.language.Alphabet`."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from pathlib import Path

from codec.common.files import check_file
from codec.errors import SoundloomError, quoted
from lm.text.language import Language
from lm.text.languages import DEFAULT, is_lexicon_name, shipped_lexicon
from lm.text.languages import language as language_of

MOST_BYTES = 16 << 20  # unpacked
MOST_LINES = 500_000  # each takes some 200 bytes of memory
MOST_PHONEMES = 200  # of a word, and of its letters


class Lexicon:
    """Words with their pronunciations; some have a second one before a vowel (``the``, ``to``).

    Keys keep their case where it matters (``Polish``, ``NASA``, letters by name as ``A``…``Z``); a lookup tries the
    word as written, in lower case and capitalised. ``fixed``: words, in lower case, that sound so in any context.
    """

    def __init__(
        self,
        words: Mapping[str, str],
        before_vowel: Mapping[str, str] | None = None,
        language: Language = DEFAULT,
        fixed: AbstractSet[str] = frozenset(),
    ) -> None:
        self.words = dict(words)
        self.before_vowel = dict(before_vowel or {})
        self.language = language
        self.fixed = frozenset(fixed)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def _find(self, word: str, before_vowel: bool = False) -> str | None:
        for key in (word, word.lower(), word.capitalize()):
            found = (self.before_vowel.get(key) if before_vowel else None) or self.words.get(key)
            if found:
                return found
        return None

    def is_fixed(self, word: str) -> bool:
        """Return whether a word's neighbours have no say in how it sounds."""
        return word.lower() in self.fixed

    def lookup(self, word: str, before_vowel: bool = False) -> str | None:
        """Return the phonemes of one word, or None; the language derives forms that are not listed."""
        found = self._find(word, before_vowel)
        if found:
            return found
        bare = word.strip("'")
        if bare and bare != word:
            return self.lookup(bare, before_vowel)
        derive = self.language.derive
        return None if derive is None else derive(word, self._find)

    @classmethod
    def of(cls, words: Mapping[str, str], language: Language = DEFAULT) -> Lexicon:
        """Check words with their phonemes. Raises: SoundloomError for a word or phonemes of another form."""
        form = re.compile(rf"{language.alphabet.word}\t{language.alphabet.said}")
        for word, phonemes in words.items():
            if not form.fullmatch(f"{word}\t{phonemes}") or max(len(word), len(phonemes)) > MOST_PHONEMES:
                shown = f"{quoted(word)}, {quoted(phonemes)}"
                raise SoundloomError(f"{shown}: expected a word and its phonemes in the alphabet of {language.name}")
        return cls(words, language=language)

    @classmethod
    def load(cls, path: str | Path, language: Language = DEFAULT) -> Lexicon:
        """Read a UTF-8 TSV, gzipped or not: word, phonemes and, optionally, phonemes before a vowel; ``#`` comments.

        Raises: SoundloomError where the file is missing, damaged, too large or holds a line of another form.
        """
        said = language.alphabet.said
        form = re.compile(rf"({language.alphabet.word})\t({said})(?:\t({said}))?")
        words: dict[str, str] = {}
        before_vowel: dict[str, str] = {}
        for number, line in enumerate(_lines(Path(path)), 1):
            if not line or line.startswith("#"):
                continue
            match = form.fullmatch(line)
            if match is None:
                raise SoundloomError(
                    f"{path}, line {number}: expected 'word<TAB>phonemes[<TAB>phonemes before a vowel]' with "
                    f"{language.name} phonemes, found {quoted(line)}"
                )
            word, phonemes, second = match.groups()
            if max(len(word), len(phonemes), len(second or "")) > MOST_PHONEMES:
                raise SoundloomError(f"{path}, line {number}: longer than {MOST_PHONEMES} phonemes: {quoted(word)}")
            words[word] = phonemes
            if second:
                before_vowel[word] = second
        if not words:
            raise SoundloomError(f"{path}: the lexicon holds no word")
        return cls(words, before_vowel, language)

    def dumps(self, header: str = "") -> bytes:
        """Return the lexicon as gzipped TSV, sorted; the same words give the same bytes."""
        lines = [f"# {line}" for line in header.splitlines()]
        for word in sorted(self.words):
            extra = self.before_vowel.get(word)
            lines.append("\t".join([word, self.words[word], *([extra] if extra else [])]))
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0, filename="") as file:
            file.write(("\n".join(lines) + "\n").encode())
        return buffer.getvalue()


def _lines(path: Path) -> Iterator[str]:
    """Yield a lexicon file's lines as they are unpacked, so that a small file cannot ask for much memory."""
    check_file(path, MOST_BYTES)
    seen = 0
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            for number in range(1, MOST_LINES + 2):
                line = stream.readline(10 * MOST_PHONEMES)
                seen += len(line)
                if number > MOST_LINES or seen > MOST_BYTES:
                    raise SoundloomError(f"{path}: over {MOST_LINES:,} lines or {MOST_BYTES >> 20} MiB unpacked")
                if not line:
                    return
                yield line.decode("utf-8").removesuffix("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise SoundloomError(f"{path}: not a readable lexicon ({error}); expected UTF-8 TSV, gzipped or not") from error


def load_lexicon(source: str | Path | None = None, language: str = DEFAULT.code) -> Lexicon:
    """Load a lexicon by a shipped one's name or by path; kept in memory, so treat it as read-only.

    By default it is the language's own.
    """
    spoken = language_of(language)
    source = spoken.lexicon if source is None else source
    if source is None:
        raise SoundloomError(f"{spoken.name} has no lexicon of its own; name a file")
    if is_lexicon_name(source):
        path = shipped_lexicon(str(source))
        if path is None or not str(source).startswith(f"{spoken.code}-"):
            raise SoundloomError(f"lexicon {quoted(source)}: {spoken.name} has none of this name")
        return _loaded(path, spoken)
    return _loaded(Path(source), spoken)


@lru_cache(maxsize=4)
def _loaded(path: Path, language: Language) -> Lexicon:
    return Lexicon.load(path, language)
