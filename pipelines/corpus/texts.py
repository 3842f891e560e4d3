"""Sentences to speak, from the kinds of text that people have at hand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from codec.common.files import read_packed
from codec.errors import SoundloomError
from lm.text.tokenizer import split_sentences

MIN_WORDS, MAX_WORDS = 2, 30
_MOST_BYTES = 1 << 30
_CLOSERS = ".?!\"')\u201d\u2019"
_PLAIN = re.compile(r"[a-z][a-z ,'-]*")
_SPOKEN = re.compile(r"[A-Za-z][A-Za-z ,'.!?-]*")
_DEFINITIONS = ("{word}: {definition}.", "{word} means {definition}.", "{definition}, that is {word}.", "{definition}.")
_JOINS = (", and ", ", but ", ", so ", "; ", ", while ", ", because ")
_QUOTED = re.compile(r'"([^"]+)"')


def text_id(text: str) -> str:
    """Return the name of a text wherever it goes: 16 hex digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def wordnet_examples(folder: Path) -> list[str]:
    """Return the quoted examples of WordNet's ``data.*`` files, each once, of 2 to 30 words."""
    texts: dict[str, None] = {}
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            # Two spaces open a line of the licence; the gloss follows the bar.
            if line.startswith("  ") or "|" not in line:
                continue
            for quoted in _QUOTED.findall(line.split("|", 1)[1]):
                text = " ".join(quoted.split()).strip(" ;,")
                if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
                    texts[text] = None
    return list(texts)


def wordnet_definitions(folder: Path) -> list[str]:
    """Return WordNet's definitions as sentences that mostly name their word, each once, of 8 to 30 words."""
    texts: dict[str, None] = {}
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.startswith("  ") or "|" not in line:
                continue
            fields, gloss = line.split("|", 1)
            word = fields.split()[4].replace("_", " ")
            definition = gloss.split(";", 1)[0].strip()
            # What has digits, brackets or quotes is often a formula or a note, not a sentence.
            if not _PLAIN.fullmatch(word) or not _PLAIN.fullmatch(definition):
                continue
            text = _DEFINITIONS[_choice(definition, len(_DEFINITIONS))].format(word=word, definition=definition)
            if 8 <= len(text.split()) <= MAX_WORDS:
                texts[text[0].upper() + text[1:]] = None
    return list(texts)


def pairs(texts: list[str], allowed: Callable[[str], bool]) -> list[str]:
    """Join two short sentences to one of 10 to 30 words; what has a `text_id` that is not allowed is left out.

    A voice that learns from short sentences alone stumbles in long ones. With ``allowed`` true for training ids only,
    no sentence of an evaluation gets into the training by way of a pair.
    """
    usable = [t.rstrip(" .!?;,") for t in texts if allowed(text_id(t)) and len(t.split()) >= 4 and _SPOKEN.fullmatch(t)]
    usable.sort(key=text_id)
    found: dict[str, None] = {}
    for first, second in zip(usable[::2], usable[1::2], strict=False):
        words = second.split(" ", 1)
        keep = words[0] == "I" or words[0].startswith("I'") or words[0][1:] != words[0][1:].lower()
        text = first[0].upper() + first[1:] + _JOINS[_choice(first, len(_JOINS))]
        text += (second if keep else second[0].lower() + second[1:]) + "."
        if 10 <= len(text.split()) <= MAX_WORDS and allowed(text_id(text)):
            found[text] = None
    return list(found)


def _choice(key: str, count: int) -> int:
    """Return a number under ``count`` that follows from the text: the same texts always give the same corpus."""
    return int(text_id(key), 16) % count


def file_sentences(path: Path) -> list[str]:
    """Return the sentences of a plain or gzipped text file, each once, of 1 to 30 words.

    A blank line ends a sentence; a line alone does where the file has one sentence a line.
    """
    text = read_packed(path, _MOST_BYTES).decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.split("\n")]
    filled = [line for line in lines if line]
    # One sentence a line, or prose wrapped at a margin? Prose breaks off in mid-sentence nearly everywhere; but where
    # it would have no end for 40 words and more, it is a list whose sentences have no full stops.
    ended = sum(line[-1] in _CLOSERS for line in filled)
    wrapped = len(filled) > 20 and ended < len(filled) / 2 and any(len(line) > 60 for line in filled)
    wrapped = wrapped and len(text.split()) <= 40 * len(split_sentences(text))
    chunks = [text] if wrapped else filled
    texts = dict.fromkeys(s for chunk in chunks for s in split_sentences(chunk))
    return [text for text in texts if len(text.split()) <= MAX_WORDS]


def read_texts(source: str | Path, kind: str = "examples") -> list[str]:
    """Return the sentences of a text file, or of a folder: WordNet's ``data.*`` files, else its ``*.txt`` files.

    ``kind`` chooses what is taken from WordNet: ``examples`` or ``definitions``.

    Raises:
        SoundloomError: there is no such file or folder, or nothing to speak in it.
    """
    source = Path(source)
    if source.is_file():
        texts = file_sentences(source)
    elif source.is_dir() and any(source.glob("data.*")):
        texts = wordnet_definitions(source) if kind == "definitions" else wordnet_examples(source)
    elif source.is_dir():
        texts = list(dict.fromkeys(t for path in sorted(source.rglob("*.txt")) for t in file_sentences(path)))
    else:
        raise SoundloomError(f"{source}: no such text file or folder")
    if not texts:
        raise SoundloomError(f"{source}: no sentence found; expected a text file or a WordNet folder with data.* files")
    return texts
