"""Worker processes that load what they need while the work is still planned; light, so that they begin first."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError

if TYPE_CHECKING:
    from pipelines.corpus.tokenize_shards import Job


class EarlyWorkers:
    """``count`` processes for `tokenize_shards.do_shards`; use as a context manager, at whose end none is left."""

    def __init__(self, count: int) -> None:
        # Spawned, not forked: a forked process inherits torch's threads and locks in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self._processes, self._orders, self._results = [], [], []
        for _ in range(count):
            order, orders = context.Pipe(duplex=False)
            results, result = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(order, result), daemon=True)
            process.start()
            order.close()
            result.close()
            self._processes.append(process)
            self._orders.append(orders)
            self._results.append(results)

    def __enter__(self) -> EarlyWorkers:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def run(self, job: Job, shards: Sequence[int], progress: Callable[[float, str], None]) -> None:
        """Tokenize the shards; ``progress`` is called for every utterance. Once only.

        Raises:
            SoundloomError: that of the first worker that fails; the others end with the context.
        """
        waiting: dict[Any, BaseProcess] = {}
        for number, results in enumerate(self._results):
            waiting[results] = self._processes[number]
            with suppress(BrokenPipeError):  # it died before: its exit code is reported below
                self._orders[number].send((job, list(shards[number :: len(self._results)])))
        while waiting:
            ready: list[Any] = list(wait(list(waiting)))
            for pipe in ready:
                try:
                    message = pipe.recv()  # from our own child, over a pipe that nobody else has
                except EOFError:
                    process = waiting.pop(pipe)
                    process.join()
                    if process.exitcode:
                        raise SoundloomError(
                            f"a worker ended with code {process.exitcode}; finished shards are kept, "
                            "run the same command again to resume"
                        ) from None
                    continue
                if isinstance(message, str):
                    raise SoundloomError(message)
                progress(*message)


def _work(orders: Connection, results: Connection) -> None:
    import codec.pretrained  # noqa: F401 - with torch, what takes seconds to load
    from pipelines.corpus.tokenize_shards import do_shards

    try:
        job, shards = orders.recv()  # from our own parent
        # Where the parent was killed, this send fails and ends the worker: nobody is left behind.
        do_shards(job, shards, lambda seconds, reason: results.send((seconds, reason)))
    except SoundloomError as error:
        results.send(str(error))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
