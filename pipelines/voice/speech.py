"""Speech as it is put together: what a voice returns, how sentences are cut and joined, and what a guard hears."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.audio.files import write_audio
from codec.errors import SoundloomError
from lm.text.tokenizer import split_sentences

MAX_CHARACTERS = 50_000  # about an hour of speech, which is held in memory as a whole
# From good to bad. "length": much shorter or longer than such a text takes; "silence": nothing, or a long hole.
FINISH_REASONS = ("end", "length", "silence", "loop", "cap")
FADE_IN, FADE_OUT = 0.004, 0.010  # seconds; a sentence begins and ends at exactly zero, so that no join can click
_CLAUSE_END = re.compile(r"(?<=[,;:)\u2014\u2013])\s+")
_BLOCK = 0.02  # seconds
_QUIET = 10 ** (-50 / 20)
_LONGEST_HOLE = 1.5  # seconds of quiet inside of a sentence


@dataclass(frozen=True)
class Sentence:
    """One spoken piece of a text: ``codes`` long [K, T]; ``start`` and ``num_samples`` place it in the waveform.

    ``latents`` float [D, T]: what the decoder got where that is not the codes' own vectors (`drawn_levels`), else None.
    """

    text: str
    codes: Tensor
    seed: int
    finish_reason: str
    attempts: int
    start: int
    num_samples: int
    latents: Tensor | None = None


@dataclass(frozen=True)
class Speech:
    """What a voice said.

    ``waveform`` float32 [C, N] at ``sample_rate``; ``codes`` long [K, T] of all sentences (pauses are not in it);
    ``finish_reason`` is the worst of the sentences', "end" where all is well; ``attempts``: the most that one took.
    """

    waveform: Tensor
    sample_rate: int
    codes: Tensor
    finish_reason: str
    attempts: int
    sentences: tuple[Sentence, ...]

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.waveform.shape[-1] / self.sample_rate

    @property
    def text(self) -> str:
        """What was spoken, sentence after sentence."""
        return " ".join(sentence.text for sentence in self.sentences)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as an audio file, of the kind that the suffix says. Raises: SoundloomError."""
        write_audio(path, self.waveform, self.sample_rate)

    @classmethod
    def of(cls, waveform: Tensor, sample_rate: int, sentences: Sequence[Sentence]) -> Speech:
        """Join what the sentences say about themselves."""
        return cls(
            waveform,
            sample_rate,
            torch.cat([sentence.codes for sentence in sentences], dim=-1),
            max((sentence.finish_reason for sentence in sentences), key=FINISH_REASONS.index),
            max(sentence.attempts for sentence in sentences),
            tuple(sentences),
        )


@dataclass(frozen=True)
class Piece:
    """A piece of text to speak at once; ``pause`` is the share of the voice's pause that follows it."""

    text: str
    pause: float


def cut_text(text: str, fits: Callable[[str], bool], speakable: Callable[[str], bool]) -> list[Piece]:
    """Sentences in order; those that do not fit are cut at clauses, long clauses between words.

    Pieces with nothing to speak are left out. Raises: SoundloomError for a text that is empty, too long, or has nothing
    that can be spoken.
    """
    if not text.strip():
        raise SoundloomError("the text is empty; give some words to speak")
    if len(text) > MAX_CHARACTERS:
        raise SoundloomError(
            f"the text has {len(text):,} characters, more than the {MAX_CHARACTERS:,} that are spoken at once; "
            "speak it in parts (a chapter each, say)"
        )
    pieces: list[Piece] = []
    for sentence in split_sentences(text):
        parts = [part for part in _cut_sentence(sentence, fits) if speakable(part)]
        pieces += [Piece(part, 1.0 if i == len(parts) - 1 else 1 / 3) for i, part in enumerate(parts)]
    if not pieces:
        shown = text.strip()[:60]
        raise SoundloomError(f"nothing to speak in the text {shown!r}: expected English words or numbers")
    return pieces


def _cut_sentence(sentence: str, fits: Callable[[str], bool]) -> list[str]:
    if fits(sentence):
        return [sentence]
    clauses: list[str] = []
    for clause in _CLAUSE_END.split(sentence):
        clauses += [clause] if fits(clause) else list(_merge(clause.split(), fits))
    return list(_merge(clauses, fits))


def _merge(parts: Sequence[str], fits: Callable[[str], bool]) -> Iterator[str]:
    """Join neighbours as long as they fit; a part that does not fit alone stays alone."""
    begun = ""
    for part in parts:
        longer = f"{begun} {part}" if begun else part
        if begun and not fits(longer):
            yield begun
            longer = part
        begun = longer
    if begun:
        yield begun


class Edges:
    """Lets a sentence's samples through, with a short rise at its start and fall at its end, chunk by chunk or whole.

    The last `FADE_OUT` seconds wait until `finish`.
    """

    def __init__(self, sample_rate: int, rise: bool = True) -> None:
        self.rise = _ramp(round(FADE_IN * sample_rate)) if rise else torch.ones(0)
        self.fall = _ramp(round(FADE_OUT * sample_rate)).flip(0)
        self.seen = 0
        self.held: Tensor | None = None

    def push(self, wave: Tensor) -> Tensor:
        """The next samples [C, n] -> those that are now final [C, m]."""
        rise = self.rise[self.seen : self.seen + wave.shape[-1]]
        if len(rise):
            wave = torch.cat([wave[..., : len(rise)] * rise, wave[..., len(rise) :]], dim=-1)
        self.seen += wave.shape[-1]
        wave = wave if self.held is None else torch.cat([self.held, wave], dim=-1)
        ready = max(0, wave.shape[-1] - len(self.fall))
        self.held = wave[..., ready:]
        return wave[..., :ready]

    def finish(self) -> Tensor:
        """The samples that waited [C, n]."""
        if self.held is None:
            return torch.zeros(1, 0)
        n = self.held.shape[-1]
        return self.held * self.fall[len(self.fall) - n :]


def _ramp(n: int) -> Tensor:
    """A rise [n] from 0, along a cosine."""
    return 0.5 - 0.5 * torch.cos(torch.arange(n) * (math.pi / max(1, n)))


def verdict(reason: str, wave: Tensor, sample_rate: int, expected_seconds: float) -> str:
    """What a guard says of a sentence: the model's own ``reason``, or "silence" or "length" where that was "end".

    wave [C, N]. ``expected_seconds``: what such a text takes on average; below half a second it tells nothing.
    """
    if reason != "end":
        return reason
    seconds = wave.shape[-1] / sample_rate
    size = max(1, round(_BLOCK * sample_rate))
    blocks = wave.mean(0)[: wave.shape[-1] // size * size].reshape(-1, size)
    quiet = (blocks.square().mean(1).sqrt() < _QUIET).tolist()
    hole = longest = 0
    for is_quiet in quiet:
        hole = hole + 1 if is_quiet else 0
        longest = max(longest, hole)
    if all(quiet) or longest * _BLOCK > _LONGEST_HOLE:
        return "silence"
    slow = seconds > 1.8 * expected_seconds and seconds > expected_seconds + 1.0
    if expected_seconds >= 0.5 and (seconds < 0.5 * expected_seconds or slow):
        return "length"
    return "end"
