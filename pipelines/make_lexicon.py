"""Build a pronunciation lexicon from a teacher's grapheme-to-phoneme rules and the texts that it will speak.

    python pipelines/make_lexicon.py lm/text/english/lexicons/en-us.tsv.gz --texts /usr/share/wordnet

The words are those of the texts, those of the teacher's checked word list, and the listed inflections of both. A word
of the texts gets its most frequent pronunciation within sentences (``to`` is hardly ever said alone), with a second one
before vowels if that differs. Every other word gets the pronunciation that it has alone.

Needs: pip install -e '.[corpus]'   (hibari-tts, Apache-2.0). One core, about five minutes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codec.common.extras import install_hint
from codec.common.files import write_bytes
from codec.errors import SoundloomError
from lm.text.languages import language
from lm.text.lexicon import Lexicon
from pipelines.command_line.progress import track
from pipelines.command_line.run import check_numbers, run
from pipelines.corpus.texts import read_texts

HEADER = """soundloom's American English lexicon: word, phonemes (misaki's alphabet), phonemes before a vowel if unlike.
Made by pipelines/make_lexicon.py from misaki 0.9.4's us_gold.json and us_silver.json as shipped in hibari-tts 0.2.1,
by hexgrad (https://github.com/hexgrad/misaki), and from the readings of hibari-tts; both Apache-2.0; see NOTICE."""
ENGLISH = language("en")  # as the teacher's
_ALPHABET = ENGLISH.alphabet
_LETTERS = f"[{_ALPHABET.letter_class}]+"
_WORD = re.compile(f"'?{_LETTERS}(?:'{_LETTERS})*(?:-{_LETTERS})*")
# Rarer differences are homographs (to use, the use) that happened to stand before a vowel.
_MIN_BEFORE_VOWEL = 200
_COMMON = 3


class Teacher:
    """hibari's grapheme-to-phoneme rules and word lists."""

    def __init__(self) -> None:
        try:
            import hibari
            from hibari.g2p import G2P
        except ImportError as error:
            raise SoundloomError(f"hibari-tts is not installed: {install_hint('corpus')}") from error
        self.g2p: Any = G2P()
        assets = Path(hibari.__file__).parent / "assets"
        self.gold: dict[str, Any] = json.loads(gzip.decompress((assets / "lexicon_us_gold.json.gz").read_bytes()))
        self.silver: dict[str, Any] = json.loads(gzip.decompress((assets / "lexicon_us_silver.json.gz").read_bytes()))

    def alone(self, word: str) -> str:
        """Return a word's phonemes without context."""
        return _ALPHABET.clean(self.g2p(word, normalize_text=False))

    def in_context(self, sentence: str) -> list[tuple[str, str, bool]]:
        """Return (word, phonemes, whether a vowel follows at once) of each word of a normalised sentence."""
        tokens = self.g2p.phonemize_tokens(self.g2p.tokenize(sentence))
        rows = []
        for token, following in zip(tokens, [*tokens[1:], None], strict=True):
            phonemes = _ALPHABET.clean(token.phonemes or "")
            if phonemes and _WORD.fullmatch(token.text):
                next_phonemes = (following.phonemes or "").lstrip(_ALPHABET.stress) if following is not None else ""
                rows.append((token.text, phonemes, next_phonemes[:1] in set(_ALPHABET.vowels)))
        return rows


def count_readings(teacher: Teacher, texts: Iterable[str]) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """Count the readings of each word of the texts: anywhere but before a vowel, and before a vowel."""
    plain: dict[str, Counter[str]] = defaultdict(Counter)
    vowel: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        sentence = ENGLISH.normalize(text, is_word=lambda word: word in teacher.gold)
        for i, (word, phonemes, before_vowel) in enumerate(teacher.in_context(sentence)):
            # The capital that opens a sentence is not the word's own.
            key = word.lower() if i == 0 and word.istitle() and len(word) > 1 else word
            (vowel if before_vowel else plain)[key][phonemes] += 1
    return plain, vowel


def _best(counter: Counter[str]) -> str:
    """Return the most frequent reading; of equals the first in order, so that every run gives the same."""
    return min(counter.items(), key=lambda item: (-item[1], item[0]))[0]


def _count(plain: dict[str, Counter[str]], vowel: dict[str, Counter[str]], word: str) -> int:
    return sum(plain.get(word, Counter()).values()) + sum(vowel.get(word, Counter()).values())


def inflections(word: str) -> list[str]:
    """Return regular forms that a word might have; the caller keeps those that some list attests."""
    stem = word[:-1] if word.endswith("e") else word
    ies = [word[:-1] + "ies", word[:-1] + "ied"] if word.endswith("y") else []
    return [word + "s", word + "es", stem + "ed", stem + "ing", stem + "er", stem + "est", word + "ly", *ies]


def build(teacher: Teacher, texts: list[str], progress: bool = True) -> Lexicon:
    """Build the lexicon of the texts' words, the teacher's checked words and their attested inflections."""
    shown = track(texts, "sentence", shown=progress)
    plain, vowel = count_readings(teacher, shown)
    words: dict[str, str] = {}
    before_vowel: dict[str, str] = {}
    for word in sorted({*plain, *vowel}):
        both = plain.get(word, Counter()) + vowel.get(word, Counter())
        words[word] = _best(plain.get(word) or both)
        if sum(vowel.get(word, Counter()).values()) >= _MIN_BEFORE_VOWEL and _best(vowel[word]) != words[word]:
            before_vowel[word] = _best(vowel[word])
    # Capitals of an everyday word (HE, ACT) are more often that word, shouted, than the initials that are listed.
    listed = {w for w in teacher.gold if _WORD.fullmatch(w)}
    listed -= {w for w in listed if len(w) > 1 and w.isupper() and _count(plain, vowel, w.lower()) >= _COMMON}
    known = {w.lower() for w in (*listed, *words)}
    listed |= {form for word in known for form in inflections(word) if form in teacher.silver}
    for word in track(sorted(listed - set(words)), "word", shown=progress):
        phonemes = teacher.alone(word)
        if phonemes:
            words[word] = phonemes
    for letter in "ABCDEFGHJKLMNOPQRSTUVWXYZ":
        words[letter] = _ALPHABET.clean(teacher.gold[letter])
    return Lexicon(without_echoes(words), before_vowel)


def without_echoes(words: dict[str, str]) -> dict[str, str]:
    """Leave out what a lookup finds anyway: capitalised words that sound like their lower case."""

    def echo(word: str, phonemes: str) -> bool:
        return len(word) > 1 and (word.istitle() or word.isupper()) and words.get(word.lower()) == phonemes

    return {word: phonemes for word, phonemes in words.items() if not echo(word, phonemes)}


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="file to write, *.tsv.gz")
    p.add_argument("--texts", type=Path, required=True, help="a text file or a WordNet folder with data.* files")
    p.add_argument("--limit", type=int, default=None, help="read only the first n texts")
    return p


def main(argv: list[str] | None = None) -> int:
    """Build a lexicon, write it in one step, print its size."""
    args = parser().parse_args(argv)
    check_numbers(args)
    lexicon = build(Teacher(), read_texts(args.texts)[: args.limit])
    data = lexicon.dumps(HEADER)
    write_bytes(args.out, data)
    print(f"{args.out}: {len(lexicon):,} words, {len(lexicon.before_vowel)} with a second form, {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
