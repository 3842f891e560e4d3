"""English text is read as people would read it: a table of cases, and rules that hold for any text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lm.text.english.markup import name_emoji, plain
from lm.text.english.normalize import normalize, split_sentences

TABLE = Path(__file__).with_name("english_cases.tsv")
LEAST = 0.99  # of the table's lines


def cases() -> list[tuple[str, str, str]]:
    rows = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [(kind, unescaped(written), spoken) for kind, written, spoken, _ in rows]


def unescaped(text: str) -> str:
    text = re.sub(r"\\u([0-9a-f]{4})|\\x([0-9a-f]{2})", lambda m: chr(int(m[1] or m[2], 16)), text)
    return text.replace("\\n", "\n")


def test_the_table_is_large() -> None:
    assert len(cases()) >= 600
    assert len({written for _, written, _ in cases()}) == len(cases())


def test_hardly_a_case_is_misread() -> None:
    wrong = [(written, spoken, normalize(written)) for _, written, spoken in cases() if normalize(written) != spoken]
    assert len(wrong) <= (1 - LEAST) * len(cases()), wrong


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("I said no. 5 people left.", "I said no! five people left."),
        ("the part I like", "the part I like"),
        ("He wears XL and buys CDs in DC", "He wears X L and buys C D's in D C"),
        ("call 555-1234 or 911", "call five five five, one two three four or nine one one"),
        ("rated 5-star in 2019 and 2020", "rated five star in twenty nineteen and twenty twenty"),
        ("a snake_case name", "a snake case name"),
        ("2 * 3 * 4", "two times three times four"),
        ("A - B", "A, B"),
        ("it is well-known - and true", "it is well-known, and true"),
    ],
)
def test_neighbouring_forms_stay_apart(written: str, spoken: str) -> None:
    assert normalize(written) == spoken


def test_headings_and_items_are_sentences_of_their_own() -> None:
    assert split_sentences("# Title\nText here.\n- one\n- two") == ["Title", "Text here.", "one", "two"]


def test_emoji_by_choice() -> None:
    assert normalize("Yes 👍 now") == "Yes now"
    assert normalize("Yes 👍 now", emoji=True) == "Yes, thumbs up sign, now"
    assert name_emoji("plain") == "plain"


@pytest.mark.parametrize("part", ["<", "*", "[", "`", "a@", "1-", "http://", "[a](", "$1-", "1 000 "])
def test_no_text_takes_long(part: str) -> None:
    # Linear rules take milliseconds; a quadratic one would take minutes here and the suite would time out.
    text = part * (5000 // len(part))
    assert isinstance(normalize(text), str) and isinstance(plain(text), str)
