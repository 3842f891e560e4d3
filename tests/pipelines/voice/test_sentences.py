"""Cutting a text: sentences, clauses, words, pauses; and what cannot be spoken is listed, never lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codec.errors import SoundloomError
from lm.text.languages import DEFAULT
from pipelines.voice.sentences import Cutter, Script, describe_skipped

LONG = "Hello there. " + "Word" + " word" * 5000 + ". Goodbye."


def encode(text: str) -> list[int]:
    """One id for each character that is spoken."""
    ids = [ord(c) for c in text if c.isascii()]
    if not any(chr(i).isalnum() for i in ids):
        raise SoundloomError(f"nothing to speak in {text!r}")
    return ids


def cutter(longest: float = 20.0) -> Cutter:
    """One second for each character."""
    return Cutter(encode, float, longest, pause=0.3)


def texts(script: Script) -> list[str]:
    return [piece.text for piece in script.pieces]


def test_long_sentences_are_cut_at_clauses_and_then_at_words() -> None:
    script = cutter().cut("One two, three four; five six seven. Eight.")
    assert texts(script) == ["One two, three four;", "five six seven.", "Eight."]
    assert [piece.pause for piece in script.pieces] == pytest.approx([0.1, 0.3, 0.0])
    assert [list(piece.ids) for piece in script.pieces] == [encode(piece.text) for piece in script.pieces]
    assert texts(cutter().cut("one two three four five six seven")) == ["one two three four", "five six seven"]
    assert texts(cutter().cut("a " + "b" * 30 + " c")) == ["a", "b" * 30, "c"]
    assert texts(cutter().cut("Hello. ... !!! World.")) == ["Hello.", "World."]


def test_each_text_is_encoded_once() -> None:
    seen: list[str] = []

    def spy(text: str) -> list[int]:
        seen.append(text)
        return encode(text)

    script = Cutter(spy, float, 20.0).cut("Hello world. How are you?")
    assert seen == texts(script) == ["Hello world.", "How are you?"]
    seen.clear()
    Cutter(spy, float, 20.0).cut("One two, three four; five six seven. Eight.")
    assert len(seen) == len(set(seen))


def test_a_sentence_too_long_to_encode_is_cut_and_spoken_whole() -> None:
    script = cutter(longest=200.0).cut(LONG)
    assert " ".join(texts(script)) == LONG and not script.skipped
    assert all(len(piece.text) <= 200 for piece in script.pieces)


def test_sentences_and_words_are_those_of_the_language() -> None:
    other = replace(
        DEFAULT, name="Pepnø", split_sentences=lambda text: text.split("|"), normalize=lambda text, is_word=None: text
    )
    script = replace(cutter(), language=other).cut("One. Two|5€")
    assert texts(script) == ["One. Two", "5€"] and not script.skipped
    with pytest.raises(SoundloomError, match="expected Pepnø words"):
        replace(cutter(), language=other).cut("Привет.")


def test_what_cannot_be_spoken_is_listed() -> None:
    script = cutter(100.0).cut("Hello there. Привет, мир. I said Да! ♪♫ Goodbye.")
    assert texts(script) == ["Hello there.", "I said Да!", "♪♫ Goodbye."]
    assert script.skipped == ("Привет, мир.", "Да!", "♪♫")
    line = describe_skipped(script.skipped)
    assert "3 parts" in line and "'Привет, мир.'" in line and "\n" not in line
    assert describe_skipped(["ж\x1b[31m" + "ж" * 500]).isprintable()
    for text in ("It costs €5 - “naïve” café… ½ of 5°; x²!", "Hello --- *** ... world."):
        assert not cutter(100.0).cut(text).skipped
    with pytest.raises(SoundloomError, match=r"2 parts of the text cannot be spoken.*'Да!'"):
        cutter(100.0).cut("Yes Да! Нет.", strict=True)
    assert cutter(100.0).cut("Word " + "好" * 25_000 + " word.").skipped == ("好" * 25_000,)
    with pytest.raises(SoundloomError, match="nothing to speak"):
        cutter().cut("Привет.")


def test_pauses_in_the_text() -> None:
    script = cutter(100.0).cut("[pause:1s]Hello [pause:0.5s] [Pause: 250ms]world. Yes. No.[pause:2s]")
    assert script.lead == 1.0 and texts(script) == ["Hello", "world.", "Yes.", "No."]
    assert [piece.pause for piece in script.pieces] == [0.75, 0.3, 0.3, 2.0]
    for tag in ("[pause:]", "[pause:11s]", "[pause:1]", "[pause:-1s]", "[pause:nans]"):
        with pytest.raises(SoundloomError, match="expected 0 to 10 seconds"):
            cutter().cut(f"Hello {tag} world")
    with pytest.raises(SoundloomError, match="more than 600 s"):
        cutter().cut("Hello " + "[pause:10s]" * 61)


def test_bad_texts() -> None:
    for text, message in (("", "empty"), (" \n", "empty"), ("word " * 20_000, "characters"), (b"hi", "a bytes")):
        with pytest.raises(SoundloomError, match=message):
            cutter().cut(text)  # type: ignore[arg-type]
    with pytest.raises(SoundloomError, match="one word takes too long"):
        cutter().cut("Hello " + "x" * 3000)
    with pytest.raises(SoundloomError, match="one word takes too long"):
        cutter().cut("Hello " + "x" * 30_000)
