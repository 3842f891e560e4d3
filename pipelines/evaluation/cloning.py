"""Measure how much a voice sounds like a new speaker after a prompt of a few seconds, on a scale with two ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from codec.audio.files import read_audio
from codec.errors import SoundloomError
from codec.metrics import Summary, summarize
from pipelines.corpus.manifest import read_manifest
from pipelines.evaluation.report import Table
from pipelines.voice.voice import Voice

SHORTEST, LONGEST = 2.0, 6.0  # seconds of a prompt
Embed = Callable[[Tensor, int], Tensor | None]  # wave [N], sample rate -> vector of length 1


@dataclass(frozen=True)
class Recording:
    """A recording of a speaker: wave [N] and its text."""

    wave: Tensor
    text: str


@dataclass(frozen=True)
class Cloning:
    """Cosines to a speaker's recordings other than the prompt, one for each speaker.

    ``voice``: the voice's speech after the speaker's prompt. ``floor``: its speech after the other speakers' prompts,
    the score of a voice that ignores prompts. ``ceiling``: the speaker's own prompt.
    """

    speakers: list[str]
    voice: list[float]
    floor: list[float]
    ceiling: list[float]

    @property
    def share(self) -> Summary:
        """Return the similarity on a scale from 0, an unprompted voice, to 1, the speaker's own recordings."""
        way = zip(self.voice, self.floor, self.ceiling, strict=True)
        return summarize([(v - f) / (c - f) if c > f else None for v, f, c in way])

    def table(self) -> Table:
        """Return the table for the report."""
        columns = (self.voice, self.floor, self.ceiling)
        rows: list[list[Any]] = [[name, *values] for name, *values in zip(self.speakers, *columns, strict=True)]
        rows.append(["all speakers", *map(summarize, columns)])
        rows.append(["similarity from floor (0) to ceiling (1)", self.share, None, None])
        return Table(
            "Like a new speaker",
            ["speaker", "voice", "floor: another's prompt", "ceiling: the speaker"],
            rows,
            "Cosine of speaker embeddings to recordings of the speaker other than the prompt.",
        )


def read_speakers(path: Path, sample_rate: int, most: int = 4) -> dict[str, list[Recording]]:
    """Read speakers of a manifest, each with a prompt (2 to 6 s) and 1 to ``most`` - 1 other recordings.

    Raises: SoundloomError where it cannot be read or lacks two such speakers.
    """
    found: dict[str, list[Recording]] = {}
    for row in read_manifest(path):
        if not row.speaker or not row.text or len(found.get(row.speaker, ())) >= most:
            continue
        wave = read_audio(path.parent / row.audio, sample_rate)[0]
        if SHORTEST <= len(wave) / sample_rate <= LONGEST:
            found.setdefault(row.speaker, []).append(Recording(wave, row.text))
    speakers = {name: recordings for name, recordings in found.items() if len(recordings) > 1}
    if len(speakers) < 2:
        raise SoundloomError(
            f"{path}: has {len(speakers)} speakers with two recordings of {SHORTEST:g} to {LONGEST:g} s and their "
            "texts; wanted two or more, to compare them"
        )
    return speakers


def measure_cloning(
    voice: Voice,
    speakers: Mapping[str, Sequence[Recording]],
    texts: Sequence[str],
    embed: Embed,
    settings: dict[str, Any],
    batch_size: int,
    progress: Callable[[Iterator[str], int], Iterator[str]] = lambda names, count: names,
) -> Cloning:
    """Speak the texts after each speaker's first recording, and compare with the speakers' other recordings."""
    spoken: dict[str, list[Tensor]] = {}
    for number, name in enumerate(progress(iter(speakers), len(speakers))):
        prompt = speakers[name][0]
        seeds = [100_003 * number + i for i in range(len(texts))]
        speeches = voice.speak_batch(
            texts, seeds=seeds, batch_size=batch_size, prompt=prompt.wave, prompt_text=prompt.text, **settings
        )
        spoken[name] = _embedded(embed, [speech.waveform.mean(0) for speech in speeches], voice.sample_rate)
    others = {
        name: _embedded(embed, [one.wave for one in recordings[1:]], voice.sample_rate)
        for name, recordings in speakers.items()
    }
    result = Cloning(list(speakers), [], [], [])
    for name, recordings in speakers.items():
        prompt_vectors = _embedded(embed, [recordings[0].wave], voice.sample_rate)
        rest = [vector for other, vectors in spoken.items() if other != name for vector in vectors]
        result.voice.append(_mean_cosine(spoken[name], others[name]))
        result.floor.append(_mean_cosine(rest, others[name]))
        result.ceiling.append(_mean_cosine(prompt_vectors, others[name]))
    return result


def _embedded(embed: Embed, waves: Sequence[Tensor], sample_rate: int) -> list[Tensor]:
    return [vector for wave in waves if (vector := embed(wave, sample_rate)) is not None]


def _mean_cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """NaN where one side is all silence."""
    return float(np.mean([float(a @ b) for a in first for b in second])) if first and second else float("nan")
