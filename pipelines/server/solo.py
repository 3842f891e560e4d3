"""Sentences that are written each for itself, a frame of each in turn: for models that cannot share a running batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lm.generation.generate import Stream
from pipelines.server.rows import Row


class SoloBatch:
    """The face of `RowBatch`, without its speed: for the pair of coarse and fine model, and to compare with."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[Row] = []
        self._streams: dict[Row, Stream] = {}

    def start(self, row: Row) -> Iterator[None]:
        """Let a sentence join."""
        self._streams[row] = Stream(self.model, row.request)
        self.rows.append(row)
        yield

    def step(self) -> list[Row]:
        """Write one frame of every row; return the rows, those that ended with their ``finish_reason``, now gone."""
        rows = list(self.rows)
        for row in rows:
            stream = self._streams[row]
            try:
                row.frames.append(next(stream))
            except StopIteration:
                row.finish_reason = stream.finish_reason or "end"
                self.leave(row)
        return rows

    def leave(self, row: Row) -> None:
        """Take a sentence out."""
        self.rows.remove(row)
        del self._streams[row]

    def close(self) -> None:
        """Do nothing: there are no threads."""
