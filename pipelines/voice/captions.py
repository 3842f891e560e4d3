"""Words with their times as files: JSON, and captions that people can read in time (SubRip, WebVTT)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

LINE_CHARACTERS, CAPTION_LINES = 42, 2
CAPTION_SECONDS = 7.0  # a caption stays at most so long
GAP_SECONDS = 0.6  # a silence of so long ends a caption
SUFFIXES = (".json", ".srt", ".vtt")


@dataclass(frozen=True)
class WordTime:
    """One spoken word; ``start`` and ``end`` in seconds of the speech's waveform.

    ``ends``: a sentence ends with it.
    """

    word: str
    start: float
    end: float
    ends: bool = False


@dataclass(frozen=True)
class Caption:
    """A caption of one or two lines."""

    start: float
    end: float
    lines: tuple[str, ...]


def moved(words: Sequence[WordTime], seconds: float) -> list[WordTime]:
    """Return the words moved by a number of seconds."""
    return [replace(word, start=round(word.start + seconds, 3), end=round(word.end + seconds, 3)) for word in words]


def captions(words: Sequence[WordTime]) -> list[Caption]:
    """Return captions of at most two lines of 42 characters and 7 s; a sentence or a long silence ends one."""
    return [
        Caption(group[0].start, min(group[-1].end, group[0].start + CAPTION_SECONDS), tuple(_lines(group)))
        for group in _groups(words)
    ]


def _groups(words: Sequence[WordTime]) -> Iterator[list[WordTime]]:
    group: list[WordTime] = []
    for word in words:
        if group:
            longer = [*group, word]
            late = word.end - group[0].start > CAPTION_SECONDS or word.start - group[-1].end > GAP_SECONDS
            if late or group[-1].ends or len(_lines(longer)) > CAPTION_LINES:
                yield group
                group = []
        group.append(word)
    if group:
        yield group


def _lines(group: Sequence[WordTime]) -> list[str]:
    """Break words into lines; one that is longer than a line is cut."""
    lines: list[str] = []
    for word in group:
        parts = [word.word[i : i + LINE_CHARACTERS] for i in range(0, len(word.word), LINE_CHARACTERS)]
        for n, part in enumerate(parts):
            if lines and n == 0 and len(lines[-1]) + 1 + len(part) <= LINE_CHARACTERS:
                lines[-1] += f" {part}"
            else:
                lines.append(part)
    return lines


def as_json(words: Sequence[WordTime]) -> str:
    """Return ``[{"word", "start", "end"}, …]``."""
    record = [{"word": word.word, "start": word.start, "end": word.end} for word in words]
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def as_srt(words: Sequence[WordTime]) -> str:
    """Return SubRip captions."""
    return "\n".join(f"{i}\n{_cue(caption, ',')}" for i, caption in enumerate(captions(words), 1))


def as_vtt(words: Sequence[WordTime]) -> str:
    """Return WebVTT captions."""
    return "\n".join(["WEBVTT\n", *(_cue(caption, ".") for caption in captions(words))])


def as_file(suffix: str, words: Sequence[WordTime]) -> str:
    """Return the contents of a file with one of `SUFFIXES`."""
    return {".json": as_json, ".srt": as_srt, ".vtt": as_vtt}[suffix.lower()](words)


def _cue(caption: Caption, point: str) -> str:
    times = f"{_clock(caption.start, point)} --> {_clock(caption.end, point)}"
    return "\n".join([times, *caption.lines, ""])


def _clock(seconds: float, point: str) -> str:
    thousandths = round(seconds * 1000)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
