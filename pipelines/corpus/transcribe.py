"""Texts for recordings that have none, by a speech recogniser; English only, and never without its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from codec.audio import audio_info, read_audio
from codec.common.files import read_text
from codec.errors import SoundloomError
from pipelines.command_line.progress import track
from pipelines.corpus.write import Row

TRANSCRIPTS = "transcripts.txt"  # in the corpus: what was transcribed, so that the next run does not do it again
_MOST_BYTES = 1 << 30


def transcribe_rows(rows: Sequence[Row], out: Path, transcriber: Callable[[Tensor, int], str]) -> list[Row]:
    """Return the rows of the corpus ``out``, those without a text with a transcript.

    Transcripts are kept in `TRANSCRIPTS` as lines ``name: text``, one as soon as it is made.
    """
    known = _read(out / TRANSCRIPTS)
    done = []
    with (out / TRANSCRIPTS).open("a", encoding="utf-8") as file:
        for row in track(rows, "recording", "transcripts"):
            if not row.text and row.id not in known:
                path = out / row.audio
                wave = read_audio(path, None, 1)[0]
                known[row.id] = " ".join(transcriber(wave, audio_info(path).sample_rate).split())
                file.write(f"{row.id}: {known[row.id]}\n")
                file.flush()
            done.append(row if row.text else replace(row, text=known[row.id]))
    return done


def _read(path: Path) -> dict[str, str]:
    try:
        lines = read_text(path, _MOST_BYTES).splitlines() if path.exists() else []
    except SoundloomError as error:
        raise SoundloomError(f"{error}; remove it to transcribe again") from error
    return {name: text.strip() for name, colon, text in (line.partition(": ") for line in lines) if colon}
