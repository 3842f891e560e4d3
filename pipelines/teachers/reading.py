"""Let a teacher read texts into files, in one process or several, in the order of the texts."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from codec.audio import audio_info, read_audio, resample, write_audio
from codec.errors import SoundloomError
from pipelines.corpus.texts import text_id
from pipelines.corpus.worker_pool import rows_in_order
from pipelines.corpus.write import Reject, Row, split_of
from pipelines.teachers.base import Teacher, Wave
from pipelines.teachers.registry import open_teacher

MIN_SECONDS, MAX_SECONDS = 0.1, 60.0
SILENCE = 1e-3
_BATCH = 16


@dataclass(frozen=True)
class Job:
    """What every worker needs to know. ``options``: those of the teacher, as pairs."""

    folder: Path
    teacher: str
    voices: tuple[str, ...]
    language: str
    verify: bool = False
    options: tuple[tuple[str, str], ...] = ()
    speeds: tuple[float, ...] = ()


class Reader:
    """Make one utterance after another; open a voice when it is first needed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._teachers: dict[str, Teacher] = {}

    def voice_of(self, name: str) -> str:
        """Return the voice that reads the text with this id."""
        return self.job.voices[int(name[8:], 16) % len(self.job.voices)]

    def teacher(self, voice: str) -> Teacher:
        """Return an open voice."""
        if voice not in self._teachers:
            self._teachers[voice] = open_teacher(self.job.teacher, voice, **dict(self.job.options))
        return self._teachers[voice]

    def make(self, text: str) -> list[Row | Reject]:
        """Read one text into its files, unless they exist and are whole. Returns their rows, or why there is none."""
        made = self._speak(text)
        return [made] if isinstance(made, Reject) else [made, *(self._replay(made, s) for s in self.job.speeds)]

    def _replay(self, row: Row, speed: float) -> Row:
        """Play the utterance again at ``speed``."""
        name = f"{row.id}@{speed:g}"
        audio = f"{row.id[:2]}/{name}.flac"
        seconds = _duration(self.job.folder / audio, self.job.verify)
        if seconds is None:
            whole = self.job.folder / row.audio
            rate = audio_info(whole).sample_rate
            wave = resample(read_audio(whole), round(rate * speed), rate)
            write_audio(self.job.folder / audio, wave, rate)
            seconds = wave.shape[-1] / rate
        return replace(row, id=name, audio=audio, speaker=f"{row.speaker}@{speed:g}", duration=round(seconds, 4))

    def _speak(self, text: str) -> Row | Reject:
        name = text_id(text)
        audio = f"{name[:2]}/{name}.flac"
        path = self.job.folder / audio
        seconds = _duration(path, self.job.verify)
        voice = self.voice_of(name)
        if seconds is None:
            teacher = self.teacher(voice)
            try:
                wave = teacher.speak(text, seed=int(name[:8], 16))
            except Exception as error:
                # whatever a third-party synthesizer raises on one text must not end a run of hours
                return Reject(name, text, f"{type(error).__name__}: {error}"[:300])
            problem = _problem(wave, teacher.sample_rate)
            if problem:
                return Reject(name, text, problem)
            write_audio(path, torch.from_numpy(wave), teacher.sample_rate)
            seconds = len(wave) / teacher.sample_rate
        speaker = f"{self.job.teacher}-{voice}"
        return Row(name, audio, text, speaker, self.job.language, round(seconds, 4), split_of(name))


def _duration(path: Path, verify: bool) -> float | None:
    """Return the seconds of a finished file, None where it is not whole. ``verify``: decode it, too."""
    if not path.exists():
        return None
    try:
        if verify:
            read_audio(path)
        return audio_info(path).duration
    except SoundloomError:
        return None


def _problem(wave: Wave, sample_rate: int) -> str:
    """Return why speech cannot be used, empty where it can."""
    seconds = len(wave) / sample_rate
    if seconds < MIN_SECONDS:
        return f"too short: {seconds:.3f} s"
    if seconds > MAX_SECONDS:
        return f"too long: {seconds:.1f} s"
    if not np.isfinite(wave).all():
        return "NaN or infinity in the waveform"
    return "silent" if float(np.abs(wave).max()) < SILENCE else ""


# one reader per worker process, so that a voice is opened once and not for every batch
_readers: dict[Job, Reader] = {}


def _make_batch(job: Job, texts: list[str]) -> list[Row | Reject]:
    torch.set_num_threads(1)
    reader = _readers.setdefault(job, Reader(job))
    return [made for text in texts for made in reader.make(text)]


def make_all(job: Job, texts: list[str], workers: int) -> Generator[Row | Reject, None, None]:
    """Yield rows and rejects in the order of ``texts``, made by one process or several; closing it stops the work.

    Raises: SoundloomError where a teacher cannot be opened, the disk refuses, or a worker dies.
    """
    if workers == 1:
        reader = Reader(job)
        yield from itertools.chain.from_iterable(map(reader.make, texts))
        return
    batches = iter([texts[i : i + _BATCH] for i in range(0, len(texts), _BATCH)])
    yield from rows_in_order(_make_batch, job, batches, workers, job.folder)
