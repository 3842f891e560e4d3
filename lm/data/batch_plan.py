"""Which rows form which batch, by the batch's number alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from codec.errors import SoundloomError

_BUCKET_RATIO = 1.1  # rows of one bucket differ by at most this factor in length: under 10% padding


class BatchPlan:
    """Which rows form batch 0, 1, 2 …: a pure function of (seed, number), endless, epoch after epoch.

    Rows of similar length share a bucket. In each epoch a bucket's rows are permuted and cut into the same number of
    batches of even size, so that frames and text with padding stay within ``frames_per_batch``; then the epoch's
    batches are permuted. Every row comes once an epoch.

    Args:
        lengths: frames of each row.
        text_lengths: text units of each row.
        frames_per_batch: the largest B · (longest grid + longest text) of a batch.
        scored: frames of each row that the loss counts; None = all.

    Raises: SoundloomError where one row alone is over the budget.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        text_lengths: np.ndarray,
        frames_per_batch: int,
        seed: int,
        scored: np.ndarray | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.scored = self.lengths if scored is None else np.asarray(scored, dtype=np.int64)
        self.text_lengths = np.asarray(text_lengths, dtype=np.int64)
        self.seed = seed
        total = self.lengths + self.text_lengths
        if len(total) == 0:
            raise SoundloomError("no rows to make batches of")
        if total.max() > frames_per_batch:
            raise SoundloomError(
                f"frames_per_batch is {frames_per_batch}, but a row has {self.lengths[total.argmax()]} frames "
                f"and {self.text_lengths[total.argmax()]} text units; raise it, or lower max_frames"
            )
        bucket = np.floor(np.log(np.maximum(total, 1)) / np.log(_BUCKET_RATIO)).astype(np.int64)
        self._buckets: list[tuple[np.ndarray, int]] = []
        order = np.argsort(bucket.astype(np.int16), kind="stable")
        bounds = np.flatnonzero(np.diff(bucket[order])) + 1
        for rows in np.split(order, bounds):
            size = max(1, frames_per_batch // int(self.lengths[rows].max() + self.text_lengths[rows].max()))
            self._buckets.append((rows, -(-len(rows) // size)))
        self.batches_per_epoch = sum(count for _, count in self._buckets)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def rows(self, number: int) -> np.ndarray:
        """Return the rows of batch ``number`` (0, 1, 2 … without end)."""
        epoch, place = divmod(number, self.batches_per_epoch)
        rows, starts, order = self._epoch(epoch)
        batch = order[place]
        return rows[starts[batch] : starts[batch + 1]]

    def frames(self, number: int) -> int:
        """Return the frames of batch ``number`` that are scored, padding not counted."""
        return int(self.scored[self.rows(number)].sum())

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return an epoch's rows, where each batch starts among them (and the end), and the order of the batches."""
        rows = [rows[np.argsort(hash_keys(self.seed, epoch, rows))] for rows, _ in self._buckets]
        sizes = [len(rows) // count + (np.arange(count) < len(rows) % count) for rows, count in self._buckets]
        order = np.argsort(hash_keys(self.seed, ~epoch, np.arange(self.batches_per_epoch)))
        return np.concatenate(rows), np.concatenate([[0], *sizes]).cumsum(), order


def hash_keys(seed: int, epoch: int, values: np.ndarray) -> np.ndarray:
    """Hash each value with (seed, epoch) by splitmix64; sorting by it gives one order under every version of numpy."""
    with np.errstate(over="ignore"):
        state = np.array([seed, epoch], dtype=np.int64).view(np.uint64)
        keys = values.astype(np.uint64)
        for word in (*state, np.uint64(0)):
            keys = (keys ^ word) + np.uint64(0x9E3779B97F4A7C15)
            keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            keys = keys ^ (keys >> np.uint64(31))
    return keys
