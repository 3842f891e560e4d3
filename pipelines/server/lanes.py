"""Running batches side by side: each steps in a thread of its own, so that more than one core writes sentences.

A step of many sentences reads the keys and values of all their positions, and one core reads only so fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from pipelines.server.rows import Row, RowBatch

FILLED = 4  # sentences that the first lane takes before others are used: small batches are written faster by one


def rooms(slots: int, lanes: int) -> list[int]:
    """Return how many sentences each lane has room for: together at least ``slots``, and no lane for too few."""
    lanes = max(1, min(lanes, slots // FILLED))
    return [-(-slots // lanes)] * lanes


class Lanes:
    """Several batches with the face of one."""

    def __init__(self, lanes: Sequence[RowBatch]) -> None:
        self.lanes = list(lanes)
        self._threads = ThreadPoolExecutor(len(self.lanes), "soundloom-lane") if len(self.lanes) > 1 else None

    @property
    def rows(self) -> list[Row]:
        """The sentences of all lanes."""
        return [row for lane in self.lanes for row in lane.rows]

    def start(self, row: Row) -> Iterator[None]:
        """Let a sentence join a lane, piece by piece of its reading; see `RowBatch.start`."""
        first = self.lanes[0]
        lane = (
            first if len(first.rows) < min(FILLED, first.capacity) else min(self.lanes, key=lambda one: len(one.rows))
        )
        yield from lane.start(row)

    def step(self) -> list[Row]:
        """Take one step of every lane at once; return the rows as `RowBatch.step` does."""
        busy = [lane for lane in self.lanes if lane.rows]
        if self._threads is None or len(busy) < 2:
            return [row for lane in busy for row in lane.step()]
        others = [self._threads.submit(lane.step) for lane in busy[1:]]
        try:
            written = busy[0].step()
        finally:
            wait(others)  # no lane may still run when an error is dealt with
        return [*written, *(row for other in others for row in other.result())]

    def leave(self, row: Row) -> None:
        """Take a sentence out."""
        next(lane for lane in self.lanes if row in lane.rows).leave(row)

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()
