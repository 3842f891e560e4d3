"""What corpora of other projects call their fields, and how a field is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: the first name of each is ours
FIELD_NAMES = {
    "audio": ("audio", "path", "file", "file_name", "audio_filepath", "audio_file", "wav", "filename"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "lang", "locale"),
    "split": ("split", "subset"),
    "id": ("id", "utterance_id", "utt_id"),
    "start": ("start", "offset"),
}


def is_text(name: str) -> bool:
    """Return whether a string can be written as UTF-8 (names of files may hold bytes that cannot)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def without_suffix(path: str) -> str:
    """Return a path without its last suffix; one without a name, such as "." or "/", as it is."""
    return str(Path(path).with_suffix("")) if Path(path).name else path


def pick(record: dict[str, Any], options: Iterable[str]) -> str:
    """Return the first of the fields ``options`` that holds text or a number, as text; "" where none does."""
    for key in options:
        value = record.get(key)
        if isinstance(value, str) and value and is_text(value):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return ""
