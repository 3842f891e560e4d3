"""Spread batches of work over processes and yield the results in order."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

from codec.errors import SoundloomError

Job = TypeVar("Job")
Item = TypeVar("Item")
Row = TypeVar("Row")


def end_with_parent() -> None:
    """End a worker whose parent was killed: it waits on a pipe whose other end it holds, so nothing else ends it."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def rows_in_order(
    make: Callable[[Job, list[Item]], list[Row]], job: Job, batches: Iterable[list[Item]], workers: int, folder: Path
) -> Iterator[Row]:
    """Yield what ``make`` gives for each batch, in the batches' order; at most four batches a worker wait.

    Raises:
        SoundloomError: a worker died; the message names ``folder``.
    """
    # spawn: a forked child would inherit the threads of torch and onnxruntime in an unknown state
    pool = ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent)
    source = iter(batches)
    waiting: deque[Future[list[Row]]] = deque()
    try:
        for batch in itertools.islice(source, 4 * workers):
            waiting.append(pool.submit(make, job, batch))
        while waiting:
            yield from waiting.popleft().result()
            for batch in itertools.islice(source, 1):
                waiting.append(pool.submit(make, job, batch))
    except BrokenProcessPool as error:
        raise SoundloomError(
            f"{folder}: a worker died (out of memory?); start again with fewer --workers to resume"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
