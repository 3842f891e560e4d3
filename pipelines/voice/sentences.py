"""A text cut into pieces that are spoken at once; each piece is normalised and tokenised here, and only here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from codec.errors import SoundloomError, quoted
from lm.text.inline import found, unknown_phonemes, without_phonemes
from lm.text.language import Language
from lm.text.languages import DEFAULT
from lm.text.tokenizer import NothingToSpeak

MAX_CHARACTERS = 50_000  # about an hour of speech, which is held in memory as a whole
MAX_PAUSE, MAX_PAUSES = 10.0, 600.0  # seconds of one [pause:…], and of all in a text
_LONGEST_PART = 1000  # characters; no sentence that can be spoken at once is longer
_CLAUSE_END = re.compile(r"(?<=[,;:)\u2014\u2013])\s+")
_TAG = re.compile(r"\[pause:([^\]\n]{0,40})\]", re.IGNORECASE)
_DURATION = re.compile(r"\s*(\d{1,4}(?:\.\d{1,6})?)\s*(s|ms)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Piece:
    """A piece of text to speak at once: its token ids, and the seconds of silence that follow it."""

    text: str
    ids: tuple[int, ...]
    pause: float = 0.0


@dataclass(frozen=True)
class Script:
    """A text ready to be spoken: ``lead`` seconds of silence, then the pieces.

    ``skipped``: what cannot be spoken, in order. ``exact``: the pause after the last piece was asked for.
    """

    pieces: tuple[Piece, ...]
    lead: float = 0.0
    skipped: tuple[str, ...] = ()
    exact: bool = False


@dataclass
class Cutter:
    """Cuts texts into pieces of at most ``longest`` seconds, with ``pause`` seconds between sentences.

    ``encode`` turns text into ids and raises SoundloomError where nothing in it can be spoken; ``seconds`` is how
    long that many ids take on average. Each distinct string is encoded once. ``language`` is that of the texts.
    """

    encode: Callable[[str], Sequence[int]]
    seconds: Callable[[int], float]
    longest: float
    pause: float = 0.15
    language: Language = DEFAULT
    _known: dict[str, tuple[int, ...] | None] = field(default_factory=dict)

    def cut(self, text: str, strict: bool = False, more_follows: bool = False) -> Script:
        """Cut a text at sentences, at clauses where those are too long, and between words where those are.

        The last sentence has no pause after it, unless ``more_follows``.
        Raises: SoundloomError for a text that is empty, too long or holds nothing that can be spoken; with ``strict``
        also for one with a part that cannot be spoken.
        """
        _check(text)
        _check_phonemes(text, self.language)
        self._known = {}
        pieces: list[Piece] = []
        skipped: list[str] = []
        lead = total = 0.0
        exact = False  # the last piece's pause was asked for
        for part in split_pauses(text):
            if isinstance(part, str):
                new = self._pieces(part, skipped)
                pieces, exact = pieces + new, exact and not new
                continue
            total += part
            if total > MAX_PAUSES:
                raise SoundloomError(f"the pauses in the text take more than {MAX_PAUSES:g} s; shorten them")
            if not pieces:
                lead += part
            else:
                pieces[-1] = replace(pieces[-1], pause=part + (pieces[-1].pause if exact else 0.0))
                exact = True
        if not pieces:
            shown, name = quoted(text.strip()), self.language.name
            raise NothingToSpeak(f"nothing to speak in the text {shown}: expected {name} words or numbers")
        if not (exact or more_follows):
            pieces[-1] = replace(pieces[-1], pause=0.0)
        if strict and skipped:
            raise SoundloomError(describe_skipped(skipped))
        return Script(tuple(pieces), lead, tuple(skipped), exact)

    def _pieces(self, text: str, skipped: list[str]) -> list[Piece]:
        """Return the pieces of a text without pause tags; add what cannot be spoken to ``skipped``."""
        pieces: list[Piece] = []
        for sentence in self.language.split_sentences(text):
            spoken: list[tuple[str, tuple[int, ...]]] = []
            for part in self._cut_sentence(sentence):
                ids = self._ids(part)
                if ids is not None:
                    spoken.append((part, ids))
                    skipped += _lost_words(part, self.language)
                elif any(map(has_meaning, part)):
                    skipped.append(part.strip())
            shares = [1 / 3] * (len(spoken) - 1) + [1.0]
            pieces += [Piece(part, ids, self.pause * share) for (part, ids), share in zip(spoken, shares, strict=False)]
        return pieces

    def _ids(self, part: str) -> tuple[int, ...] | None:
        """Return a part's ids, or None where nothing in it can be spoken.

        Raises: SoundloomError for one word that takes far too long.
        """
        if part not in self._known:
            self._known[part] = self._encode(part)
        ids = self._known[part]
        if ids is not None and " " not in part and self.seconds(len(ids)) > 5 * self.longest:
            raise SoundloomError(f"one word takes too long to speak: {part[:40]!r}…; put spaces into it")
        return ids

    def _encode(self, part: str) -> tuple[int, ...] | None:
        if len(part) > self._most_characters:  # a single word: parts of it show whether any of it can be spoken
            parts = [part[i : i + _LONGEST_PART] for i in range(0, len(part), _LONGEST_PART)]
            return tuple(i for one in parts for i in self._encode(one) or ()) or None
        try:
            return tuple(self.encode(part)) or None
        except SoundloomError:
            return None

    @property
    def _most_characters(self) -> int:
        return max(_LONGEST_PART, round(40 * self.longest))

    def _fits(self, part: str) -> bool:
        if len(part) > self._most_characters:
            return False
        ids = self._ids(part)
        return ids is None or self.seconds(len(ids)) <= self.longest

    def _cut_sentence(self, sentence: str) -> list[str]:
        if self._fits(sentence):
            return [sentence]
        clauses: list[str] = []
        for clause in _CLAUSE_END.split(sentence):
            clauses += [clause] if self._fits(clause) else list(self._merge(clause.split()))
        return list(self._merge(clauses))

    def _merge(self, parts: Sequence[str]) -> Iterator[str]:
        """Join neighbours as long as they fit; a part that does not fit alone stays alone."""
        begun = ""
        for part in parts:
            longer = f"{begun} {part}" if begun else part
            if begun and not self._fits(longer):
                yield begun
                longer = part
            begun = longer
        if begun:
            yield begun


def describe_skipped(skipped: Sequence[str]) -> str:
    """Return one line that counts and shows what cannot be spoken."""
    shown = ", ".join(repr(_shortened(part)) for part in skipped[:3])
    rest = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    noun = "part" if len(skipped) == 1 else "parts"
    return f"{len(skipped)} {noun} of the text cannot be spoken (words and numbers of its language can): {shown}{rest}"


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _check(text: str) -> None:
    if not isinstance(text, str):
        raise SoundloomError(f"the text is a {type(text).__name__}; expected a str")
    if not text.strip():
        raise SoundloomError("the text is empty; give some words to speak")
    if len(text) > MAX_CHARACTERS:
        raise SoundloomError(
            f"the text has {len(text):,} characters, more than the {MAX_CHARACTERS:,} that are spoken at once; "
            "speak it in parts (a chapter each, say)"
        )


def _check_phonemes(text: str, language: Language) -> None:
    """Raises: SoundloomError for phonemes in the text that its language does not have."""
    for word, phonemes in found(text):
        unknown = unknown_phonemes(phonemes, language.alphabet)
        if unknown:
            shown = f"{quoted(f'[{word}](/{phonemes}/)')}: {quoted(unknown)}"
            raise SoundloomError(f"{shown} is no phoneme of {language.name}; docs/speak.md lists them")


def split_pauses(text: str) -> Iterator[str | float]:
    """Return the text between pause tags, and the tags as seconds, in order. Raises: SoundloomError for a bad tag."""
    end = 0
    for tag in _TAG.finditer(text):
        yield text[end : tag.start()]
        end = tag.end()
        found = _DURATION.fullmatch(tag[1])
        seconds = float(found[1]) / (1000 if found[2].lower() == "ms" else 1) if found else -1.0
        if not 0 <= seconds <= MAX_PAUSE:
            raise SoundloomError(
                f"{tag[0]!r}: expected 0 to {MAX_PAUSE:g} seconds, such as [pause:0.5s] or [pause:80ms]"
            )
        yield seconds
    yield text[end:]


def without_tags(text: str) -> str:
    """Return the text without its pause tags."""
    return _TAG.sub(" ", text)


def has_meaning(character: str) -> bool:
    """Return whether a character is a letter, a number or a symbol that should be spoken, not only punctuation."""
    kind = unicodedata.category(character)
    return kind[0] in "LN" or (kind[0] == "S" and kind != "Sk" and not character.isascii())


def _lost_words(text: str, language: Language) -> list[str]:
    """Return the words of a spoken text with characters that vanish: other scripts, emoji, unnamed symbols."""
    text = without_phonemes(text)
    return [] if text.isascii() else [word for word in text.split() if any(_vanishes(c, language) for c in word)]


@lru_cache(maxsize=4096)
def _vanishes(character: str, language: Language) -> bool:
    """Return whether the spoken form ignores a character that has a meaning."""
    if character.isascii() or not has_meaning(character):
        return False
    alone, joined = (language.normalize(text).strip(".") for text in ("5", f"5{character}"))
    return alone == joined
