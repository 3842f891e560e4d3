# ruff: noqa: RUF001 - phonemes and letters of other languages
"""A language is a folder and a row: a second, tiny one, and no English outside of English."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lm
from codec.errors import SoundloomError
from lm.text.language import Alphabet, Language
from lm.text.languages import DEFAULT, LANGUAGES, is_lexicon_name, language, shipped_lexicon
from lm.text.lexicon import Lexicon, load_lexicon
from lm.text.tokenizer import NothingToSpeak, TextTokenizer

NUMBERS = {"1": "ën", "2": "tø"}


def normalize(text: str, is_word: Callable[[str], bool] | None = None) -> str:
    words = re.sub("[12]", lambda m: f" {NUMBERS[m[0]]} ", text.lower())
    return " ".join(re.sub("[^aeøëmnptk.? ]", " ", words).split()).replace(" ?", "?")


def derive(word: str, find: Callable[[str], str | None]) -> str | None:
    """Plurals: an n at the end."""
    base = find(word[:-1]) if word.endswith("n") else None
    return base and base + "n"


@pytest.fixture
def pepnø(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Language]:
    """The language of Pepnø: ten letters, five vowels, numbers up to two."""
    folder = tmp_path / "pepnø"
    (folder / "lexicons").mkdir(parents=True)
    (folder / "lexicons" / "px-pe.tsv.gz").write_text("pøt\tpˈœt\ntakë\ttˈakə\nën\tˈen\n", encoding="utf-8")
    made = Language(
        "px",
        "Pepnø",
        Alphabet("aeøëmnptk", "aeœəi", "mnptk", stress="ˈ", punctuation=".?"),
        normalize,
        lambda text: [part.strip() + "." for part in text.split(".") if part.strip()],
        folder,
        "px-pe",
        derive,
    )
    monkeypatch.setitem(LANGUAGES, "px", made)
    yield made


def test_a_second_language_is_a_folder_and_a_row(pepnø: Language, tmp_path: Path) -> None:
    TextTokenizer.train(["Pøt takë 1.", "Takë?"], tmp_path / "t", language=pepnø)
    tokenizer = TextTokenizer.from_pretrained(tmp_path / "t")
    assert tokenizer.language is pepnø and tokenizer.lexicon is not None
    assert tokenizer.vocab_size == len(pepnø.alphabet.symbols) + 2
    assert tokenizer.decode(tokenizer.encode("Pøtn takë: 1, 2?")) == "pˈœtn tˈakə ˈen <tø>?"
    with pytest.raises(NothingToSpeak, match="expected Pepnø words"):
        tokenizer.encode("xyz")
    assert shipped_lexicon("px-pe") and load_lexicon(None, "px") is tokenizer.lexicon
    with pytest.raises(SoundloomError, match="Pepnø has none of this name"):
        TextTokenizer.train(["Pøt"], tmp_path / "u", lexicon="en-us", language=pepnø)


def test_a_folder_of_a_language_that_is_not_here_is_refused(pepnø: Language, tmp_path: Path) -> None:
    TextTokenizer.train(["Pøt"], tmp_path / "t", language=pepnø)
    del LANGUAGES["px"]
    with pytest.raises(SoundloomError, match="language 'px': unknown; expected one of en"):
        TextTokenizer.from_pretrained(tmp_path / "t")
    with pytest.raises(SoundloomError, match="unknown"):
        language("px\x1b" * 999)


@pytest.mark.parametrize("code", list(LANGUAGES))
def test_every_language_keeps_the_contract(code: str) -> None:
    spoken = language(code)
    assert spoken.code == code
    symbols = spoken.alphabet.symbols
    assert len(set(symbols)) == len(symbols)
    if spoken.lexicon is not None:
        assert is_lexicon_name(spoken.lexicon) and shipped_lexicon(spoken.lexicon)
    for text in ("", "\x00😀", "A. b! C?", "1" * 50):
        said = spoken.normalize(text)
        assert spoken.normalize(said) == said
        assert not re.search(f"[^{spoken.alphabet.letter_class}' {re.escape(spoken.alphabet.punctuation)}]", said)


def test_english_is_named_by_its_own_folder_and_its_row_alone() -> None:
    root = Path(str(lm.__file__)).parent
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "english" in path.parts:
            continue
        assert "A-Za-z" not in text, path
        assert "lm.text.english" not in text or path.name == "languages.py", path
        assert not re.search(r"English|en-us", text.split("from __future__")[-1]) or path.name in (
            "languages.py",
            "language.py",
        ), path


def test_letters_of_any_script_are_symbols_of_their_own() -> None:
    alphabet = Alphabet("aßäяж", "a", "b")
    spelled = alphabet.spell("Жaßä")
    assert len(set(spelled)) == 4 and alphabet.readable(spelled) == "<жaßä>"
    assert re.fullmatch(alphabet.word, "Äжß-Я") and not re.fullmatch(alphabet.word, "xyz")
    assert DEFAULT.alphabet.spell("az") == "ａｚ"


BOMBS = {
    "newlines": b"\n" * (8 << 20),
    "words": b"".join(b"a" * (i % 9 + 1) + b"\tA\n" for i in range(6000)),
    "one line": b"a\t" + b"A" * (8 << 20),
    "a long pronunciation": b"hello\t" + b"A" * 1000 + b"\n",
    "a long word": b"a" * 300 + b"\tA\n",
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_lexicons_are_bounded(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm.text.lexicon.MOST_LINES", 5000)
    path = tmp_path / "bomb.tsv.gz"
    path.write_bytes(gzip.compress(BOMBS[kind], 1))
    tracemalloc.start()
    with pytest.raises(SoundloomError, match=r"bomb\.tsv\.gz") as caught:
        Lexicon.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20 and len(str(caught.value)) < 400  # the packed bytes alone would be 8 MiB
