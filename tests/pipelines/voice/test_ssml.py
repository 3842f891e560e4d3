# ruff: noqa: RUF001 - phonemes look like letters
"""SSML to turns: what is known, what is named and left out, what is refused."""

from __future__ import annotations

import pytest

from codec.errors import SoundloomError
from lm.text.english import ENGLISH
from lm.text.english.say_as import say_as
from lm.text.inline import found, take_out, without_phonemes
from lm.text.lexicon import Lexicon
from lm.text.tokenizer import normalize, pronounce, split_sentences
from pipelines.voice.ssml import read_ssml
from pipelines.voice.turns import Turn


def only(text: str) -> str:
    document = read_ssml(text)
    assert document.notes == [] and len(document.turns) == 1
    return document.turns[0].text


def test_plain_text_is_one_turn_with_or_without_the_root() -> None:
    assert read_ssml("Hello &amp; bye").turns == [Turn("Hello & bye")]
    text = '<?xml version="1.0" encoding="utf-16"?>\n<speak version="1.1" xmlns="http://www.w3.org/2001/10/synthesis">\nHi\n</speak>'
    assert [turn.text.strip() for turn in read_ssml(text).turns] == ["Hi"]


@pytest.mark.parametrize(
    ("break_", "tag"),
    [
        ('<break time="500ms"/>', "[pause:0.5s]"),
        ('<break time="1.5s"/>', "[pause:1.5s]"),
        ("<break/>", "[pause:0.5s]"),
        ('<break strength="none"/>', "[pause:0s]"),
        ('<break strength="x-strong"/>', "[pause:1.2s]"),
    ],
)
def test_breaks_are_pauses(break_: str, tag: str) -> None:
    assert only(f"Hi{break_}there") == f"Hi{tag}there"


def test_rates_multiply_and_make_turns() -> None:
    turns = read_ssml('A <prosody rate="80%">b <prosody rate="+50%">c</prosody></prosody>. D').turns
    said = [(turn.text.strip(), round(turn.speed, 3)) for turn in turns]
    assert said == [("A", 1), ("b", 0.8), ("c", 1.2), (". D", 1)]
    turns = read_ssml('Now <prosody rate="slow">slowly</prosody>.').turns
    assert [(turn.text, turn.speed) for turn in turns] == [("Now ", 1.0), ("slowly.", 0.8)]


def test_voices_are_speakers_and_nest() -> None:
    turns = read_ssml('<voice name="isabella">Hi <voice name="daniel">yes</voice> so</voice> end').turns
    assert [(turn.text.strip(), turn.speaker) for turn in turns] == [
        ("Hi", "isabella"),
        ("yes", "daniel"),
        ("so", "isabella"),
        ("end", None),
    ]


def test_sub_say_as_and_phoneme_become_text() -> None:
    assert only('<sub alias="World Wide Web">WWW</sub> it') == "World Wide Web it"
    assert only('Say <phoneme alphabet="ipa" ph="dʒˈɪf">gif</phoneme>.') == "Say [gif](/dʒˈɪf/)."
    assert only('<say-as interpret-as="characters">B2B</say-as>') == "B 2 B"


@pytest.mark.parametrize(
    ("text", "kind", "form", "spoken"),
    [
        ("USB-C", "characters", "", "U S B dash C"),
        ("1984", "digits", "", "one nine eight four"),
        ("555-0123", "telephone", "", "five five five, zero one two three"),
        ("1999", "cardinal", "", "one thousand nine hundred ninety nine"),
        ("22", "ordinal", "", "twenty second"),
        ("12", "ordinal", "", "twelfth"),
        ("3/4/2024", "date", "mdy", "March fourth, twenty twenty four"),
        ("3/4/2024", "date", "dmy", "April third, twenty twenty four"),
        ("2024-05-06", "date", "", "May sixth, twenty twenty four"),
        ("5-1999", "date", "my", "May nineteen ninety nine"),
    ],
)
def test_say_as(text: str, kind: str, form: str, spoken: str) -> None:
    said = say_as(text, kind, form)
    assert said is not None and normalize(said) == spoken


def test_a_letter_a_by_name_is_no_article() -> None:
    said = say_as("A", "characters")
    assert said is not None and list(found(said)) == [("A", "ˈA")]


def test_paragraphs_and_sentences_end_sentences() -> None:
    text = only("<p><s>One</s><s>two</s></p><p>Three</p>")
    assert split_sentences(text.replace("[pause:0.5s]", "")) == ["One", "two", "Three"]
    assert text.count("[pause:0.5s]") == 1 and not text.endswith("]")


def test_what_is_unknown_is_named_and_never_spoken() -> None:
    document = read_ssml(
        'Hi <audio src="x.wav">no</audio><emphasis>you</emphasis><evil:x>secret</evil:x> '
        '<prosody pitch="high">ok</prosody>'
    )
    spoken = "".join(turn.text for turn in document.turns)
    assert "you" in spoken and "ok" in spoken and "secret" not in spoken and "no" not in spoken
    assert [note.split(" is ")[0] for note in document.notes] == [
        "SSML: <audio>",
        "SSML: <emphasis>",
        "SSML: <x>",
        "SSML: prosody pitch",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('<!DOCTYPE speak [<!ENTITY a "b">]><speak>&a;</speak>', "not valid XML"),
        ('<?xml version="1.0"?><!DOCTYPE speak [<!ENTITY a "b">]><speak>&a;</speak>', "declares a document type"),
        (
            '<?xml version="1.0"?><!DOCTYPE speak SYSTEM "file:///etc/passwd"><speak>&b;</speak>',
            "declares a document type",
        ),
        ("<speak>a < b</speak>", "not valid XML"),
        ("<?xml version='1.0'?><html>x</html>", "expected <speak>"),
        ('a<break time="11s"/>', "break time"),
        ('a<break time="soon"/>', "break time"),
        ('<break strength="huge"/>', "break strength"),
        ('<prosody rate="0%">a</prosody>', "prosody rate"),
        ('<phoneme ph="ʤˈyf">gif</phoneme>', "is no phoneme"),
        ('<phoneme alphabet="x-sampa" ph="a">gif</phoneme>', "alphabet"),
        ("<sub>WWW</sub>", "alias"),
        ("<p>" * 60 + "a" + "</p>" * 60, "nested"),
    ],
)
def test_what_is_refused(text: str, shown: str) -> None:
    with pytest.raises(SoundloomError, match="SSML") as caught:
        read_ssml(text)
    assert shown in str(caught.value) and "\n" not in str(caught.value)


def test_phonemes_in_a_text_are_spoken_as_given() -> None:
    text = "Say [gif](/dʒˈɪf/)'s name, [about](/about/) it."
    assert (
        without_phonemes(text) == "Say gif's name, [about](/about/) it."
        and normalize(text) == "Say gif's name, about it."
    )
    bare, phonemes = take_out(text, ENGLISH.alphabet)
    given = Lexicon(phonemes)
    symbols = pronounce(normalize(bare), Lexicon({"say": "sˈA"}), given=given)
    assert ENGLISH.alphabet.readable(symbols) == "sˈA ʤˈɪfs <name>, <about> <it>."
