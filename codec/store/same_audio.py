"""Whether a recording is still the one whose codes a store holds, where its size alone cannot show it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from codec.common.files import sha256_file
from codec.errors import SoundloomError
from codec.store.hashes import HashSet
from codec.store.measure import modified_times
from codec.store.plan_file import plan_paths
from codec.store.reader import StoreReader, shard_paths
from codec.store.utterance import Utterance

if TYPE_CHECKING:
    from codec.store.plan import Plan

_CLOCK_SECONDS = 2.0  # file systems and machines disagree by so much


class SameAudio:
    """The hashes of the recordings behind a store's rows, to compare files with that may have changed.

    A file is hashed only if it was modified after the last plan of its folder was written: hashing all of them would
    read the whole corpus. So a file that was replaced by an older one of the same size is not noticed.
    """

    def __init__(self, plans: list[Plan], root: str) -> None:
        self._store, self._root = plans[0].store, root
        headers = [plan_paths(plan.store, plan.number)[0] for plan in plans if plan.settings.root == root]
        self._last = "", ""  # the file hashed last, and its hash
        self._since = os.stat(headers[-1]).st_mtime - _CLOCK_SECONDS if headers else 0.0

    def replaced(self, items: Iterable[Utterance]) -> Iterator[Utterance]:
        """Yield the utterances in the store whose file holds other audio now; rows of data sets are not compared."""
        local = [item for item in items if item.row < 0 and not item.problem and "://" not in self._root + item.path]
        times = modified_times(self._root, [item.path for item in local])
        for item, time in zip(local, times, strict=True):
            if time is not None and time >= self._since and self._differs(item):
                yield item

    def _differs(self, item: Utterance) -> bool:
        if self._last[0] != item.path:  # many utterances may be parts of one file
            try:
                self._last = item.path, sha256_file(os.path.join(self._root, item.path))
            except OSError:
                return False  # whoever reads it next says so
        in_store, same = self._digests.has([item.id, (item.id, self._last[1])])
        return in_store and not same

    @functools.cached_property
    def _digests(self) -> HashSet:
        """The ids of the store's rows, and each with the hash of its source; pieces of a file under the file's id."""
        found = HashSet()
        try:
            reader = StoreReader(self._store)
        except SoundloomError:
            return found  # a damaged store is reported when it is finished again, or made anew
        digests = (digest for index in range(len(reader.records)) for digest in source_digests(self._store, index))
        for row, digest in enumerate(digests):
            name = reader.id(row)
            for known in {name, name.rpartition("#")[0] or name}:
                found.add(known)
                found.add((known, digest))
        return found


def source_digests(folder: Path, index: int) -> list[str]:
    """Return the sha256 of the source of each row of a shard."""
    with pa.memory_map(str(shard_paths(folder, index)[0])) as source, pa.ipc.open_stream(source) as stream:
        return [digest.hex() for digest in stream.read_next_batch().column("source_sha256").to_pylist()]
