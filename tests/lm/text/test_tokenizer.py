# ruff: noqa: RUF001, SIM905 - phonemes and odd text
"""Text: the spoken form, sentences, pronunciations, and the tokenizer over them."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import SoundloomError
from lm.text.english.markup import plain
from lm.text.languages import DEFAULT
from lm.text.lexicon import Lexicon, load_lexicon
from lm.text.tokenizer import TextTokenizer, normalize, pronounce, split_sentences

ALPHABET = DEFAULT.alphabet
SYMBOLS, PHONEMES, STRESS = ALPHABET.symbols, ALPHABET.phonemes, ALPHABET.stress
clean_phonemes, readable, spell, to_symbols = ALPHABET.clean, ALPHABET.readable, ALPHABET.spell, ALPHABET.to_symbols
TEXTS = ["The cat sat on a mat.", "Dr. Smith paid $5.50, didn't he?", "An apple: to eat; to go!"]
SPOKEN = re.compile(r"(?:'?[A-Za-z]+(?:['-][A-Za-z]+)*'?[.,?!;:]?(?: |$))*")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer.train(TEXTS, tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        (
            "Dr. Smith paid $5.50 for 3 lbs. of fish.",
            "Doctor Smith paid five dollars and fifty cents for three pounds of fish.",
        ),
        ("In 1984, 1,250 people", "In nineteen eighty four, one thousand two hundred fifty people"),
        ("the 21st, 0.5% and 1.74", "the twenty first, zero point five percent and one point seven four"),
        ("Meet at 7:30 pm or 9:05.", "Meet at seven thirty P M or nine oh five."),
        ("until 3:00 or 4:00 a.m.", "until three o'clock or four A M."),
        (
            "Dec. 7th, 1941 and 12/25/1999",
            "December seventh, nineteen forty one and December twenty fifth, nineteen ninety nine",
        ),
        ("2024-02-29", "February twenty ninth, twenty twenty four"),
        ("The 3rd of March", "The third of March"),
        ("the 1950s, the 1940's, the '90s", "the nineteen fifties, the nineteen forties, the nineties"),
        ("5000 ft at -5°C; 5 km/h", "five thousand feet at minus five degrees Celsius; five kilometers per hour"),
        ("£1, €20, $3.5 million, 5¢", "one pound, twenty euros, three point five million dollars, five cents"),
        ("½ cup, 2½ cups, 3/4, 1/4 lb", "one half cup, two and a half cups, three quarters, one quarter pound"),
        ("5-10 people, 1990-1995", "five to ten people, nineteen ninety to nineteen ninety five"),
        ("Henry VIII and World War II", "Henry the eighth and World War two"),
        ("call 555-1234 or 911", "call five five five, one two three four or nine one one"),
        ("No. 5 & #7", "number five and number seven"),
        ("in 200 BC", "in two hundred B C"),
        ("e.g. St. Louis vs. Main St., etc.", "for example Saint Louis versus Main Street, et cetera."),
        ("NASA, the FBI's AIDS and the US", "NASA, the F B I's AIDS and the U S"),
        ("STOP THE WAR NOW", "STOP THE WAR NOW"),
        ("J. K. Rowling", "J K Rowling"),
        ("`truth' and “justice” for ’em — don’t", "truth and justice for 'em, don't"),
        ("Wait... what?! No!!!", "Wait, what? No!"),
        ("off (or away)", "off, or away"),
        ("naïve Straße 😀 Москва 東京\tdone\n", "naive Strasse done"),
        ("A dog and vitamin A", "a dog and vitamin A"),
        ("x@y.com or www.example.com/a", "x at y dot com or example dot com slash A"),
        ("٣ apples", "three apples"),
        ("", ""),
        ("😀 … ---", ""),
    ],
)
def test_normalize_writes_what_is_said(written: str, spoken: str) -> None:
    assert normalize(written) == spoken


PIECES = st.sampled_from(
    "$ € £ % ° ' ’ ` - – — -- ... . , : / # & @ + ( ) \x00 \n \t 1 12 007 1984 3.5 1,000 ½ st th s am p.m. kg ft lb "
    "Dr. St. U.S. e.g. etc No. Jan May II VIII War Henry A I US NASA the don't 'em é ß 中 😀 ́ ²".split(" ")
)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=60), st.lists(st.one_of(PIECES, st.just(" ")), max_size=14).map("".join)))
def test_normalize_is_total_and_idempotent(text: str) -> None:
    spoken = normalize(text)
    assert SPOKEN.fullmatch(spoken), spoken
    assert normalize(spoken) == spoken


def test_normalize_is_quick_on_hostile_text() -> None:
    for text in (
        "1" * 20_000,
        "a." * 10_000,
        "1/" * 10_000,
        "--" * 10_000,
        "I" * 20_000,
        "1,000" * 4_000,
        "'" * 20_000,
    ):
        assert SPOKEN.fullmatch(normalize(text))


def test_sentences_end_where_people_end_them() -> None:
    text = 'Dr. Smith came at 5 p.m. today. "Why?" she asked. J. K. Rowling left!\n\nA new one\nin two lines'
    assert split_sentences(text) == [
        "Dr. Smith came at 5 p.m. today.",
        '"Why?" she asked.',
        "J. K. Rowling left!",
        "A new one in two lines",
    ]
    assert split_sentences(" \n ") == []


@settings(deadline=None)
@given(st.text(max_size=200))
def test_sentences_lose_no_word(text: str) -> None:
    assert " ".join(split_sentences(text)).split() == plain(text).split()


def test_symbols_are_distinct_and_reversible() -> None:
    assert len(set(SYMBOLS)) == len(SYMBOLS)
    assert not set(spell("abcdefghijklmnopqrstuvwxyz'")) & set(PHONEMES + STRESS)
    assert readable(to_symbols("həlˈO wˈɜɹld")) == "həlˈO wˈɜɹld"
    assert len(to_symbols("həlˈO")) == 4
    assert readable(spell("Xyz")) == "<xyz>"
    assert clean_phonemes("ˈhɛlˈ3ˈ") == "hˈɛl"


def test_shipped_lexicon_says_function_words_as_in_a_sentence() -> None:
    lexicon = load_lexicon()
    assert len(lexicon) > 100_000
    assert [lexicon.lookup(w) for w in ("a", "of", "to", "and", "the")] == ["ɐ", "ʌv", "tə", "ænd", "ðə"]
    assert (lexicon.lookup("the", before_vowel=True), lexicon.lookup("to", before_vowel=True)) == ("ði", "tʊ")
    assert lexicon.lookup("A") == "ˈA" and lexicon.lookup("Polish") != lexicon.lookup("polish")
    assert lexicon.lookup("LONDON") == lexicon.lookup("London") == lexicon.lookup("london")
    assert lexicon.lookup("boss's") == lexicon.lookup("boss", False) + "ᵻz"
    assert lexicon.lookup("dogs'") == lexicon.lookup("dogs")
    assert lexicon.lookup("zzyzxq") is None
    assert all(set(p) <= set(PHONEMES + STRESS + " ") for p in lexicon.words.values())


def test_lexicon_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    lexicon = Lexicon({"to": "tə", "a": "ɐ"}, {"to": "tʊ"})
    data = lexicon.dumps("who made it\nand how")
    assert data == lexicon.dumps("who made it\nand how") and data[4:8] == bytes(4)
    (tmp_path / "x.tsv.gz").write_bytes(data)
    again = Lexicon.load(tmp_path / "x.tsv.gz")
    assert (again.words, again.before_vowel) == (lexicon.words, lexicon.before_vowel)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8bbroken",
        gzip.compress(b"a\tA\n")[:-6],
        b"word\n",
        b"word\t#!\n",
        b"w\xff\tA\n",
        b"a\tA\tA\tA\n",
        b"# only\n",
    ],
)
def test_broken_lexicon_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.tsv.gz"
    path.write_bytes(data)
    with pytest.raises(SoundloomError, match=r"bad\.tsv\.gz"):
        Lexicon.load(path)


def test_pronounce_follows_the_next_word_and_spells_the_unknown() -> None:
    lexicon = load_lexicon()
    assert readable(pronounce("The apple, the pear to eat", lexicon)) == "ði ˈæpᵊl, ðə pˈɛɹ tʊ ˈit"
    # A pause parts the words: no vowel follows at once.
    assert readable(pronounce("to, eat", lexicon)) == "tə, ˈit"
    assert readable(pronounce("a zzyzxq-like Blorptag's!", lexicon)) == "ɐ <zzyzxq>-<like> <blorptag's>!"
    assert readable(pronounce("Hello there", None)) == "<hello> <there>"


def test_tokenizer_round_trip_and_padding(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("Dr. Smith sat on a zzyzxq!")
    assert all(2 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode(ids) == readable(tokenizer.pronounce("Dr. Smith sat on a zzyzxq!"))
    assert tokenizer.decode([tokenizer.pad_id, *ids, tokenizer.pad_id]) == tokenizer.decode(ids)
    assert len(ids) == len(tokenizer.pronounce("Dr. Smith sat on a zzyzxq!"))  # one unit is one symbol
    assert tokenizer.vocab_size == len(SYMBOLS) + 2


def test_every_symbol_has_an_id(tokenizer: TextTokenizer) -> None:
    assert len({tuple(tokenizer._pieces.EncodeAsIds(symbol)) for symbol in SYMBOLS}) == len(SYMBOLS)
    assert all(len(tokenizer._pieces.EncodeAsIds(symbol)) == 1 for symbol in SYMBOLS)
    assert tokenizer._pieces.unk_id() not in tokenizer._pieces.EncodeAsIds(SYMBOLS)


def test_spelling_at_random_belongs_to_the_caller(tokenizer: TextTokenizer) -> None:
    text = "the cat sat on the mat and did not go away at all"
    plain = tokenizer.encode(text)
    assert plain == tokenizer.encode(text)
    mixed = tokenizer.encode(text, 0.5, random.Random(3))
    assert mixed == tokenizer.encode(text, 0.5, random.Random(3)) != plain
    assert "<" in tokenizer.decode(mixed) and "ˈ" in tokenizer.decode(mixed)
    assert tokenizer.decode(tokenizer.encode("the cat", 1.0, random.Random(0))) == "<the> <cat>"
    with pytest.raises(ValueError, match="rng"):
        tokenizer.encode(text, 0.5)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60))
def test_encode_gives_ids_or_one_clear_error(tokenizer: TextTokenizer, text: str) -> None:
    try:
        ids = tokenizer.encode(text)
    except SoundloomError:
        return
    assert ids and all(0 < i < tokenizer.vocab_size for i in ids)
    assert "⁇" not in tokenizer.decode(ids)


def test_what_cannot_be_spoken_is_refused(tokenizer: TextTokenizer) -> None:
    for text in ("", " \n", "😀", "...", "東京"):
        with pytest.raises(SoundloomError, match="nothing to speak"):
            tokenizer.encode(text)
    with pytest.raises(SoundloomError, match="too long"):
        tokenizer.encode("a " * 20_000)
    with pytest.raises(SoundloomError, match="outside the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


@pytest.mark.parametrize("model_type", ["char", "unigram", "bpe"])
def test_training_is_deterministic_and_reopens(tmp_path: Path, model_type: str) -> None:
    texts = TEXTS * 5
    size = None if model_type == "char" else 180
    one = TextTokenizer.train(texts, tmp_path / "a", vocab_size=size, model_type=model_type)
    TextTokenizer.train(texts, tmp_path / "b", vocab_size=size, model_type=model_type)
    for name in ("text.model", "text.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = TextTokenizer.from_pretrained(tmp_path / "a")
    assert again.encode(TEXTS[1]) == one.encode(TEXTS[1])
    assert again.decode(again.encode(TEXTS[1])) == readable(again.pronounce(TEXTS[1]))
    if model_type != "char":
        assert len(again.encode(TEXTS[0])) < len(again.pronounce(TEXTS[0]))


def test_own_lexicon_travels_with_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("zzyzxq\tzˈIzəks\n", encoding="utf-8")
    TextTokenizer.train(TEXTS, tmp_path / "t", lexicon=tmp_path / "mine.tsv")
    (tmp_path / "mine.tsv").unlink()
    again = TextTokenizer.from_pretrained(tmp_path / "t")
    assert again.decode(again.encode("zzyzxq cat")) == "zˈIzəks <cat>"
    again.save_pretrained(tmp_path / "u")
    assert TextTokenizer.from_pretrained(tmp_path / "u").encode("zzyzxq") == again.encode("zzyzxq")


def test_no_lexicon_means_letters(tmp_path: Path) -> None:
    TextTokenizer.train(TEXTS, tmp_path, lexicon=None)
    again = TextTokenizer.from_pretrained(tmp_path)
    assert again.lexicon is None and again.decode(again.encode("It's 5.")) == "<it's> <five>."


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    TextTokenizer.train(TEXTS, tmp_path / "t")
    good = {name: (tmp_path / "t" / name).read_bytes() for name in ("text.model", "text.json")}
    facts = json.loads(good["text.json"])
    breakages = [
        ("text.model", good["text.model"][:-9]),
        ("text.model", b""),
        ("text.model", None),
        ("text.json", None),
        ("text.json", b"{"),
        ("text.json", b"[]"),
        ("text.json", b'{"format": "other"}'),
        ("text.json", json.dumps({**facts, "pronunciation": "../../etc/passwd"}).encode()),
        ("text.json", json.dumps({**facts, "pronunciation": "xx-yy"}).encode()),
        ("text.json", json.dumps({**facts, "pronunciation": "lexicon.tsv.gz"}).encode()),
        ("text.json", json.dumps({**facts, "model_sha256": 7}).encode()),
    ]
    for name, data in breakages:
        for other, content in good.items():
            (tmp_path / "t" / other).write_bytes(content)
        (tmp_path / "t" / name).unlink() if data is None else (tmp_path / "t" / name).write_bytes(data)
        with pytest.raises(SoundloomError):
            TextTokenizer.from_pretrained(tmp_path / "t")


def test_changed_lexicon_warns(tmp_path: Path) -> None:
    TextTokenizer.train(TEXTS, tmp_path)
    facts = json.loads((tmp_path / "text.json").read_text())
    (tmp_path / "text.json").write_text(json.dumps({**facts, "lexicon_sha256": "0" * 64}))
    with pytest.warns(UserWarning, match="lexicon"):
        TextTokenizer.from_pretrained(tmp_path)


def test_training_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match="model_type"):
        TextTokenizer.train(TEXTS, tmp_path, model_type="word")
    with pytest.raises(SoundloomError, match="no text"):
        TextTokenizer.train(["😀"], tmp_path)
    with pytest.raises(SoundloomError, match="vocab_size"):
        TextTokenizer.train(TEXTS, tmp_path, vocab_size=10)
