"""A folder of audio as utterances: one walk in the order of the names, texts from the files next to the audio."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from codec.audio.files import AUDIO_SUFFIXES
from codec.errors import SoundloomError
from codec.store.plan import Settings, Utterance
from pipelines.corpus.fields import is_text

_MAX_TEXT = 1 << 20
_TEXT_SUFFIXES = (".normalized.txt", ".txt", ".lab")


def read_folder(folder: Path, settings: Settings) -> Iterator[tuple[Utterance, str]]:
    """List a folder's audio; the text is in a ``.txt`` or ``.lab`` next to each file, where there is one.

    Links are followed, but no folder is entered twice; hidden names are left out. Only the names of one folder, and of
    those above it, are in memory at a time.
    """
    for item in _walk(str(folder), "", {os.path.realpath(folder)}):
        yield item, ""


def _walk(folder: str, prefix: str, seen: set[str]) -> Iterator[Utterance]:
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise SoundloomError(f"{folder}: cannot be listed ({error.strerror or error})") from error
    names = {entry.name for entry in entries}
    stems = Counter(_stem(name) for name in names if _is_audio(name))
    for entry in entries:
        kind = _kind(entry)
        if kind == "folder" and (real := os.path.realpath(entry.path)) not in seen:
            seen.add(real)
            yield from _walk(entry.path, f"{prefix}{entry.name}/", seen)
        elif kind in ("file", "bad link") and _is_audio(entry.name):
            stem = _stem(entry.name)
            yield _utterance(folder, prefix, entry.name, "" if stems[stem] > 1 else stem, names, kind == "file")


def _utterance(folder: str, prefix: str, name: str, stem: str, names: set[str], usable: bool) -> Utterance:
    path = prefix + name
    if not is_text(path):
        path = path.encode("utf-8", "backslashreplace").decode("utf-8")
        return Utterance(path, path, problem="its name is not UTF-8")
    identity = prefix + stem if stem else path
    if not usable:  # a corpus must not lose it silently
        return Utterance(identity, path, problem="the link leads nowhere or in a circle")
    return Utterance(identity, path, _text_beside(folder, _stem(name), names))


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "bad link" if entry.is_symlink() else ""
    except OSError:  # a link that points to itself: there is no file behind it
        return "bad link"


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _text_beside(folder: str, stem: str, names: set[str]) -> str:
    for suffix in _TEXT_SUFFIXES:
        if stem + suffix not in names:
            continue
        path = Path(folder, stem + suffix)
        try:
            if path.is_file() and path.stat().st_size <= _MAX_TEXT:
                return " ".join(path.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError):
            continue
    return ""
