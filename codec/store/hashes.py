"""Sets of hashes: eight bytes for each fact of an utterance, for comparing and appending."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np


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
