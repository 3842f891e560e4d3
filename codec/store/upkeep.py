"""What is done to a store that is already there: compare it with its corpus, remove it, sweep up after killed runs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

from codec.errors import SoundloomError, quoted
from codec.store.utterance import Utterance

_LEFTOVER_SECONDS = 60.0
_STORE_FILES = re.compile(
    r"plan(-\d+)?(\.json|\.json\.zst|\.arrow\.zst)|data-\d{6,}\.(arrow|json)|rejects-\d{6,}\.jsonl|(store|state|dataset_info)\.json"
)


def corpus_changes(
    planned: Iterable[Utterance], listed: Iterable[Utterance], root: str, finished: bool = True
) -> list[str]:
    """List in words how a corpus differs from what a plan recorded of it; an empty list where nothing changed.

    Compared are the list of utterances, their texts, speakers and languages, and the sizes of files below ``root``.
    No audio is read, so a recording that was replaced by another of the same size is not noticed here. Where the store
    is not ``finished``, only texts and the like count: changed audio becomes a reject, and what is new can wait.
    """
    before = {_key(item): item for item in planned}
    now = {_key(item): item for item in listed}
    both = [(item, now[key]) for key, item in before.items() if key in now]
    texts = {
        "has another text": [new for old, new in both if old.text != new.text],
        "has another speaker, language or length": [new for old, new in both if _facts(old) != _facts(new)],
    }
    files = {
        "is new": [item for key, item in now.items() if key not in before],
        "is gone": [item for key, item in before.items() if key not in now],
        "has another size": [old for old, _ in both if not old.problem and _size(old, root) != old.size],
    }
    return [_describe(what, items) for what, items in (files | texts if finished else texts).items() if items]


def has_shards(store: Path) -> bool:
    """Return whether a folder holds shards, or a finished store's facts."""
    return (store / "store.json").exists() or any(store.glob("data-*.json"))


def remove_store(store: str | Path) -> None:
    """Remove a store's files, those that make it a store first; other files in its folder stay.

    Raises:
        SoundloomError: a file cannot be removed.
    """
    for path in store_files(Path(store)):
        try:
            path.unlink()
        except OSError as error:
            raise SoundloomError(f"{path}: cannot be removed ({error.strerror}); check its permissions") from error


def store_files(store: Path) -> list[Path]:
    """List a store's files, those that make it a store first."""
    names = [path for path in store.glob("*") if _STORE_FILES.fullmatch(path.name) and path.is_file()]
    return sorted(names, key=lambda path: (path.name != "store.json", not path.name.startswith("plan")))


def collect_leftovers(store: str | Path, seconds: float = _LEFTOVER_SECONDS) -> int:
    """Remove temporary files that killed processes left behind; return how many.

    Shards are put together in memory and written at once, so that a temporary file older than a minute has no writer.
    """
    count = 0
    for start in ("data-", "rejects-", "plan", "store.", "state.", "dataset_info."):
        for path in Path(store).glob(f".{start}*"):
            try:
                if time.time() - path.stat().st_mtime >= seconds:
                    path.unlink()
                    count += 1
            except OSError:
                continue  # its writer finished, or another process collects too
    return count


def _key(item: Utterance) -> tuple[str, str, int, float]:
    return item.id, item.path.replace("\0", "\N{REPLACEMENT CHARACTER}"), item.row, item.start  # as plans store it


def _facts(item: Utterance) -> tuple[str, str, float]:
    return item.speaker, item.language, item.duration


def _size(item: Utterance, root: str) -> int:
    """Return the size of an utterance's file; what is a row of a data set is taken as it was."""
    try:
        return item.size if item.row >= 0 else (Path(root) / item.path).stat().st_size
    except (OSError, ValueError):
        return -1


def _describe(what: str, items: list[Utterance]) -> str:
    if len(items) == 1:
        return f"{quoted(items[0].id)} {what}"
    return f"{len(items):,} utterances: each {what} (first {quoted(items[0].id)})"
