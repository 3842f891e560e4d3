# ruff: noqa: RUF001 - tables of symbols and words
"""English text as it is spoken: numbers, dates, money, units and abbreviations written out.

`normalize` is total: any string gives a string of ASCII letters, single spaces and ``.,?!;:'-``. What English cannot
say (emoji, other scripts, control characters) becomes a space. Letters read by name stand alone, in upper case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from lm.text.english.abbreviations import (
    ABBREVIATIONS,
    ACRONYMS,
    CURRENCIES,
    ELISIONS,
    INITIALISMS,
    LETTERS_LIKE,
    SYMBOL_WORDS,
    TITLES,
)
from lm.text.english.markup import addresses, name_emoji, plain
from lm.text.english.numbers import any_of, numbers
from lm.text.english.quantities import quantities, raise_superscripts

_FOLD = str.maketrans(
    {c: "'" for c in "‘’‚‛ʼʹ`´＇"}
    | {c: '"' for c in "“”„‟«»″＂"}
    | {c: "-" for c in "‐‑⁃﹣－"}
    | {"–": "–", "‒": "–", "−": "-", "―": "—", "﹘": "—", "…": "...", "⁄": "/", "²": " squared ", "³": " cubed "}
)
_DOTTED = re.compile(r"\b((?:[A-Za-z]\.){2,})(\s*$)?(?![A-Za-z])")
_INITIAL = re.compile(r"(?:(?<=^)|(?<=[\s(]))([A-HJ-Z])\.(?=\s*[A-Z])")
_TITLE = re.compile(rf"\b({any_of(TITLES)})(?:\.?(?= ?[A-Z][\w'.])|\.(?= [A-Z]\b))")
_AMPERSAND = re.compile(r"(?<![A-Za-z&])([A-Z]{1,3})\s?&\s?([A-Z]{1,3})(?![A-Za-z&])")
_SAINT = re.compile(r"\bSt\.?(?= [A-Z][a-z])")
_ABBREVIATION = re.compile(rf"(?<![\w.'])({any_of(ABBREVIATIONS)})(?![\w'])(\.?)(\s*$)?")
_CAPITALS = re.compile(r"(?<![A-Za-z'])([A-Z]{2,5})(s|'s)?(?![A-Za-z'])")
_MAX_PASSES = 8
_ARTICLE = re.compile(r"(?:^|(?<=[.?!:;] )|(?<=[.?!:;,] '))A(?= (?!(?:is|was|for|and|or|to|stands)\b)[a-z])")
_LETTER_A = re.compile(r"(?<![A-Za-z'-])a(?=$|[.,?!;:])")  # no noun follows
_LETTER_DIGIT = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_ELISION = re.compile(rf"(?<![A-Za-z])'({any_of(ELISIONS)})(?![A-Za-z'])", re.I)


def _dotted(match: re.Match[str]) -> str:
    letters = match[1].replace(".", "")
    known = ABBREVIATIONS.get(match[1].rstrip(".")) or ABBREVIATIONS.get(letters.lower() if letters.islower() else "")
    words = known or " ".join(letters.upper())
    return words + ("." if match[2] is not None else "")


def _abbreviation(match: re.Match[str]) -> str:
    final = match[2] and match[3] is not None
    return ABBREVIATIONS[match[1]] + ("." if final else "") + (match[3] or "")


def _spell_capitals(text: str, is_word: Callable[[str], bool]) -> str:
    """Spell initialisms: capitals that are neither a known acronym nor a word; shouted words stay words."""

    def one(match: re.Match[str]) -> str:
        word, tail = match[1], match[2] or ""
        shouted = not re.search(r"[a-z]", match.string) and match.string.count(" ") > 1
        known = word in ACRONYMS or is_word(word) or is_word(word.lower())
        if known and (shouted or word not in INITIALISMS):
            return match[0]
        return " ".join(word) + (("'s" if tail else "") if tail != "s" else "'s")

    return _CAPITALS.sub(one, text)


def _default_is_word(word: str) -> bool:
    """Return whether the shipped lexicon holds this spelling."""
    from lm.text.lexicon import load_lexicon  # which needs this language first

    return word in load_lexicon("en-us", "en")


def _fold(text: str) -> str:
    """Map Unicode to ASCII where English has a reading for it, everything else to a space."""
    text = re.sub(r"(?<=\d)([¼½¾⅓⅔⅛⅜⅝⅞])", r" \1", text.translate(_FOLD))
    text = unicodedata.normalize("NFKC", text).translate(_FOLD).translate(LETTERS_LIKE)
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    text = re.sub(r"\d", lambda m: str(unicodedata.decimal(m[0])), text)
    keep = "–—°" + "".join(CURRENCIES) + "".join(SYMBOL_WORDS) + "¢"
    return "".join(c if " " <= c <= "~" or c in keep else " " for c in text)


def _punctuate(text: str) -> str:
    """Keep only ``.,?!;:'-``, each where speech has it: once, after a word, before a space."""
    text = re.sub(r"\s*(?:—|–|--+)\s*|\s-+\s|\s-+(?=[A-Za-z])|(?<=[A-Za-z])-+\s", ", ", text)
    text = re.sub(r"[()\[\]{}]", ", ", text)
    text = re.sub(r"\.{2,}(?=\s*[A-Za-z])", ", ", text)
    text = _ELISION.sub("\x00\\1", text)
    text = re.sub(r"(?<![A-Za-z])'+|'+(?![A-Za-z])|''+", " ", text).replace("\x00", "'")
    text = re.sub(r"[^A-Za-z.,?!;:'\s-]", " ", text)
    text = re.sub(r"(?<![A-Za-z])-+|-+(?![A-Za-z])|--+", " ", text)
    text = re.sub(r"(?:\s*[.,?!;:])+", lambda m: _strongest(m[0]) + " ", text)
    text = re.sub(r"^[\s.,?!;:]+", "", text)
    return " ".join(re.sub(r"[\s,;:]+$", "", text).split())


def _strongest(marks: str) -> str:
    """Return one mark for a run of them: a question or exclamation beats a stop, a stop beats a pause."""
    return next(mark for mark in "?!.;:," if mark in marks)


def _once(text: str, is_word: Callable[[str], bool]) -> str:
    """Apply every rule once."""
    # No word is that long, and some rules take quadratic time in a word's length.
    text = _fold(raise_superscripts(text))
    text = " ".join(re.sub(r"(\S{100})(?=\S)", r"\1 ", addresses(text)).split())
    text = _AMPERSAND.sub(lambda m: f"{' '.join(m[1])} and {' '.join(m[2])}", quantities(text))
    text = _SAINT.sub("Saint", text)
    text = _TITLE.sub(lambda m: TITLES[m[1]], text)
    text = numbers(text)
    text = _DOTTED.sub(_dotted, text)
    text = _INITIAL.sub(r"\1 ", text)
    text = _ABBREVIATION.sub(_abbreviation, text)
    for symbol, word in SYMBOL_WORDS.items():
        text = text.replace(symbol, f" {word} ")
    text = _punctuate(_LETTER_DIGIT.sub(" ", text))
    text = _LETTER_A.sub("A", _ARTICLE.sub("a", text))
    return _spell_capitals(text, is_word)


def normalize(text: str, is_word: Callable[[str], bool] | None = None, emoji: bool = False) -> str:
    """Return text as it is spoken: ASCII letters, single spaces and ``.,?!;:'-``; never raises; idempotent.

    Markup (Markdown, HTML, terminal colours) is left out, and emoji too, unless ``emoji`` asks for their names.

    ``is_word`` says which spellings are words (the shipped lexicon's by default): capitals that are not, such as
    ``FBI``, come out as letters to name, ``F B I``.
    """
    is_word = is_word or _default_is_word
    text = plain(name_emoji(text) if emoji else text)
    # Odd text (":A.A") can put together what a rule waits for only in the course of the pass.
    for _ in range(_MAX_PASSES):
        spoken = _once(text, is_word)
        if spoken == text:
            break
        text = spoken
    return text


_NO_END_AFTER = any_of([*TITLES, "St", "e.g", "i.e", "vs", "cf", "approx", "No", "Nos", "Fig", "p", "pp"])
_NOT_AN_END = re.compile(rf"(?:^|[\s(\"'])(?:{_NO_END_AFTER}|[A-Z])\.$")
_SENTENCE_END = re.compile(r"[.?!…]+[\"'”’)\]]*(?=\s+\S)|\n\s*\n")


_NUMBERED = re.compile(r"^[ \t]*(\d{1,3}(?=[.)])|[A-Za-z](?=\)))[.)][ \t]+(?=\S)", re.M)
_BARE_LINES = re.compile(r"(?:^[ \t]*[A-Z0-9][^\n]{0,38}[^\s.,;:?!\n][ \t]*(?:\n|\Z)){3,}", re.M)


def _items(text: str) -> str:
    """Make each item of a list a paragraph: numbered lines, and short lines without a mark at their ends."""
    if "\n" in text:
        text = _BARE_LINES.sub(lambda m: m[0].strip().replace("\n", "\n\n") + "\n", text)
    if len(_NUMBERED.findall(text)) > 1:
        text = _NUMBERED.sub(r"\n\n\1: ", text)
    return text


def split_sentences(text: str) -> list[str]:
    """Return the sentences in order, as written; a stop after a title, or before lower case, ends none."""
    text = _items(plain(text, keep_phonemes=True))
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        before, after = text[start : match.end()], text[match.end() :].lstrip()[:1]
        paragraph = "\n" in match[0]
        if not paragraph and (after.islower() or _NOT_AN_END.search(before.rstrip("\"'”’)]"))):
            continue
        sentences.append(before)
        start = match.end()
    sentences.append(text[start:])
    return [" ".join(s.split()) for s in sentences if s.strip()]
