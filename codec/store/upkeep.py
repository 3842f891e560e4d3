"""What is done to a store that is already there: remove it, sweep up after killed runs."""

from __future__ import annotations

import re
import time
from pathlib import Path

from codec.errors import SoundloomError

_LEFTOVER_SECONDS = 60.0
_STORE_FILES = re.compile(
    r"plan(-\d+)?(\.json|\.json\.zst|\.arrow\.zst)|data-\d{6,}\.(arrow|json)|rejects-\d{6,}\.jsonl|(store|state|dataset_info)\.json"
)


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
