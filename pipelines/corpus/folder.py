"""A folder of audio as utterances: one walk in the order of the names, texts from the files next to the audio."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from codec.audio.files import AUDIO_SUFFIXES
from codec.errors import SoundloomError
from codec.store.plan import Settings, Utterance
from pipelines.corpus.fields import is_text

K = TypeVar("K")
T = TypeVar("T")

_MAX_TEXT = 1 << 20
_TEXT_SUFFIXES = (".normalized.txt", ".txt", ".lab")
_THREADS = 8  # a network's disk takes a millisecond for each folder and each text
_AHEAD = 16  # folders, and batches of texts, that are read before their turn
_TEXTS = 256  # files whose texts are read in one turn


class _Entry(NamedTuple):
    """A folder, or an audio file with its stem where that is unlike the others', and the names of texts next to it."""

    name: str
    kind: Literal["folder", "file", "bad link"]
    stem: str = ""
    texts: tuple[str, ...] = ()


def read_folder(folder: Path, settings: Settings) -> Iterator[tuple[Utterance, str]]:
    """List a folder's audio; the text is in a ``.txt`` or ``.lab`` next to each file, where there is one.

    Links are followed, but no folder is entered twice; hidden names are left out. Threads list the next folders and
    read the next texts, so only the names of some dozens of folders are in memory at a time. The order is that of
    names.
    """
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="listing")
    try:
        for item in _walk(str(folder), "", {os.path.realpath(folder)}, pool, _list(str(folder))):
            yield item, ""
    finally:
        pool.shutdown(cancel_futures=True)


def _walk(
    folder: str, prefix: str, seen: set[str], pool: ThreadPoolExecutor, entries: list[_Entry]
) -> Iterator[Utterance]:
    inside = _ahead(pool, _list, (os.path.join(folder, entry.name) for entry in entries if entry.kind == "folder"))
    named = [entry.texts for entry in entries if entry.texts]
    batches = (named[first : first + _TEXTS] for first in range(0, len(named), _TEXTS))
    texts = chain.from_iterable(_ahead(pool, partial(_read_texts, folder), batches))
    for entry in entries:
        text = next(texts) if entry.texts else ""
        if entry.kind != "folder":
            yield _utterance(prefix, entry, text)
            continue
        listed, path = next(inside), os.path.join(folder, entry.name)
        if (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            yield from _walk(path, f"{prefix}{entry.name}/", seen, pool, listed)


def _ahead(pool: ThreadPoolExecutor, make: Callable[[K], T], keys: Iterable[K]) -> Iterator[T]:
    """Yield ``make(key)`` for each key in order, some of them made before their turn."""
    source = iter(keys)
    waiting = deque(pool.submit(make, key) for key in islice(source, _AHEAD))
    while waiting:
        ready = waiting.popleft()
        waiting += [pool.submit(make, key) for key in islice(source, 1)]
        yield ready.result()


def _list(folder: str) -> list[_Entry]:
    """Return a folder's audio files and folders in the order of their names."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise SoundloomError(f"{folder}: cannot be listed ({error.strerror or error})") from error
    names = {entry.name for entry in entries}
    stems = Counter(_stem(name) for name in names if _is_audio(name))
    made = []
    for entry in entries:
        kind = _kind(entry)
        if kind == "folder":
            made.append(_Entry(entry.name, kind))
        elif kind and _is_audio(entry.name):
            stem = _stem(entry.name)
            beside = tuple(stem + suffix for suffix in _TEXT_SUFFIXES if stem + suffix in names)
            made.append(_Entry(entry.name, kind, "" if stems[stem] > 1 else stem, beside))
    return made


def _utterance(prefix: str, entry: _Entry, text: str) -> Utterance:
    path = prefix + entry.name
    if not is_text(path):
        path = path.encode("utf-8", "backslashreplace").decode("utf-8")
        return Utterance(path, path, problem="its name is not UTF-8")
    identity = prefix + entry.stem if entry.stem else path
    if entry.kind != "file":  # a corpus must not lose it silently
        return Utterance(identity, path, problem="the link leads nowhere or in a circle")
    return Utterance(identity, path, text)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "bad link", ""]:
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


def _read_texts(folder: str, names: Iterable[tuple[str, ...]]) -> list[str]:
    """Return for each tuple of names the text of the first file that can be read."""
    return [_first_text([Path(folder, name) for name in each]) for each in names]


def _first_text(paths: Iterable[Path]) -> str:
    for path in paths:
        try:
            if path.is_file() and path.stat().st_size <= _MAX_TEXT:
                return " ".join(path.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError):
            continue
    return ""
