"""The rows of a manifest.jsonl: what `pipelines.corpus.write` writes, and what others write like it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.common.checked import parse_json
from codec.common.files import check_file
from codec.errors import SoundloomError, quoted
from pipelines.corpus.fields import without_suffix

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Row:
    """One line of a manifest: ``audio`` is relative to its folder, ``duration`` in seconds (-1: not known)."""

    id: str
    audio: str
    text: str
    speaker: str
    language: str
    duration: float
    split: str


def read_manifest(path: Path, split: str = "") -> Iterator[Row]:
    """Read the rows of a manifest, of one ``split`` where it is given ("" and "all": every row).

    ``audio`` is required. Without an id a row is called as its file without the suffix; other strings default to "".

    Raises:
        SoundloomError: it names the file, the line and what is wrong with it.
    """
    check_file(path)
    for number, line in _lines(path):
        name = f"{path}, line {number}"
        record = parse_json(line, name)
        if split in ("", "all") or not isinstance(record, dict) or record.get("split") == split:
            yield _row(record, name)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SoundloomError(f"{path}: no manifest that can be read ({error}); expected UTF-8 text") from error


def _row(record: Any, name: str) -> Row:
    if not isinstance(record, dict) or not isinstance(record.get("audio"), str) or not record["audio"]:
        raise SoundloomError(f'{name}: no manifest row; expected an object with "audio"')
    strings = {key: record.get(key) or "" for key in ("id", "text", "speaker", "language", "split")}
    for key, value in strings.items():
        if not isinstance(value, str):
            raise SoundloomError(f"{name}: {key} is {quoted(value)}, expected a string")
    duration = record.get("duration", -1.0)
    if isinstance(duration, bool) or not isinstance(duration, int | float) or not -1 <= duration < 1e9:
        raise SoundloomError(f"{name}: duration is {quoted(duration)}, expected seconds")
    strings["id"] = strings["id"] or without_suffix(record["audio"])
    return Row(audio=record["audio"], duration=float(duration), **strings)
