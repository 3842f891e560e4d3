"""Work that is done ahead by threads, in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def read_ahead(
    make: Callable[[K], T], keys: Iterable[K], threads: int = 1, ahead: int | None = None
) -> Generator[T, None, None]:
    """Yield ``make(key)`` for each key in order, up to ``ahead`` of them (default: 2 a thread) made ahead by threads.

    ``threads`` 0 makes each when it is asked for. An error comes out in the place of its result.
    """
    if threads == 0:
        yield from map(make, keys)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        iterator = iter(keys)
        count = 2 * threads if ahead is None else ahead
        waiting = [pool.submit(make, key) for _, key in zip(range(count), iterator, strict=False)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(make, key) for _, key in zip(range(1), iterator, strict=False)]
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
