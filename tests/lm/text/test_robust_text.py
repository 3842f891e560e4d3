"""Fragments, letters, lists and questions: what reaches the model is what people would say."""

from __future__ import annotations

import pytest

from lm.text.english.endings import finish
from lm.text.tokenizer import normalize, split_sentences


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("hello world", "hello world."),
        ("hello world,", "hello world,."),
        ('"hello world"', '"hello world".'),
        ("hello (world)", "hello (world)."),
        ("Really?", "Really?"),
        ('He said "no."', 'He said "no."'),
        ("Wait…", "Wait…"),
        ("what time is it", "what time is it?"),
        ("What is your name", "What is your name?"),
        ("How much did you pay", "How much did you pay?"),
        ("Are you coming", "Are you coming?"),
        ("what a day", "what a day."),
        ("When I was young", "When I was young."),
        ("Will power", "Will power."),
        ("[gif](/ʤˈɪf/)", "[gif](/ʤˈɪf/)."),  # noqa: RUF001 - phonemes
        ("", ""),
    ],
)
def test_a_text_that_just_stops_gets_a_mark(text: str, ended: str) -> None:
    assert finish(text) == ended


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("A", "A"),
        ("B2B", "B two B"),
        ("USB-C", "U S B-C"),
        ("AT&T", "A T and T"),
        ("R&D and Q & A", "R and D and Q and A"),
        ("Johnson & Johnson", "Johnson and Johnson"),
        ("Mr. T is here", "Mister T is here"),
        ("A is for apple.", "A is for apple."),
        ("A cat sat.", "a cat sat."),
        ("Choose option a.", "Choose option A."),
        ("from a to b", "from a to b"),
        ("point a, point b", "point A, point b"),
        ("W3C", "W three C"),
        ("X-ray", "X-ray"),
    ],
)
def test_letters_are_named(text: str, spoken: str) -> None:
    assert normalize(text) == spoken
    assert normalize(spoken) == spoken


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("1. First\n2. Second", ["1: First", "2: Second"]),
        ("Do this:\n1) Wash. Then dry.\n2) Cook", ["Do this:", "1: Wash.", "Then dry.", "2: Cook"]),
        ("- one\n- two", ["one", "two"]),
        ("Eggs\nMilk\nBrown bread", ["Eggs", "Milk", "Brown bread"]),
        ("This line was wrapped by an editor at some\nplace, and it ends\nhere.", None),
        ("It was the year\n1914. War came.", ["It was the year 1914.", "War came."]),
    ],
)
def test_items_of_lists_are_sentences(text: str, sentences: list[str] | None) -> None:
    assert split_sentences(text) == (sentences or [" ".join(text.split())])
