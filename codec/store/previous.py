"""A store that is made again keeps the codes of audio that did not change.

The store that was there waits in ``.previous`` inside its folder until the new one is finished. An utterance whose
audio, cut and codec are the same takes its codes from there: the new store has the bytes that encoding all of it gives.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import numpy as np

from codec.common.files import sha256_file
from codec.errors import SoundloomError
from codec.store.plan import Plan, load_plans
from codec.store.reader import StoreReader, shard_paths
from codec.store.same_audio import source_digests
from codec.store.schema import ShardRecord
from codec.store.upkeep import remove_store, store_files
from codec.store.utterance import Utterance

_FOLDER = ".previous"


def set_aside(store: Path) -> None:
    """Move a finished store's files into ``.previous``; an unfinished one's are removed.

    Raises:
        SoundloomError: a file cannot be moved.
    """
    aside = store / _FOLDER
    if aside.exists() or not (store / "store.json").exists():  # killed while it was made again: the older one is whole
        remove_store(store)
        return
    try:
        aside.mkdir()
        for path in store_files(store):
            os.replace(path, aside / path.name)
    except OSError as error:
        raise SoundloomError(f"{store}: cannot be made again ({error.strerror}); check its permissions") from error


def remove_previous(store: Path) -> None:
    """Remove what `set_aside` kept."""
    shutil.rmtree(store / _FOLDER, ignore_errors=True)


@functools.lru_cache(maxsize=2)  # a process does many shards
def _open(folder: Path, written_ns: int) -> tuple[StoreReader, dict[str, int], list[str], list[Plan]] | None:
    try:
        reader = StoreReader(folder)
        digests: list[str] = []
        for index, record in enumerate(reader.records):
            if not _is_whole(folder, index, record):
                return None
            digests += source_digests(folder, index)
        return reader, {reader.id(row): row for row in range(len(reader))}, digests, load_plans(folder)
    except (SoundloomError, OSError):
        return None  # damaged: everything is encoded


def _is_whole(folder: Path, index: int, record: ShardRecord) -> bool:
    return sha256_file(shard_paths(folder, index)[0]) == record.sha256


class PreviousCodes:
    """The codes that a plan's utterances had in the store before; empty where nothing was set aside."""

    def __init__(self, plan: Plan) -> None:
        self._ids: dict[tuple[str, float, float], str] = {}
        try:
            folder = plan.store / _FOLDER
            found = _open(folder, (folder / "store.json").stat().st_mtime_ns)
        except OSError:
            return
        if found is None:
            return
        self._reader, self._rows, digests, plans = found
        cut = plan.settings.max_seconds, plan.settings.min_seconds
        for old in plans:
            if old.facts == plan.facts and (old.settings.max_seconds, old.settings.min_seconds) == cut:
                for item in old:
                    row = self._rows.get(item.id, self._rows.get(f"{item.id}#000"))
                    if row is not None and not item.problem:
                        self._ids[_key(item, digests[row])] = item.id

    def __bool__(self) -> bool:
        return bool(self._ids)

    def find(self, item: Utterance, digest: str) -> list[tuple[np.ndarray, int]]:
        """Return an utterance's codes int16 ``[T, K]`` and samples by piece; an empty list where they are not known.

        ``digest``: the sha256 of its source.
        """
        name = self._ids.get(_key(item, digest))
        if name is None:
            return []
        rows = [self._rows[name]] if name in self._rows else []
        while f"{name}#{len(rows):03d}" in self._rows:
            rows.append(self._rows[f"{name}#{len(rows):03d}"])
        grids = [self._reader[row] for row in rows]
        return [(np.ascontiguousarray(row.codes.T.numpy()), row.num_samples) for row in grids]


def _key(item: Utterance, digest: str) -> tuple[str, float, float]:
    return digest, item.start, item.duration
