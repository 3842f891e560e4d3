"""What a voice returns: speech as a whole, its sentences, and speech as a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.audio.files import write_audio
from pipelines.voice.guard import FINISH_REASONS

__all__ = ["FINISH_REASONS", "Sentence", "Speech", "SpeechStream"]


@dataclass(frozen=True)
class Sentence:
    """One spoken piece of a text: ``codes`` long [K, T]; ``start`` and ``num_samples`` place it in the waveform.

    ``latents`` float [D, T]: the decoder's input where that is not the codes' own vectors (`sampled_levels`), else
    None.
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
    """Spoken text; ``speech.save("hello.wav")`` writes it as an audio file.

    ``waveform`` float32 [C, N] at ``sample_rate``; ``codes`` long [K, T] of all sentences (pauses are not in it);
    ``finish_reason`` is the worst of the sentences', "end" where all is well; ``attempts``: the most that one took.
    ``skipped``: parts of the text that cannot be spoken (other scripts, symbols without a name), in order.
    """

    waveform: Tensor
    sample_rate: int
    codes: Tensor
    finish_reason: str
    attempts: int
    sentences: tuple[Sentence, ...]
    skipped: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.waveform.shape[-1] / self.sample_rate

    @property
    def text(self) -> str:
        """The spoken text, sentence after sentence."""
        return " ".join(sentence.text for sentence in self.sentences)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an audio file of the kind that the suffix names, for example ``speech.save("hello.wav")``.

        Raises: SoundloomError.
        """
        write_audio(path, self.waveform, self.sample_rate)

    @classmethod
    def of(
        cls, waveform: Tensor, sample_rate: int, sentences: Sequence[Sentence], skipped: Sequence[str] = ()
    ) -> Speech:
        """Summarise the sentences."""
        return cls(
            waveform,
            sample_rate,
            torch.cat([sentence.codes for sentence in sentences], dim=-1),
            max((sentence.finish_reason for sentence in sentences), key=FINISH_REASONS.index),
            max(sentence.attempts for sentence in sentences),
            tuple(sentences),
            tuple(skipped),
        )


class SpeechStream(Iterator[Tensor]):
    """Chunks of sound, float32 [C, n], as they come; ``speech`` holds the whole after the last, else None."""

    def __init__(self, sample_rate: int, parts: Iterator[Tensor | Sentence], skipped: Sequence[str] = ()) -> None:
        self.sample_rate = sample_rate
        self.speech: Speech | None = None
        self.skipped = tuple(skipped)
        self._parts = parts
        self._chunks: list[Tensor] = []
        self._sentences: list[Sentence] = []

    def __next__(self) -> Tensor:
        for part in self._parts:
            if isinstance(part, Tensor):
                self._chunks.append(part)
                return part
            self._sentences.append(part)
        if self.speech is None:
            whole = torch.cat(self._chunks, dim=-1)
            self.speech = Speech.of(whole, self.sample_rate, self._sentences, self.skipped)
        raise StopIteration
