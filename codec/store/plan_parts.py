"""A plan's utterances in parts, one for each shard, so that a worker reads the part of its shard and no other.

``plan.arrow.zst`` holds the parts one after another. Each is an Arrow IPC stream of one record batch with the columns
`COLUMNS`, packed by zstd as a frame of its own. The plan's header lists size and sha256 of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codec.common.checked import field
from codec.common.files import atomic_path, check_file, sha256_bytes
from codec.errors import SoundloomError
from codec.store.utterance import Utterance, shorten_path, whole_path

COLUMNS = pa.schema(
    [
        ("id", pa.large_string()),
        ("path", pa.large_string()),  # NUL in place of the id
        ("text", pa.large_string()),
        ("speaker", pa.large_string()),
        ("language", pa.large_string()),
        ("row", pa.int64()),
        ("start", pa.float64()),
        ("duration", pa.float64()),
        ("size", pa.int64()),
        ("milliseconds", pa.int64()),
        ("problem", pa.large_string()),
    ]
)
_MAX_RATIO = 1000  # a packed part that claims to hold more than this many times its size is refused unread
_PACK_LEVEL = 6
_COUNTS = ("bytes", "plain_bytes", "milliseconds", "text_bytes", "problems")


class Parts(Protocol):
    """What a plan knows of its shards, counted from 0; only `read` and `ids` open a file."""

    def read(self, position: int) -> tuple[Utterance, ...]:
        """Return a shard's utterances."""

    def ids(self, position: int) -> list[str]:
        """Return the ids of a shard's utterances."""

    def seconds(self, position: int) -> float:
        """Return the estimated length of a shard's audio."""

    def text_bytes(self, position: int) -> int:
        """Return the bytes of a shard's texts."""

    def usable(self, position: int) -> int:
        """Count a shard's utterances without those that are known to be unusable."""


def slice_of(count: int, num_shards: int, position: int) -> tuple[int, int]:
    """Return where a shard's utterances begin and end: shards differ by one utterance at most."""
    return count * position // num_shards, count * (position + 1) // num_shards


@dataclass(frozen=True)
class ListedParts:
    """The shards of a plan whose utterances are in memory, as those of versions 1 and 2 are."""

    utterances: tuple[Utterance, ...]
    num_shards: int

    def read(self, position: int) -> tuple[Utterance, ...]:
        """Return a shard's utterances."""
        first, last = slice_of(len(self.utterances), self.num_shards, position)
        return self.utterances[first:last]

    def ids(self, position: int) -> list[str]:
        """Return the ids of a shard's utterances."""
        return [item.id for item in self.read(position)]

    def seconds(self, position: int) -> float:
        """Return the estimated length of a shard's audio."""
        return sum(item.seconds for item in self.read(position) if not item.problem)

    def text_bytes(self, position: int) -> int:
        """Return the bytes of a shard's texts."""
        return sum(len(item.text.encode("utf-8")) for item in self.read(position))

    def usable(self, position: int) -> int:
        """Count a shard's utterances without those that are known to be unusable."""
        return sum(not item.problem for item in self.read(position))


@dataclass(frozen=True)
class ArrowParts:
    """The shards of a plan in ``plan.arrow.zst``; ``record`` is the header's description of them, checked."""

    path: Path
    num_utterances: int
    record: dict[str, list[Any]]

    @classmethod
    def parse(cls, path: Path, record: Any, num_shards: int, num_utterances: int, name: str) -> ArrowParts:
        """Check a header's description of the parts, and the file's size; `SoundloomError` where either is wrong."""
        lists = {key: field(record, key, list, name) for key in (*_COUNTS, "sha256")}
        if any(len(values) != num_shards for values in lists.values()):
            raise SoundloomError(f"{name}: describes another number of parts than its {num_shards} shards")
        if not all(type(value) is int and 0 <= value < 1 << 62 for key in _COUNTS for value in lists[key]):
            raise SoundloomError(f"{name}: a size of a part is not a number from 0 on")
        size, expected = check_file(path), sum(lists["bytes"])
        if size != expected:
            raise SoundloomError(f"{path}: {size} bytes, its header says {expected}")
        return cls(path, num_utterances, lists)

    def read(self, position: int) -> tuple[Utterance, ...]:
        """Return a shard's utterances."""
        batch = self._batch(position)
        columns = {name: batch.column(name).to_pylist() for name in COLUMNS.names}
        columns["seconds"] = [value / 1000 for value in columns.pop("milliseconds")]
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return tuple(Utterance(**{**row, "path": whole_path(row["path"], row["id"])}) for row in rows)

    def ids(self, position: int) -> list[str]:
        """Return the ids of a shard's utterances."""
        ids: list[str] = self._batch(position).column("id").to_pylist()
        return ids

    def seconds(self, position: int) -> float:
        """Return the estimated length of a shard's audio."""
        return float(self.record["milliseconds"][position]) / 1000

    def text_bytes(self, position: int) -> int:
        """Return the bytes of a shard's texts."""
        return int(self.record["text_bytes"][position])

    def usable(self, position: int) -> int:
        """Count a shard's utterances without those that are known to be unusable."""
        first, last = slice_of(self.num_utterances, len(self.record["bytes"]), position)
        return last - first - int(self.record["problems"][position])

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate(self.record["bytes"], initial=0))

    def _batch(self, position: int) -> pa.RecordBatch:
        size, plain_size = self.record["bytes"][position], self.record["plain_bytes"][position]
        if plain_size > size * _MAX_RATIO:
            raise SoundloomError(f"{self.path}: {size} bytes cannot hold the {plain_size} that its header promises")
        try:
            with open(self.path, "rb") as file:
                file.seek(self._starts[position])
                packed = file.read(size)
        except OSError as error:
            raise SoundloomError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if sha256_bytes(packed) != self.record["sha256"][position]:
            raise SoundloomError(f"{self.path}: part {position} changed after it was written (its sha256 differs)")
        first, last = slice_of(self.num_utterances, len(self.record["bytes"]), position)
        return _unpack(packed, plain_size, last - first, f"{self.path}: part {position}")


def write_parts(path: Path, sizes: Sequence[int], batches: Iterable[pa.RecordBatch]) -> tuple[dict[str, Any], str]:
    """Write ``batches`` of `COLUMNS` as parts of ``sizes`` rows; return the header's description and the file's sha256.

    Only the batches of one part are in memory at a time.
    """
    record: dict[str, Any] = {key: [] for key in (*_COUNTS, "sha256")}
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for batch in cut_batches(batches, sizes):
            plain, packed = _pack(batch)
            file.write(packed)
            digest.update(packed)
            values = [len(packed), len(plain), _sum(batch.column("milliseconds"))]
            values += [_sum(pc.binary_length(batch.column("text"))), _sum(pc.not_equal(batch.column("problem"), ""))]
            for key, value in zip(_COUNTS, values, strict=True):
                record[key].append(value)
            record["sha256"].append(sha256_bytes(packed))
    return record, digest.hexdigest()


def cut_batches(batches: Iterable[pa.RecordBatch], sizes: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Cut batches of any length into batches of ``sizes`` rows."""
    source = iter(batches)
    waiting: list[pa.RecordBatch] = []
    held = 0
    for size in sizes:
        while held < size:
            waiting.append(next(source))
            held += len(waiting[-1])
        table = pa.Table.from_batches(waiting, COLUMNS)
        rest = table.slice(size)
        waiting, held = rest.to_batches(), held - size
        yield _one_batch(table.slice(0, size))


def make_batch(items: Sequence[Utterance]) -> pa.RecordBatch:
    """Return utterances as a record batch of `COLUMNS`."""
    columns: dict[str, list[Any]] = {
        name: [getattr(item, name) for item in items] for name in COLUMNS.names if name not in ("path", "milliseconds")
    }
    columns["path"] = [shorten_path(item) for item in items]
    columns["milliseconds"] = [round(item.seconds * 1000) for item in items]
    return pa.RecordBatch.from_arrays([pa.array(columns[spec.name], spec.type) for spec in COLUMNS], schema=COLUMNS)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
            for column in table.columns
        ],
        schema=COLUMNS,
    )


def _sum(values: Any) -> int:
    return int(pc.sum(values).as_py() or 0)


def _pack(batch: pa.RecordBatch) -> tuple[bytes, bytes]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, COLUMNS) as stream:
        stream.write_batch(batch)
    plain = sink.getvalue().to_pybytes()
    packed = pa.Codec("zstd", compression_level=_PACK_LEVEL).compress(plain, asbytes=True)
    # No reader would believe a larger ratio: leave such a part as it is.
    return plain, plain if len(plain) > len(packed) * _MAX_RATIO else packed


def _unpack(packed: bytes, plain_size: int, rows: int, name: str) -> pa.RecordBatch:
    try:
        same = plain_size == len(packed)
        plain = packed if same else pa.decompress(packed, decompressed_size=plain_size, codec="zstd", asbytes=True)
        with pa.ipc.open_stream(plain) as stream:
            if not stream.schema.equals(COLUMNS):
                raise SoundloomError(f"{name}: its columns are not those of a plan")
            batch = stream.read_next_batch()
        batch.validate(full=True)
    except (OSError, ValueError, MemoryError, StopIteration, pa.ArrowException) as error:
        raise SoundloomError(f"{name}: not an Arrow record batch packed by zstd ({error})") from error
    if len(batch) != rows or any(column.null_count for column in batch.columns):
        raise SoundloomError(f"{name}: {len(batch)} utterances, expected {rows} without nulls")
    for key in ("start", "duration", "size", "milliseconds"):
        values = batch.column(key).to_numpy(zero_copy_only=False)
        if not np.all((values >= 0) & (values < 1e12)):
            raise SoundloomError(f"{name}: a negative or endless time or size")
    return batch
