"""What a store has already, as hashes: eight bytes for each fact of an utterance, for comparing and appending."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from codec.errors import SoundloomError, quoted
from codec.store.reader import StoreReader
from codec.store.utterance import Utterance

if TYPE_CHECKING:
    from codec.store.plan import Plan

_CHUNK = 1 << 14


class HashSet:
    """A set of hashes of whatever can be hashed, eight bytes for each; it is complete when it is first asked."""

    def __init__(self) -> None:
        self._new = array("q")
        self._sorted = np.empty(0, np.int64)

    def add(self, value: object) -> None:
        """Put a value in."""
        self._new.append(hash(value))

    def has(self, values: Iterable[object]) -> list[bool]:
        """Return for each value whether it is in the set; two of 2^64 hashes may meet by chance."""
        if self._new:
            self._sorted = np.unique(np.concatenate([self._sorted, np.frombuffer(self._new, np.int64)]))
            self._new = array("q")
        hashes = np.fromiter(map(hash, values), np.int64)
        if not len(self._sorted):
            return [False] * len(hashes)
        places = np.searchsorted(self._sorted, hashes)
        found: list[bool] = (self._sorted[np.minimum(places, len(self._sorted) - 1)] == hashes).tolist()
        return found


def only_new(items: Iterable[Utterance], plans: list[Plan]) -> Iterator[Utterance]:
    """Yield the utterances that a store has no rows of; those rejected before are tried again.

    Texts and sizes of the others are compared with those of the plans.

    Raises:
        SoundloomError: one has another text, or another size, than under the same id in the store.
    """
    rows, ids, texts, sized, sizes = (HashSet() for _ in range(5))
    reader = StoreReader(plans[0].store)
    for index in range(len(reader)):
        rows.add(reader.id(index))
    for item in (item for plan in plans for item in plan if not item.problem):
        ids.add(item.id)
        texts.add((item.id, item.text))
        if item.size:
            sized.add(item.id)
            sizes.add((item.id, item.size))
    for chunk in chunks(items, _CHUNK):
        names = [item.id for item in chunk]
        there = zip(rows.has(names), rows.has(f"{name}#000" for name in names), strict=True)
        same_text = texts.has((item.id, item.text) for item in chunk)
        same_size = sizes.has((item.id, item.size) for item in chunk)
        facts = zip(there, ids.has(names), same_text, sized.has(names), same_size, strict=True)
        for item, (stored, planned, text, has_size, size) in zip(chunk, facts, strict=True):
            if not any(stored):
                yield item
            elif planned and not text:
                raise SoundloomError(
                    f"{item.source}: the store has id {quoted(item.id)} with another text; --refresh makes it anew"
                )
            elif item.size and has_size and not size:
                raise SoundloomError(
                    f"{item.source}: the store has id {quoted(item.id)} with other audio; give it another id "
                    "(or an id_prefix)"
                )


def chunks(items: Iterable[Utterance], size: int) -> Iterator[list[Utterance]]:
    """Cut ``items`` into lists of ``size``."""
    waiting: list[Utterance] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
