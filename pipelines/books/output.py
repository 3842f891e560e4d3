"""The parts of a book joined to one file, with its chapters as JSON and WebVTT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from codec.audio.files import WRITABLE
from codec.common.checked import dump_json
from codec.common.files import atomic_path, write_bytes, write_text
from codec.errors import SoundloomError

CHAPTER_PAUSE = 1.5  # seconds of silence between two chapters
MAX_WAV = (1 << 32) - (1 << 20)  # bytes; sizes in WAV and AIFF have 32 bits
_BLOCK = 1 << 16  # samples


@dataclass(frozen=True)
class Mark:
    """A chapter in the sound, in seconds; its end is the next one's start."""

    title: str
    start: float
    end: float


def join(sounds: Sequence[Path], titles: Sequence[str], output: Path) -> list[Mark]:
    """Write the chapters' files as one file, a block at a time, and return where they are.

    Raises: SoundloomError.
    """
    first = soundfile.info(sounds[0])
    rate, channels = first.samplerate, first.channels
    check_size(sum(soundfile.info(sound).frames for sound in sounds), rate, channels, output)
    kind, subtype = WRITABLE[output.suffix.lower()]
    ends, written = [], 0
    with atomic_path(output) as place:
        try:
            with soundfile.SoundFile(place, "w", rate, channels, subtype, format=kind) as file:
                for number, sound in enumerate(sounds, 1):
                    for block in _blocks(sound, 0 if number == len(sounds) else round(CHAPTER_PAUSE * rate)):
                        file.write(block)
                        written += len(block)
                    ends.append(written / rate)
        except soundfile.SoundFileError as error:
            raise SoundloomError(f"{output}: cannot write it ({error}); try .flac") from None
    return [
        Mark(title, round(start, 3), round(end, 3))
        for title, start, end in zip(titles, [0.0, *ends], ends, strict=False)
    ]


def check_size(samples: float, rate: int, channels: int, output: Path) -> None:
    """Raises: SoundloomError where a file of this kind cannot hold that many samples."""
    if output.suffix.lower() in (".wav", ".aiff") and 2 * channels * samples > MAX_WAV:
        raise SoundloomError(
            f"{output}: {samples / rate / 3600:.1f} hours are too long for this kind of file; use .flac"
        )


def write_marks(output: Path, marks: Sequence[Mark]) -> tuple[Path, Path]:
    """Write the chapters next to the sound, as JSON and as WebVTT chapters; return the files."""
    as_json, as_vtt = output.with_suffix(".chapters.json"), output.with_suffix(".chapters.vtt")
    write_bytes(as_json, dump_json([asdict(mark) for mark in marks]))
    write_text(as_vtt, vtt(marks))
    return as_json, as_vtt


def vtt(marks: Sequence[Mark]) -> str:
    """Return WebVTT chapters."""
    cues = []
    for number, mark in enumerate(marks, 1):
        title = mark.title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{number}\n{_clock(mark.start)} --> {_clock(mark.end)}\n{title}\n")
    return "\n".join(["WEBVTT\n", *cues])


def _blocks(sound: Path, silence: int) -> Iterator[np.ndarray]:
    """Yield a file's samples, 16-bit, and then silence."""
    with soundfile.SoundFile(sound) as file:
        while len(block := file.read(_BLOCK, dtype="int16", always_2d=True)):
            yield block
        yield np.zeros((silence, file.channels), dtype=np.int16)


def _clock(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"
