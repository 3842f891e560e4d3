"""Make the clips of scores, in one process or several, in the order of the scores."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from codec.audio import audio_info, read_audio, write_audio
from codec.common.files import write_text
from codec.errors import SoundloomError
from pipelines.corpus.worker_pool import rows_in_order
from pipelines.corpus.write import Reject, Row, split_of
from pipelines.music_corpus.arrange import arrange
from pipelines.music_corpus.captions import describe_clip
from pipelines.music_corpus.compose import compose
from pipelines.music_corpus.render import SAMPLE_RATE, Synthesizer, render
from pipelines.music_corpus.score import Clip, Piece
from pipelines.music_corpus.tunes import Source, read_tune

_BATCH = 8


@dataclass(frozen=True)
class Task:
    """One score to make: the number of a score of ours, or a tune's name, source and notation."""

    number: int = 0
    name: str = ""
    source: Source | None = None
    text: str = ""

    def piece(self) -> Piece | None:
        """Return the score; None for a tune that cannot be used."""
        return compose(self.number) if self.source is None else read_tune(self.name, self.source, self.text)


@dataclass(frozen=True)
class Job:
    """What every worker needs to know. ``variations``: clips of each score."""

    folder: Path
    synthesizer: Synthesizer
    variations: int
    seconds: float
    verify: bool = False


@dataclass(frozen=True)
class MusicRow(Row):
    """A manifest's row with what is known of the clip; ``notes`` is the path of its note list, ``text`` a caption."""

    captions: list[dict[str, Any]]
    attributes: dict[str, Any]
    notes: str


def make_score(job: Job, task: Task) -> list[MusicRow | Reject]:
    """Make the clips of one score, unless they exist and are whole. Returns their rows, or why there are none."""
    piece = task.piece()
    if piece is None:
        reason = "a tune that is not in 2/4, 3/4, 4/4 or 2/2, too short, or not readable"
        return [Reject(task.name, "", reason)]
    return [_make(job, arrange(piece, variation, job.seconds)) for variation in range(job.variations)]


def _make(job: Job, clip: Clip) -> MusicRow | Reject:
    stem = f"{clip.id[:2]}/{clip.id}"
    captions = [asdict(caption) for caption in describe_clip(clip)]
    try:
        if not _is_whole(job, stem):
            wave = render(clip, job.synthesizer)
            write_text(job.folder / f"{stem}.json", note_list(clip))
            write_audio(job.folder / f"{stem}.flac", wave, SAMPLE_RATE)
    except SoundloomError as error:
        return Reject(clip.id, captions[0]["text"], str(error)[:300])
    return MusicRow(
        id=clip.id,
        audio=f"{stem}.flac",
        text=captions[0]["text"],
        speaker=f"music-{clip.piece.style.replace(' ', '-')}",
        language="en",
        duration=clip.seconds,
        split=split_of(clip.piece.id),  # all clips of a score are in one split
        captions=captions,
        attributes=clip.attributes(),
        notes=f"{stem}.json",
    )


def _is_whole(job: Job, stem: str) -> bool:
    """Return whether a clip's files are there: the sound is written last. ``verify``: decode it, too."""
    audio, notes = job.folder / f"{stem}.flac", job.folder / f"{stem}.json"
    if not audio.exists() or not notes.exists():
        return False
    try:
        if job.verify:
            read_audio(audio)
        return abs(audio_info(audio).duration - job.seconds) < 1e-3
    except SoundloomError:
        return False


def note_list(clip: Clip) -> str:
    """Return the clip's JSON: attributes, and each part's notes as [start, length, pitch, velocity], in seconds."""
    parts = [
        {
            "role": part.role,
            "instrument": part.instrument,
            "volume": part.volume,
            "notes": [[note.start, note.length, note.pitch, note.velocity] for note in part.notes],
        }
        for part in clip.parts
    ]
    return json.dumps({"id": clip.id, **clip.attributes(), "seconds": clip.seconds, "parts": parts}) + "\n"


def _make_batch(job: Job, tasks: list[Task]) -> list[MusicRow | Reject]:
    torch.set_num_threads(1)
    return [made for task in tasks for made in make_score(job, task)]


def make_all(job: Job, tasks: Iterable[Task], workers: int) -> Generator[MusicRow | Reject, None, None]:
    """Yield rows and rejects in the order of ``tasks``; closing it stops the work.

    Raises: SoundloomError where the disk refuses or a worker dies.
    """
    if workers == 1:
        yield from itertools.chain.from_iterable(make_score(job, task) for task in tasks)
        return
    queue = iter(tasks)
    batches = iter(lambda: list(itertools.islice(queue, _BATCH)), [])
    yield from rows_in_order(_make_batch, job, batches, workers, job.folder)
