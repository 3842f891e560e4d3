"""The engine: one thread that steps all requests together, and one that turns their frames into sound.

Requests wait in a bounded queue, hold a place while a sentence of theirs is written, and go to the back of the queue
after each sentence when others wait. Reading a new text is done in pieces between the steps of the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch

from codec.errors import SoundloomError
from lm.generation.generate import Frame
from lm.step_lm import DelayLM
from pipelines.server.lanes import Lanes, rooms
from pipelines.server.metrics import Metrics
from pipelines.server.rows import Row, RowBatch
from pipelines.server.solo import SoloBatch
from pipelines.server.speaking import Failed, Order, Speaking, Start, sound_together
from pipelines.voice.request import SpeakOptions
from pipelines.voice.voice import Voice

T = TypeVar("T")
log = logging.getLogger("soundloom.server")
PREFILL_SECONDS = 0.05  # of reading new texts between two steps; what is begun is finished, so it can be twice as long
_AHEAD = 16  # steps by which writing may run ahead of decoding


class Busy(Exception):
    """Too many requests wait."""


class Batch(Protocol):
    """What the engine steps; see `RowBatch`."""

    @property
    def rows(self) -> list[Row]: ...

    def start(self, row: Row) -> Iterator[None]: ...

    def step(self) -> list[Row]: ...

    def leave(self, row: Row) -> None: ...

    def close(self) -> None: ...


@dataclass
class _Starting:
    row: Row
    work: Iterator[None]


@dataclass(frozen=True)
class EngineSettings:
    """``slots`` sentences are written at once, ``queue`` more requests may wait, and one may take ``max_seconds``.

    ``lanes``: threads that share the writing of more than four sentences, each on a core of its own.
    """

    slots: int = 8
    queue: int = 32
    max_seconds: float = 300.0
    batching: bool = True
    lanes: int = 1

    def __post_init__(self) -> None:
        for name, least, most in (("slots", 1, 64), ("queue", 0, 10_000), ("max_seconds", 1, 86_400), ("lanes", 1, 16)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise SoundloomError(f"{name} is {value}; expected {least} to {most}")


@dataclass
class Engine:
    """Runs a voice for many clients; `start` and `stop` it. Its methods may be called from any thread."""

    voice: Voice
    settings: EngineSettings = field(default_factory=EngineSettings)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.starts = Start(self.voice)
        self.batch: Batch = self._make_batch()
        self._changed = threading.Condition()
        self._all: set[Speaking] = set()  # submitted, and neither ended nor left
        self._queue: deque[Speaking] = deque()
        self._starting: deque[_Starting] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="soundloom-engine", daemon=True)
        self._decoders = ThreadPoolExecutor(1, "soundloom-decoder")
        self._ahead = threading.Semaphore(_AHEAD)

    def _make_batch(self) -> Batch:
        model = self.voice.lm.model
        model.eval()
        if not self.settings.batching or not isinstance(model, DelayLM):
            return SoloBatch(model)
        style = self.voice.plan.style(SpeakOptions(levels=self.voice.num_levels))
        slots, lanes = self.settings.slots, self.settings.lanes
        return Lanes([RowBatch(model, style.sampling, room, style.vectors) for room in rooms(slots, lanes)])

    # --- from any thread ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()

    def stop(self) -> None:
        """End the threads; requests in progress get a `Failed`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._decoders.shutdown()
        self.batch.close()

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._queue)

    @property
    def active(self) -> int:
        """How many sentences are being written."""
        return len(self._starting) + len(self.batch.rows)

    def open(self, order: Order, emit: Callable[..., None], open_text: bool = False) -> Speaking:
        """Prepare a request. Raises: SoundloomError where the order cannot be spoken. `submit` runs it."""
        return Speaking(self.voice, self.starts, order, emit, self.settings.max_seconds, open_text)

    def check_room(self) -> None:
        """Raises: Busy where the queue is full."""
        if self.waiting >= self.settings.queue + max(0, self.settings.slots - self.active):
            self.metrics.refused += 1
            raise Busy(f"{self.waiting} requests are waiting, as many as this server holds; try again in some seconds")

    def submit(self, speaking: Speaking) -> None:
        """Let a request begin as soon as there is a place. Raises: Busy."""
        with self._changed:
            self.check_room()
            self.metrics.requests += 1
            self._all.add(speaking)
            if speaking.waiting:
                self._queue.append(speaking)
                self._changed.notify_all()

    def more(self, speaking: Speaking) -> None:
        """Look again at a request with open text: a sentence came, or its end."""
        with self._changed:
            self._continue(speaking)

    def cancel(self, speaking: Speaking) -> None:
        """Drop a request; its place is free at the next step."""
        with self._changed:
            if not speaking.ended and not speaking.cancelled:
                speaking.cancelled = True
                self.metrics.cancelled += 1
            self._all.discard(speaking)
            if speaking in self._queue:
                self._queue.remove(speaking)
            self._changed.notify_all()

    # --- the engine's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._queue or self._starting or self.batch.rows)
                if self._stopping:
                    break
                self._drop()
                self._admit()
            try:
                self._prefill()
                if self.batch.rows:
                    self._step()
            except Exception:
                log.exception("the engine failed at a step")
                self._fail_all("internal", "the server failed while speaking")
        self._fail_all("stopped", "the server is shutting down")

    def _drop(self) -> None:
        """Let go of requests that took too long, ended or whose client left."""
        now = time.monotonic()
        for speaking in [one for one in self._all if now > one.deadline and not one.ended]:
            speaking.emit(Failed("timeout", f"the request took more than {self.settings.max_seconds:g} s"))
            self.metrics.failed += 1
        self._all = {one for one in self._all if not one.ended}
        self._queue = deque(one for one in self._queue if one in self._all)
        self._starting = deque(one for one in self._starting if one.row.owner in self._all)
        for row in [row for row in self.batch.rows if row.owner not in self._all]:
            self.batch.leave(row)

    def _admit(self) -> None:
        while self._queue and self.active < self.settings.slots:
            speaking = self._queue.popleft()
            try:
                row = speaking.begin()
            except Exception as error:
                self._failed(speaking, error)
                continue
            self._starting.append(_Starting(row, self.batch.start(row)))

    def _prefill(self) -> None:
        """Read new texts and prompts: at least a piece, and no more than fits into `PREFILL_SECONDS` if rows wait."""
        until = time.monotonic() + PREFILL_SECONDS
        pieces = 0
        while self._starting and not (pieces and self.batch.rows and time.monotonic() >= until):
            pieces += 1
            one = self._starting[0]
            try:
                next(one.work)
            except StopIteration:
                self._starting.popleft()
                self._decode([one.row])
            except Exception as error:
                self._starting.popleft()
                self._failed(one.row.owner, error)

    def _step(self) -> None:
        began = time.perf_counter()
        rows = len(self.batch.rows)
        written = self.batch.step()
        self.metrics.step(rows, time.perf_counter() - began)
        self._decode(written)

    def _decode(self, rows: list[Row]) -> None:
        work = [(row.owner, row.taken(), row.finish_reason if row not in self.batch.rows else None) for row in rows]
        if work:
            self._ahead.acquire()
            self._decoders.submit(self._decode_all, work)

    # --- the decoder's thread -------------------------------------------------------------------------------------

    def _decode_all(self, work: list[tuple[Speaking, list[Frame], str | None]]) -> None:
        try:
            with torch.inference_mode():
                took = [speaking for speaking, frames, _ in work if self._did(speaking, speaking.take, frames)]
                try:
                    sound_together(took)
                except Exception as error:
                    for speaking in took:
                        self._failed(speaking, error)
                for speaking, _, reason in work:
                    if reason is not None and self._did(speaking, speaking.end, reason):
                        with self._changed:
                            self._continue(speaking)
        finally:
            self._ahead.release()

    def _did(self, speaking: Speaking, act: Callable[[T], None], what: T) -> bool:
        """Return whether a request still runs and did this; what it raises is its own failure."""
        if speaking.cancelled or speaking.ended:
            return False
        try:
            act(what)
        except Exception as error:
            self._failed(speaking, error)
            return False
        return True

    def _continue(self, speaking: Speaking) -> None:
        """Queue a request whose next sentence is there, or end it."""
        if speaking.waiting and speaking not in self._queue:
            self._queue.append(speaking)
            self._changed.notify_all()
        elif not speaking.open and speaking.idle:
            self.metrics.finished(speaking.samples / self.voice.sample_rate, speaking.first_sound)
            speaking.finish()
            self._all.discard(speaking)

    def _failed(self, speaking: Speaking, error: Exception) -> None:
        self.metrics.failed += 1
        if isinstance(error, SoundloomError):
            speaking.emit(Failed("invalid", str(error)))
            return
        log.exception("request %d failed", speaking.number, exc_info=error)
        speaking.emit(Failed("internal", "the server failed while speaking"))

    def _fail_all(self, code: str, message: str) -> None:
        with self._changed:
            for speaking in self._all:
                speaking.emit(Failed(code, message))
            self._all.clear()
            self._queue.clear()
            self._starting.clear()
            for row in list(self.batch.rows):
                self.batch.leave(row)
