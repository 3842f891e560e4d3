"""Text on its way into a language model: a spoken form, its pronunciation, its ids.

    "Dr. Smith paid $5."  --normalize-->  "Doctor Smith paid five dollars."  --pronounce-->  phonemes  --encode-->  ids

Words that the lexicon does not know stay spelled. While a model trains, known words are spelled at random too
(`spell_probability`), so that it learns to read the rest (representation mixing, Kastner et al. 2019).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import sentencepiece

from codec.common.checked import read_json
from codec.common.files import TEXT_MODEL_BYTES, read_bytes, sha256_bytes, write_bytes, write_text
from codec.errors import SoundloomError, quoted
from lm.text.inline import take_out
from lm.text.language import Language
from lm.text.languages import DEFAULT, is_lexicon_name, language, shipped_lexicon
from lm.text.lexicon import Lexicon, load_lexicon

__all__ = ["NothingToSpeak", "TextTokenizer", "normalize", "pronounce", "split_sentences"]

FORMAT = "soundloom-text-1"
MAX_CHARACTERS = 20_000
MOST_IDS = 100_000
MODEL_FILE, SETTINGS_FILE, LEXICON_FILE = "text.model", "text.json", "lexicon.tsv.gz"
OWN_LEXICON = "the language's own"

#: of the language that is meant where none is named
normalize, split_sentences = DEFAULT.normalize, DEFAULT.split_sentences


class NothingToSpeak(SoundloomError):
    """A text in which the language can say nothing."""


class Random(Protocol):
    """What spells words at random: `random.Random` and numpy's Generator both fit."""

    def random(self) -> float: ...


def _say(word: str, lexicons: Sequence[Lexicon], before_vowel: bool) -> str | None:
    """Return the phonemes of a word; of a hyphenated one as a whole, or part by part if every part is known."""
    for lexicon in lexicons:
        whole = lexicon.lookup(word, before_vowel)
        if whole is not None:
            return whole
    if "-" not in word:
        return None
    parts = [_say(part, lexicons, False) for part in word.split("-")]
    return None if None in parts else "-".join(part for part in parts if part)


@lru_cache(maxsize=16)
def _pieces(language: Language) -> re.Pattern[str]:
    """What normalised text consists of: words, and marks between them."""
    alphabet = language.alphabet
    return re.compile(f"(?P<word>{alphabet.word})|(?P<mark>[^{alphabet.letter_class}'])")


def pronounce(
    text: str,
    lexicon: Lexicon | None,
    spell_probability: float = 0.0,
    rng: Random | None = None,
    language: Language = DEFAULT,
    given: Lexicon | None = None,
) -> str:
    """Return normalised text as a string of tokenizer symbols (`lm.text.language.Alphabet.symbols`).

    Each known word is spelled with probability ``spell_probability`` (then ``rng`` is needed); unknown ones always.
    ``given``: words whose phonemes the text itself gives; they are never spelled.
    """
    alphabet = language.alphabet
    known = [] if given is None else [given]
    lexicons = known if lexicon is None else [*known, lexicon]
    vowels = set(alphabet.vowels)
    out: list[str] = []
    next_phonemes = ""
    matches = [*_pieces(language).finditer(text)]
    words = [match[0] for match in matches if match[0] != " "]
    place = len(words)
    # From right to left, because "the" and "to" sound as the next word begins.
    for match in reversed(matches):
        place -= match[0] != " "
        word, mark = match["word"], match["mark"]
        if mark is not None:
            out.append(mark if mark in alphabet.punctuation or mark == " " else "")
            next_phonemes = next_phonemes if mark == " " else ""
            continue
        spelled = lexicon is None or (spell_probability > 0 and rng is not None and rng.random() < spell_probability)
        before_vowel = next_phonemes.lstrip(alphabet.stress)[:1] in vowels
        phonemes = _say(word, lexicons, before_vowel)
        if lexicon is not None and language.homograph is not None and not lexicon.is_fixed(word):
            phonemes = phonemes and (language.homograph(words, place) or phonemes)
        own = given is not None and _say(word, known, False) is not None
        if phonemes is None or (spelled and not own):
            out.append("-".join(alphabet.spell(part) for part in word.split("-")))
        else:
            out.append("-".join(alphabet.to_symbols(part) for part in phonemes.split("-")))
        next_phonemes = phonemes or ""
    return "".join(reversed(out))


class TextTokenizer:
    """Text to ids: normalisation, pronunciation by a lexicon (or none: letters), SentencePiece."""

    def __init__(
        self,
        model: bytes,
        lexicon: Lexicon | None,
        lexicon_name: str | None,
        lexicon_sha256: str | None,
        language: Language = DEFAULT,
    ) -> None:
        """Use `train` or `from_pretrained`. Raises: SoundloomError where ``model`` is no SentencePiece model."""
        self._model = model
        self._lexicon = lexicon
        self._lexicon_name = lexicon_name
        self._lexicon_sha256 = lexicon_sha256
        self.language = language
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
            good = (
                self._pieces.pad_id() == 0 and self._pieces.unk_id() == 1 and 2 < self._pieces.vocab_size() <= MOST_IDS
            )
        except (RuntimeError, TypeError) as error:
            raise SoundloomError(f"{MODEL_FILE}: not a SentencePiece model ({error})") from error
        if not good:
            raise SoundloomError(f"{MODEL_FILE}: a SentencePiece model, but not one that soundloom made")

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding and unknown included."""
        return self._pieces.vocab_size()

    @property
    def pad_id(self) -> int:
        """The id that fills up a batch."""
        return self._pieces.pad_id()

    @property
    def lexicon(self) -> Lexicon | None:
        """The pronunciations in use, None where words are spelled."""
        return self._lexicon

    def with_words(self, words: Lexicon) -> TextTokenizer:
        """Return a tokenizer that takes these pronunciations before the lexicon's own, in any case unless given."""
        own = self._lexicon or Lexicon({}, language=self.language)
        lower = {word.lower(): phonemes for word, phonemes in words.words.items()}
        before = {word: phonemes for word, phonemes in own.before_vowel.items() if word.lower() not in lower}
        fixed = own.fixed | lower.keys()
        merged = Lexicon(own.words | lower | words.words, before | words.before_vowel, self.language, fixed)
        return TextTokenizer(self._model, merged, LEXICON_FILE, _digest(merged), self.language)

    def pronounce(self, text: str, spell_probability: float = 0.0, rng: Random | None = None) -> str:
        """Return the symbols that `encode` turns into ids.

        Raises: SoundloomError where ``text`` is longer than 20,000 characters; `NothingToSpeak`.
        """
        if len(text) > MAX_CHARACTERS:
            raise SoundloomError(
                f"a text of {len(text)} characters is too long to encode at once (at most {MAX_CHARACTERS}); "
                "cut it with split_sentences"
            )
        if spell_probability > 0 and rng is None:
            raise ValueError("spell_probability needs an rng, so that the caller decides which words are spelled")
        text, phonemes = take_out(text, self.language.alphabet)
        given = Lexicon(phonemes, language=self.language) if phonemes else None
        spoken = self.language.normalize(text)
        symbols = pronounce(spoken, self._lexicon, spell_probability, rng, self.language, given)
        if not symbols.strip(self.language.alphabet.punctuation + " "):
            raise NothingToSpeak(
                f"nothing to speak in the text {quoted(text)}: expected {self.language.name} words or numbers"
            )
        return symbols

    def encode(self, text: str, spell_probability: float = 0.0, rng: Random | None = None) -> list[int]:
        """Return the ids of a text as people write it; known words are spelled with ``spell_probability`` by ``rng``.

        Raises: SoundloomError where ``text`` is longer than 20,000 characters; `NothingToSpeak`.
        """
        symbols = self.pronounce(text, spell_probability, rng)
        unknown = self._pieces.unk_id()
        return [i for i in self._pieces.EncodeAsIds(symbols) if i != unknown]

    def piece(self, unit: int) -> str:
        """Return one id's piece as the model has it: ``▁`` stands for a space."""
        return str(self._pieces.IdToPiece(unit))

    def decode(self, ids: Sequence[int]) -> str:
        """Return what the ids say, readable: phonemes with stress marks, spelled words as ``<word>``, no padding.

        Raises: SoundloomError where an id is outside the vocabulary.
        """
        bad = [i for i in ids if not 0 <= i < self.vocab_size]
        if bad:
            raise SoundloomError(f"text id {bad[0]} is outside the vocabulary of {self.vocab_size}")
        special = (self.pad_id, self._pieces.unk_id())
        pieces = "".join(self._pieces.IdToPiece(int(i)) for i in ids if i not in special)
        return self.language.alphabet.readable(pieces.replace("▁", " "))

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        folder: str | Path,
        vocab_size: int | None = None,
        model_type: str = "char",
        lexicon: str | Path | None = OWN_LEXICON,
        language: Language = DEFAULT,
    ) -> TextTokenizer:
        """Make a tokenizer from texts, write it to ``folder`` and return it; the same texts give the same bytes.

        Every symbol has an id whatever the texts hold. ``vocab_size`` is for ``unigram`` and ``bpe`` (512 by default);
        a ``char`` model has as many ids as there are symbols. ``lexicon``: a shipped one's name, a file, or None for
        letters; by default the language's own.
        """
        symbols = language.alphabet.symbols
        if model_type not in ("char", "unigram", "bpe"):
            raise SoundloomError(f"model_type is {model_type!r}; expected char, unigram or bpe")
        if model_type == "char" and vocab_size is not None and vocab_size < len(symbols) + 2:
            raise SoundloomError(f"vocab_size is {vocab_size}; a char model needs {len(symbols) + 2} ids, or None")
        words, name, sha256 = _open_lexicon(language.lexicon if lexicon == OWN_LEXICON else lexicon, language)
        spoken = [language.normalize(text) for text in texts]
        lines = [line for line in (pronounce(text, words, language=language) for text in spoken) if line.strip()]
        if model_type != "char" and words is not None:
            # Some texts spelled as well: merged units are for unknown words too.
            letters = (pronounce(text, None, language=language) for text in spoken[::10])
            lines += [line for line in letters if line.strip()]
        if not lines:
            raise SoundloomError("no text to train a tokenizer from: every text is empty once normalised")
        size = len(symbols) + 2 if model_type == "char" else (vocab_size or 512)
        buffer = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=iter(lines),
                model_writer=buffer,
                model_type=model_type,
                vocab_size=size,
                required_chars=symbols.replace(" ", ""),
                character_coverage=1.0,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                max_sentence_length=MAX_CHARACTERS * 4,
                hard_vocab_limit=False,
                pad_id=0,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise SoundloomError(f"SentencePiece cannot make a {model_type} model of {size} ids: {error}") from error
        tokenizer = cls(buffer.getvalue(), words, name, sha256, language)
        tokenizer.save_pretrained(folder)
        return tokenizer

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``text.model``, ``text.json`` and, where the lexicon is not a shipped one, the lexicon itself."""
        folder = Path(folder)
        settings = {
            "format": FORMAT,
            "language": self.language.code,
            "pronunciation": self._lexicon_name,
            "lexicon_sha256": self._lexicon_sha256,
            "model_sha256": sha256_bytes(self._model),
            "vocab_size": self.vocab_size,
        }
        if self._lexicon is not None and self._lexicon_name == LEXICON_FILE:
            write_bytes(folder / LEXICON_FILE, self._lexicon.dumps())
        write_bytes(folder / MODEL_FILE, self._model)
        write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TextTokenizer:
        """Open a tokenizer that `save_pretrained` wrote.

        Raises: SoundloomError where a file is missing or is not what ``text.json`` says.
        Warns where the shipped lexicon has changed since: words may then be pronounced otherwise than in training.
        """
        folder = Path(folder)
        settings = _read_settings(folder / SETTINGS_FILE)
        model = read_bytes(folder / MODEL_FILE, TEXT_MODEL_BYTES)
        if sha256_bytes(model) != settings["model_sha256"]:
            raise SoundloomError(f"{folder / MODEL_FILE}: damaged, its sha256 is not the one in {SETTINGS_FILE}")
        name, spoken = settings["pronunciation"], language(settings["language"] or DEFAULT.code)
        words, name, sha256 = _open_lexicon(folder / LEXICON_FILE if name == LEXICON_FILE else name, spoken)
        if sha256 != settings["lexicon_sha256"]:
            warnings.warn(
                f"{folder}: the lexicon {name} is not the one of training; words may sound unlike", stacklevel=2
            )
        return cls(model, words, name, sha256, spoken)


def _open_lexicon(source: str | Path | None, language: Language) -> tuple[Lexicon | None, str | None, str | None]:
    """Return a lexicon, the name that text.json holds for it, and the SHA-256 of what it says."""
    if source is None:
        return None, None, None
    shipped = isinstance(source, str) and shipped_lexicon(source) is not None
    words = load_lexicon(source, language.code)
    return words, str(source) if shipped else LEXICON_FILE, _digest(words)


def _digest(words: Lexicon) -> str:
    """Return the SHA-256 of a lexicon's content, not of its file: another zlib packs the same words otherwise."""
    digest = hashlib.sha256()
    for word in sorted(words.words):
        digest.update(f"{word}\t{words.words[word]}\t{words.before_vowel.get(word, '')}\n".encode())
    return digest.hexdigest()


def _read_settings(path: Path) -> dict[str, str | None]:
    """Read text.json, checked field by field."""
    settings = read_json(path)
    if settings.get("format") != FORMAT:
        raise SoundloomError(f'{path}: expected the settings of a text tokenizer, with "format": "{FORMAT}"')
    name, code = settings.get("pronunciation"), settings.get("language")
    if name is not None and name != LEXICON_FILE and not is_lexicon_name(name):
        raise SoundloomError(
            f'{path}: "pronunciation" is {quoted(name)}; expected null, "{DEFAULT.lexicon}" or "{LEXICON_FILE}"'
        )
    if code is not None and not isinstance(code, str):
        raise SoundloomError(f'{path}: "language" is {quoted(code)}; expected a code such as "{DEFAULT.code}"')
    keys = ("language", "pronunciation", "lexicon_sha256", "model_sha256")
    return {key: settings.get(key) for key in keys}
