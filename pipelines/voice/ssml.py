# ruff: noqa: RUF001 - phonemes and quotes look like letters
"""A small subset of SSML 1.1 to turns: break, prosody rate, phoneme, sub, say-as, voice, p and s."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from xml.etree.ElementTree import Element

from codec.common.safe_xml import parse_xml
from codec.errors import SoundloomError, quoted
from lm.text.english.say_as import KINDS, say_as
from lm.text.inline import unknown_phonemes, written
from lm.text.language import Language
from lm.text.languages import DEFAULT
from pipelines.voice.sentences import MAX_PAUSE, without_tags
from pipelines.voice.turns import Turn

MAX_BYTES = 1 << 20
PARAGRAPH_PAUSE = 0.5  # seconds
_MAX_DEPTH = 40
_STRENGTHS = {"none": 0.0, "x-weak": 0.1, "weak": 0.25, "medium": 0.5, "strong": 0.8, "x-strong": 1.2}
_RATES = {"x-slow": 0.6, "slow": 0.8, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.6}
_ALPHABETS = ("", "ipa", "x-misaki")
# Elements that change nothing here, whose text is read. What is neither here nor known is left out with its text.
_TRANSPARENT = ("emphasis", "w", "token", "lang", "mark")


@dataclass
class Ssml:
    """A document read: its turns, and a line for each kind of thing that was ignored or left out."""

    turns: list[Turn]
    notes: list[str]


def is_ssml(text: str) -> bool:
    """Return whether a text is a document of SSML by its first characters."""
    return re.match(r"\s*(?:<\?xml[^>]*>\s*)?<speak[\s>]", text) is not None


def read_ssml(text: str, language: Language = DEFAULT) -> Ssml:
    """Read SSML; a text without the root element gets it.

    Raises: SoundloomError for what is no XML, declares entities, is nested too deep, or has a bad value.
    """
    whole = text.strip() if is_ssml(text) or text.lstrip().startswith("<?xml") else f"<speak>{text}</speak>"
    data = whole.encode("utf-8", "replace")
    if len(data) > MAX_BYTES:
        raise SoundloomError(f"SSML: {len(data):,} bytes; expected at most {MAX_BYTES:,}")
    root = parse_xml(re.sub(rb"^<\?xml[^>]*\?>", b"", data), "SSML", doctype=False)
    if _name(root) != "speak":
        raise SoundloomError(f"SSML: the root is <{_name(root)}>; expected <speak>")
    reader = _Reader(language)
    reader.inside(root, _Manner(), 0)
    return Ssml(_joined(reader.turns), list(reader.notes))


@dataclass(frozen=True)
class _Manner:
    speaker: str | None = None
    rate: float = 1.0


@dataclass
class _Reader:
    language: Language
    turns: list[Turn] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def inside(self, element: Element, manner: _Manner, depth: int) -> None:
        """Read an element's text and its children."""
        if depth > _MAX_DEPTH:
            raise SoundloomError(f"SSML: elements are nested more than {_MAX_DEPTH} deep")
        self.add(_spaced(element.text), manner)
        for child in element:
            name = _name(child)
            read = _ELEMENTS.get(name)
            if read is not None:
                read(self, child, manner, depth)
            elif name in _TRANSPARENT:
                self.note(f"<{name}> is ignored, its text is read")
                self.inside(child, manner, depth + 1)
            else:
                self.note(f"<{name}> is unknown and left out, with its text")
            self.add(_spaced(child.tail), manner)

    def add(self, text: str, manner: _Manner) -> None:
        """Append text to the last turn where the manner is the same."""
        if not text:
            return
        last = self.turns[-1] if self.turns else None
        if last is not None and (last.speaker, last.speed) == (manner.speaker, manner.rate):
            self.turns[-1] = replace(last, text=last.text + text)
        else:
            self.turns.append(Turn(text, manner.speaker, manner.rate))

    def note(self, text: str) -> None:
        """Keep a line about something ignored, once."""
        if len(self.notes) < 50:
            self.notes[f"SSML: {text}"] = None

    # --- elements -----------------------------------------------------------------------------------------------------

    def pause(self, element: Element, manner: _Manner, _: int) -> None:
        """``<break time="500ms"/>`` or ``strength="strong"``."""
        time, strength = element.get("time"), element.get("strength", "medium")
        if time is None and strength not in _STRENGTHS:
            raise SoundloomError(f"SSML: break strength {quoted(strength)}; expected {', '.join(_STRENGTHS)}")
        seconds = _STRENGTHS[strength] if time is None else _seconds(time)
        self.add(f"[pause:{seconds:g}s]", manner)

    def prosody(self, element: Element, manner: _Manner, depth: int) -> None:
        """``<prosody rate="80%">``; rates inside one another are multiplied."""
        for name in element.attrib:
            if name != "rate":
                self.note(f"prosody {_shown(name)} is ignored")
        self.inside(element, replace(manner, rate=manner.rate * _rate(element.get("rate", "medium"))), depth + 1)

    def phoneme(self, element: Element, manner: _Manner, depth: int) -> None:
        """``<phoneme ph="ʤˈɪf">gif</phoneme>``, in IPA or misaki's alphabet."""  # noqa: RUF002
        phonemes, alphabet = element.get("ph", "").strip(), element.get("alphabet", "")
        word = " ".join("".join(element.itertext()).split()) or "word"
        if alphabet not in _ALPHABETS:
            raise SoundloomError(f"SSML: phoneme alphabet {quoted(alphabet)}; expected ipa or x-misaki")
        unknown = unknown_phonemes(phonemes, self.language.alphabet)
        if unknown or not phonemes or phonemes.isascii() or len(phonemes) > 200:
            wrong = "expected phonemes, with ˈ before the stressed vowel"
            if unknown:
                wrong = f"{quoted(unknown)} is no phoneme of {self.language.name}"
            raise SoundloomError(f"SSML: phoneme ph={quoted(phonemes)}: {wrong}")
        self.add(written(re.sub(r"[\[\]]", "", word)[:100], phonemes), manner)

    def sub(self, element: Element, manner: _Manner, depth: int) -> None:
        """``<sub alias="World Wide Web Consortium">W3C</sub>``."""
        alias = element.get("alias")
        if alias is None:
            raise SoundloomError("SSML: a sub without alias; give what is to be read")
        self.add(_spaced(alias), manner)

    def say_as(self, element: Element, manner: _Manner, depth: int) -> None:
        """``<say-as interpret-as="characters">B2B</say-as>``."""
        text, kind = "".join(element.itertext()), element.get("interpret-as", "").lower()
        said = say_as(text, kind, element.get("format", ""))
        if said is None:
            self.note(f"say-as {_shown(kind)} is unknown, its text is read; known: {', '.join(KINDS)}")
        self.add(_spaced(text) if said is None else said, manner)

    def voice(self, element: Element, manner: _Manner, depth: int) -> None:
        """``<voice name="isabella">``."""
        name = element.get("name", "").strip()
        if not name:
            self.note("a voice without name is ignored")
        self.inside(element, replace(manner, speaker=name or manner.speaker), depth + 1)

    def block(self, element: Element, manner: _Manner, depth: int) -> None:
        """``<p>`` and ``<s>``: sentences end at both borders, and a paragraph has a pause after it."""
        before = len(self.turns), len(self.turns[-1].text) if self.turns else 0
        self.add("\n\n", manner)
        self.inside(element, manner, depth + 1)
        after = len(self.turns), len(self.turns[-1].text) if self.turns else 0
        self.add("\n\n", manner)
        if _name(element) in ("p", "paragraph") and after != before:
            self.add(f"[pause:{PARAGRAPH_PAUSE:g}s]", manner)


_ELEMENTS: dict[str, Callable[[_Reader, Element, _Manner, int], None]] = {
    "break": _Reader.pause,
    "prosody": _Reader.prosody,
    "phoneme": _Reader.phoneme,
    "sub": _Reader.sub,
    "say-as": _Reader.say_as,
    "voice": _Reader.voice,
    **dict.fromkeys(("p", "s", "paragraph", "sentence"), _Reader.block),
    "speak": lambda reader, element, manner, depth: reader.inside(element, manner, depth + 1),
}


def _joined(turns: list[Turn]) -> list[Turn]:
    """Give turns without a word, such as a full stop after a prosody, to their neighbours."""
    joined: list[Turn] = []
    lead = ""
    for turn in turns:
        if any(not (c.isspace() or c in ".,;:!?…\"'()”’-") for c in without_tags(turn.text)):
            joined.append(replace(turn, text=lead + turn.text))
            lead = ""
        elif joined:
            joined[-1] = replace(joined[-1], text=joined[-1].text + turn.text)
        else:
            lead += turn.text
    while joined and (shorter := _without_last_paragraph(joined[-1].text)) != joined[-1].text:
        joined[-1] = replace(joined[-1], text=shorter)
    return joined


def _without_last_paragraph(text: str) -> str:
    """Drop the pause after a paragraph where nothing follows it."""
    return text.rstrip().removesuffix(f"\n\n[pause:{PARAGRAPH_PAUSE:g}s]")


def _name(element: Element) -> str:
    """Return an element's name without its prefix, fit to be shown."""
    return _shown(str(element.tag).rpartition(":")[2])


def _shown(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:40]


def _spaced(text: str | None) -> str:
    """Return XML text with its white space, line breaks too, as single spaces."""
    return re.sub(r"\s+", " ", text or "")


def _seconds(time: str) -> float:
    found = re.fullmatch(r"\s*\+?(\d{0,4}(?:\.\d{1,6})?)\s*(ms|s)\s*", time)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found and found[1] else -1.0
    if not 0 <= seconds <= MAX_PAUSE:
        raise SoundloomError(f"SSML: break time {quoted(time)}; expected 0 to {MAX_PAUSE:g} s, such as 500ms or 1.5s")
    return seconds


def _rate(rate: str) -> float:
    if rate in _RATES:
        return _RATES[rate]
    found = re.fullmatch(r"\s*([+-]?)(\d{1,4}(?:\.\d{1,4})?)(%?)\s*", rate)
    value = float(found[2]) / (100 if found[3] else 1) if found else 0.0
    if found and found[1]:
        value = 1 + value * (1 if found[1] == "+" else -1)
    if not 0.1 <= value <= 10:
        raise SoundloomError(f"SSML: prosody rate {quoted(rate)}; expected {', '.join(_RATES)}, 80%, +20% or 0.8")
    return value
