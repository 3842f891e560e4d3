"""The speakers of a store's rows as numbers, for stores whose names would not fit into memory row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa


def number_names(
    columns: Iterable[tuple[memoryview, memoryview]], decode: Callable[[bytes], str]
) -> tuple[np.ndarray, list[str]]:
    """Return every row's name as a number, int64, and the names in order by number.

    ``columns``: the bytes of names one after another, and the offsets where each begins (and the end), both checked.
    """
    numbers: dict[str, int] = {}
    parts = [np.empty(0, np.int64)]
    for data, offsets in columns:
        rows = max(0, len(offsets) - 1)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        column = pa.BinaryArray.from_buffers(pa.binary(), rows, buffers).dictionary_encode()
        names = [decode(name) for name in column.dictionary.to_pylist()]
        known = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
        parts.append(known[column.indices.to_numpy()])
    names = sorted(numbers)
    ranks = np.empty(len(names), np.int64)
    ranks[[numbers[name] for name in names]] = np.arange(len(names))
    return ranks[np.concatenate(parts)], names
