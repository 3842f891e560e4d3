"""What every model that writes music can do; a model itself says how it writes, encodes and decodes codes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from codec.audio.files import read_audio, write_audio
from codec.errors import SoundloomError, quoted
from codec.pretrained import AudioCodec
from lm.generation.sampling import SamplingConfig
from pipelines.music_model.windows import Windows

MAX_SECONDS = 600.0
OnStep = Callable[[int, int], None]  # called with (steps taken, steps in all)


@dataclass(frozen=True)
class Music:
    """A piece: ``waveform`` float32 [C, N] at ``sample_rate``; ``codes`` long [K, T], its prompt included.

    ``finish_reason``: "end", or what the guard found in the best of ``attempts`` tries ("loop" or "silence").
    """

    waveform: Tensor
    sample_rate: int
    codes: Tensor
    finish_reason: str = "end"
    attempts: int = 1

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.waveform.shape[-1] / self.sample_rate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an audio file of the kind that the suffix names. Raises: SoundloomError."""
        write_audio(path, self.waveform, self.sample_rate)


@dataclass(frozen=True)
class Written:
    """The codes long [K, T] of a piece before they are decoded, and how it ended; see `Music`.

    ``latents`` float [D, T]: what is decoded in place of the codes, where a model makes latents.
    """

    codes: Tensor
    finish_reason: str = "end"
    attempts: int = 1
    latents: Tensor | None = None


class MusicWriter(ABC):
    """Text to music, and recordings continued, by a model that writes the codes of ``codec`` in windows."""

    codec: AudioCodec

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the music: 1 or 2."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """Levels of the codes, K; in stereo those of both channels."""

    @property
    @abstractmethod
    def lag(self) -> int:
        """Steps by which a window takes longer than it has frames."""

    @property
    @abstractmethod
    def windows(self) -> Windows:
        """The windows that pieces are written in."""

    @property
    @abstractmethod
    def sampling(self) -> SamplingConfig:
        """How codes are sampled unless asked for otherwise."""

    @abstractmethod
    def to(self, device: str | torch.device) -> MusicWriter:
        """Move all networks to a device and return the model itself. Raises: SoundloomError where there is none."""

    @abstractmethod
    def write_rows(
        self,
        texts: Sequence[str] | None,
        seconds: float,
        *,
        prompt: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        settings: SamplingConfig | None = None,
        on_step: OnStep | None = None,
    ) -> list[Written]:
        """Write a piece for each text, the prompt's codes first; `finished` decodes one.

        ``seeds``: one for each text (0 by default); a row does not depend on its neighbours. Raises: SoundloomError.
        """

    @abstractmethod
    def encode(self, wave: Tensor) -> Tensor:
        """Encode wave float [C, N] to codes long [K, T]."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes long [K, T] to wave float [C, N]. Raises: SoundloomError for levels of another model."""

    @abstractmethod
    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder, the networks as they now are."""

    def write(
        self,
        text: str | None,
        seconds: float,
        *,
        prompt: Tensor | None = None,
        only_new: bool = False,
        seed: int = 0,
        settings: SamplingConfig | None = None,
        on_step: OnStep | None = None,
    ) -> Music:
        """Write ``seconds`` of music for a text (None: whatever comes), after prompt float [C, N] if given.

        The prompt is at the codec's rate and has the model's channels. The same seed gives the same music. Pieces
        longer than a window are written in overlapping windows.
        Raises: SoundloomError for an empty text, or more than 600 s.
        """
        texts = None if text is None else [text]
        (row,) = self.write_rows(texts, seconds, prompt=prompt, seeds=[seed], settings=settings, on_step=on_step)
        return self.finished(row, prompt if only_new else None)

    def write_batch(
        self, texts: Sequence[str], seconds: float, *, only_new: bool = False, **options: Any
    ) -> list[Music]:
        """Write a piece for each text side by side, all after the same prompt; options are those of `write_rows`."""
        rows = self.write_rows(texts, seconds, **options)
        return [self.finished(row, options.get("prompt") if only_new else None) for row in rows]

    def write_codes(self, texts: Sequence[str] | None, seconds: float, **options: Any) -> Tensor:
        """Write the codes long [B, K, T] of a piece for each text; `music` decodes a row. Options: `write_rows`."""
        return torch.stack([row.codes for row in self.write_rows(texts, seconds, **options)])

    def finished(self, row: Written, without: Tensor | None = None) -> Music:
        """Decode a row; leave out the prompt ``without`` [C, N] at the start."""
        wave = self.decode(row.codes) if row.latents is None else self.decode_latents(row.latents)
        music = self._without(row.codes, wave, without)
        return replace(music, finish_reason=row.finish_reason, attempts=row.attempts)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents float [D, T] to wave float [C, N]. Raises: SoundloomError for a model that makes none."""
        raise SoundloomError("this model makes codes, and no latents")

    def music(self, codes: Tensor, without: Tensor | None = None) -> Music:
        """Decode codes long [K, T]; leave out the prompt ``without`` [C, N] at the start."""
        return self._without(codes, self.decode(codes), without)

    def _without(self, codes: Tensor, wave: Tensor, without: Tensor | None) -> Music:
        if without is not None:
            before = self.frames_of(without)
            codes, wave = codes[:, before:], wave[:, before * self.codec.hop_length :]
        return Music(wave, self.codec.sample_rate, codes)

    def steps(self, seconds: float, prompt: Tensor | None = None) -> int:
        """Return how many steps `write` will take."""
        before = 0 if prompt is None else self.frames_of(prompt)
        return self.windows.steps(before, self.frames(seconds), self.lag)

    def read_prompt(self, path: str | os.PathLike[str]) -> Tensor:
        """Read an audio file (or -) as a prompt [C, N], with the codec's rate and the model's channels."""
        wave = read_audio(path, self.codec.sample_rate, None if self.channels > 1 else 1)
        return wave if wave.shape[0] == self.channels else wave.mean(dim=0, keepdim=True).expand(self.channels, -1)

    def frames(self, seconds: float) -> int:
        """Return the frames of a piece. Raises: SoundloomError where it is none, or too long."""
        frames = round(seconds * self.codec.frame_rate) if 0 < seconds <= MAX_SECONDS else 0
        if frames < 1:
            raise SoundloomError(f"seconds is {quoted(seconds)}; expected more than 0 and at most {MAX_SECONDS:g}")
        return frames

    def frames_of(self, wave: Tensor) -> int:
        """Return the frames that wave [C, N] is encoded to."""
        return -(-wave.shape[-1] // self.codec.hop_length)

    def prompts(self, prompt: Tensor | None, rows: int) -> Tensor:
        """Return the codes long [rows, K, P] of prompt [C, N]; without one P is 0."""
        if prompt is None:
            return torch.zeros(rows, self.levels, 0, dtype=torch.long, device=self.codec.device)
        if prompt.shape[0] != self.channels:
            raise SoundloomError(f"the prompt has {prompt.shape[0]} channels, this model writes {self.channels}")
        return self.encode(prompt)[None].expand(rows, -1, -1)


def checked_texts(texts: Sequence[str] | None, seeds: Sequence[int] | None) -> list[int]:
    """Return one seed for each text. Raises: SoundloomError for an empty text, or another number of seeds."""
    if isinstance(texts, str):
        raise SoundloomError("texts is a single str; expected a list of texts")
    for text in texts or ():
        if not isinstance(text, str) or not text.strip():
            raise SoundloomError("the text is empty; say what the music should be like")
    if texts is not None and not texts:
        raise SoundloomError("texts is empty; expected at least one text")
    rows = 1 if texts is None else len(texts)
    found = [0] * rows if seeds is None else list(seeds)
    if len(found) != rows:
        raise SoundloomError(f"{len(found)} seeds for {rows} texts; give one for each text")
    return found
