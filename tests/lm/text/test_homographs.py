# ruff: noqa: RUF001 - phonemes look like letters
"""Homographs by context: measured on sentences that were written before the rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lm.text.english import ENGLISH
from lm.text.english.homographs import WORDS
from lm.text.lexicon import Lexicon, load_lexicon
from lm.text.tokenizer import normalize, pronounce

CASES = [
    line.split("\t")
    for line in Path(__file__).with_name("homographs.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def said(text: str, word: str) -> str:
    """Return a word's phonemes in a text."""
    spoken = normalize(text)
    words = ENGLISH.alphabet.readable(pronounce(spoken, load_lexicon())).split()
    places = [i for i, one in enumerate(spoken.split()) if one.strip(",.?!;:").lower() == word.lower()]
    return words[places[0]].strip(",.?!;:")


@pytest.mark.parametrize("half", ["tuned", "held-out"])
def test_homographs_are_right_in_95_of_100_sentences(half: str, record_property: Any) -> None:
    cases = [(phonemes, sentence) for kind, phonemes, sentence in CASES if kind == half]
    wrong = []
    for phonemes, sentence in cases:
        word = re.findall(r"\{(\w+)\}", sentence)[0]
        if said(sentence.replace("{", "").replace("}", ""), word) != phonemes:
            wrong.append(sentence)
    record_property("right", f"{len(cases) - len(wrong)} of {len(cases)}")
    assert len(cases) >= 100 and len(wrong) <= 0.05 * len(cases), wrong


def test_every_reading_is_made_of_phonemes_and_every_word_is_known() -> None:
    lexicon = load_lexicon()
    known = set(ENGLISH.alphabet.phonemes + ENGLISH.alphabet.stress)
    assert all(set(phonemes) <= known for _, phonemes, _ in CASES)
    assert [word for word in WORDS if lexicon.lookup(word) is None and not word.endswith("s")] == []


def test_a_word_of_the_users_own_lexicon_sounds_so_in_any_context() -> None:
    own = Lexicon({"read": "ɹˈid", "i": "ˌI"}, fixed={"read"})
    assert ENGLISH.alphabet.readable(pronounce("I had read", own)) == "ˌI <had> ɹˈid"
    assert ENGLISH.alphabet.readable(pronounce("I had read", Lexicon({"read": "ɹˈid"}))) == "<i> <had> ɹˈɛd"


@pytest.mark.parametrize(
    ("text", "word", "phonemes"),
    [
        ("The road winds through vineyards.", "winds", "wˈIndz"),
        ("A compiler used to run the work.", "used", "jˈuzd"),
        ("The result is not used to limit rights.", "used", "jˈuzd"),
        ("The factory produces more than before.", "produces", "pɹədˈusᵻz"),
        ("Resume with another number of processes.", "resume", "ɹəzˈum"),
    ],
)
def test_cases_from_running_text(text: str, word: str, phonemes: str) -> None:
    assert said(text, word) == phonemes
