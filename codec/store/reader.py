"""The token store: the codes of a corpus on disk, read row by row through a memory map.

A store is a folder::

    plan.json             what is to be done: codec, settings, number of shards
    plan.arrow.zst        the utterances in order, a part for each shard
    data-000000.arrow     one Arrow IPC stream with one record batch, columns as in `SCHEMA`
    data-000000.json      its commit record, written last: rows, bytes, sha256, frames
    rejects-000000.jsonl  every utterance that could not be used, with the reason
    state.json dataset_info.json store.json    written when all shards are there

Appending adds plans (``plan-1.json``, ``plan-1.arrow.zst`` …) and shards with the next numbers.
`codec.store.writer` writes stores.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from codec.common.checked import field, parse_json
from codec.common.files import check_file, read_bytes, sha256_file
from codec.errors import SoundloomError, quoted
from codec.store.schema import FORMAT, SCHEMA, VERSION, ShardRecord, StoreFacts, probe, seal, shard_paths
from codec.store.speakers import number_names

if TYPE_CHECKING:
    from codec.pretrained import AudioCodec

__all__ = [
    "FORMAT",
    "SCHEMA",
    "VERSION",
    "Row",
    "ShardRecord",
    "StoreFacts",
    "StoreReader",
    "read_store_json",
    "seal",
    "shard_paths",
    "verify_store",
]

_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z]+)+")
_STRINGS = ("id", "text", "speaker", "language")
_largest = np.maximum.reduce  # without the layers of ndarray.max(), which cost more than the work


class Row(NamedTuple):
    """One utterance: codes int16 ``[K, T]`` (level 0 coarsest; not contiguous), length in samples, facts."""

    id: str
    codes: torch.Tensor
    num_samples: int
    text: str
    speaker: str
    language: str


@dataclass(frozen=True)
class _Shard:
    """A shard's columns as numpy views of the memory map; nothing of it is copied."""

    codes: np.ndarray  # seen as uint16, all rows one after another
    code_offsets: memoryview  # of whole numbers, like those of the strings: an item of it is an int at once
    num_frames: np.ndarray
    num_samples: np.ndarray
    strings: dict[str, tuple[memoryview, memoryview]]


class StoreReader:
    """A finished store, row by row: ``reader[i]`` gives a `Row`; several readers and processes may share a store.

    Args:
        path: the store's folder.
        levels: show only the first n levels of each row.

    Raises:
        SoundloomError: the folder is no finished store, or a part of it is malformed.
    """

    def __init__(self, path: str | Path, levels: int | None = None) -> None:
        self.path = Path(path)
        self._name = str(self.path / "store.json")
        self._record = read_store_json(self.path)
        self.facts = StoreFacts.parse(field(self._record, "codec", dict, self._name), self._name)
        self.stored_levels = self.facts.num_levels
        self.num_levels = self.stored_levels if levels is None else levels
        if not 1 <= self.num_levels <= self.stored_levels:
            raise SoundloomError(f"{self.path}: levels={levels} asked for, the store has 1 to {self.stored_levels}")
        self.codebook_size = self.facts.codebook_size
        self.frame_rate = self.facts.frame_rate
        self.sample_rate = self.facts.sample_rate
        self.hop_length = self.facts.hop_length
        self.codec_fingerprint = self.facts.fingerprint
        records = field(self._record, "shards", list, self._name)
        self.records = [ShardRecord.parse(record, self._name) for record in records]
        self._shards = [
            _open_shard(shard_paths(self.path, index)[0], record, self.stored_levels)
            for index, record in enumerate(self.records)
        ]
        self._starts: list[int] = np.cumsum([0, *(record.rows for record in self.records)]).tolist()
        #: frames of every row, int64 ``[len(self)]``
        self.num_frames = _join([shard.num_frames for shard in self._shards])
        #: samples of every row at `sample_rate`, int64 ``[len(self)]``
        self.num_samples = _join([shard.num_samples for shard in self._shards])
        #: bytes of every row's text, int64 ``[len(self)]``
        self.text_bytes = _join([np.diff(np.asarray(shard.strings["text"][1])) for shard in self._shards])

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Row:
        shard, row = self._locate(index)
        strings = [self._string(shard, name, row) for name in _STRINGS]
        return Row(strings[0], self._codes(shard, row), int(shard.num_samples[row]), *strings[1:])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def codes(self, index: int) -> torch.Tensor:
        """Read one row's codes alone, int16 ``[K, T]`` (a transposed view: call ``contiguous()`` before ``view``)."""
        return self._codes(*self._locate(index))

    def id(self, index: int) -> str:
        """Read one row's id alone."""
        shard, row = self._locate(index)
        return self._string(shard, "id", row)

    def text(self, index: int) -> str:
        """Read one row's text alone, "" where it is not known."""
        shard, row = self._locate(index)
        return self._string(shard, "text", row)

    def speaker(self, index: int) -> str:
        """Read one row's speaker alone, "" where it is not known."""
        shard, row = self._locate(index)
        return self._string(shard, "speaker", row)

    def speakers(self) -> tuple[np.ndarray, list[str]]:
        """Return every row's speaker as a number, int64 ``[len(self)]``, and the names in order by number."""
        columns = (shard.strings["speaker"] for shard in self._shards)
        return number_names(columns, lambda name: self._decode("speaker", name))

    def require_codec(self, codec: AudioCodec) -> None:
        """Raise `SoundloomError` unless ``codec`` is the one that made this store."""
        self.facts.require(StoreFacts.of(codec, min(self.stored_levels, codec.num_levels)), str(self.path))

    def rejects(self) -> list[dict[str, str]]:
        """List what could not be used: dictionaries of ``id``, ``source``, ``reason``."""
        rows = []
        for index, record in enumerate(self.records):
            path = shard_paths(self.path, index)[2]
            data = read_bytes(path, record.rejects_bytes)
            rows += [parse_json(line, str(path)) for line in data.splitlines()]
        return rows

    def verify(self) -> list[str]:
        """Hash every file and check every row; one line for each thing that is wrong, so an empty list is good."""
        return verify_store(self.path)

    def __getstate__(self) -> dict[str, Any]:
        # A memory map cannot travel to a data loader's worker; the worker opens its own.
        return {"path": self.path, "levels": self.num_levels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        StoreReader.__init__(self, state["path"], state["levels"])

    def _locate(self, index: int) -> tuple[_Shard, int]:
        length = self._starts[-1]
        if index < 0:
            index += length
        if not 0 <= index < length:
            raise IndexError(f"row {index} of {length} in {self.path}")
        number = bisect.bisect_right(self._starts, index) - 1
        return self._shards[number], index - self._starts[number]

    def _codes(self, shard: _Shard, row: int) -> torch.Tensor:
        flat = shard.codes[shard.code_offsets[row] : shard.code_offsets[row + 1]]
        # As unsigned numbers, negative codes are large: one comparison checks both ends of the range.
        if _largest(flat, 0) >= self.codebook_size:
            raise SoundloomError(f"{self.path}: row {row} of a shard holds codes outside 0..{self.codebook_size - 1}")
        grid = flat.reshape(-1, self.stored_levels)  # [T, K]
        # A copy, which the caller may write to: the map is read-only. It stays frame-major in memory, because turning
        # it takes longer than all the rest; whoever fills a batch with it turns it on the way.
        codes = grid.copy() if self.num_levels == self.stored_levels else grid[:, : self.num_levels].copy()
        return torch.from_numpy(codes.view(np.int16).T)  # [K, T]

    def _string(self, shard: _Shard, name: str, row: int) -> str:
        data, offsets = shard.strings[name]
        return self._decode(name, data[offsets[row] : offsets[row + 1]])

    def _decode(self, name: str, data: bytes | memoryview) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise SoundloomError(f"{self.path}: {name} of a row is not UTF-8 ({error})") from error


def read_store_json(folder: Path) -> dict[str, Any]:
    """Read ``store.json`` and check it against its own hash; `SoundloomError` where it is absent or changed."""
    path = folder / "store.json"
    if not path.is_file():
        if (folder / "plan.json").is_file():
            raise SoundloomError(f"{folder}: the store is unfinished; run tokenize_corpus again to finish it")
        raise SoundloomError(f"{folder}: not a token store (no store.json); pipelines/tokenize_corpus.py writes one")
    data = read_bytes(path)
    record = parse_json(data, str(path))
    if field(record, "format", str, str(path)) != FORMAT or field(record, "version", int, str(path)) != VERSION:
        raise SoundloomError(f"{path}: expected format {FORMAT!r}, version {VERSION}")
    if data != seal(record):
        raise SoundloomError(f"{path}: changed after it was written (its sha256 does not hold)")
    return record


def edge_ids(path: Path, record: ShardRecord, num_levels: int) -> list[str]:
    """Return the ids of a shard's first and last row, after checking its shape; an empty list where it has no rows.

    Raises:
        SoundloomError: the shard is malformed.
    """
    shard = _open_shard(path, record, num_levels)
    data, offsets = shard.strings["id"]
    rows = sorted({0, record.rows - 1}) if record.rows else []
    return [str(data[offsets[row] : offsets[row + 1]], "utf-8", "replace") for row in rows]


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)


def _open_shard(path: Path, record: ShardRecord, num_levels: int) -> _Shard:
    """Map a shard and check its shape; only the offsets and the probe are read, not all codes."""
    size = check_file(path, missing="remove its commit record and run tokenize_corpus again")
    if size != record.bytes:
        raise SoundloomError(f"{path}: {size} bytes, its commit record says {record.bytes}")
    try:
        with pa.memory_map(str(path)) as source:
            if record.probe_sha256 and probe(source, size) != record.probe_sha256:
                raise SoundloomError(
                    f"{path}: changed after it was written, or holds rows of another shard; remove it and run again"
                )
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            schema = stream.schema
            if not schema.equals(SCHEMA):
                raise SoundloomError(f"{path}: columns are {schema.names}, expected {SCHEMA.names}")
            batch = stream.read_next_batch()
        # Closing lets the file descriptor go (a store may have thousands of shards); the buffers keep the map.
        batch.validate()
    except OSError as error:
        raise SoundloomError(f"{path}: cannot be read ({error})") from error
    except (pa.ArrowException, StopIteration, ValueError) as error:
        raise SoundloomError(f"{path}: not one Arrow record batch ({error or 'the stream is empty'})") from error
    if batch.num_rows != record.rows:
        raise SoundloomError(f"{path}: {batch.num_rows} rows, its commit record says {record.rows}")
    return _check_shard(path, batch, record, num_levels)


def _check_shard(path: Path, batch: pa.RecordBatch, record: ShardRecord, num_levels: int) -> _Shard:
    columns = {name: batch.column(name) for name in SCHEMA.names}
    for name, column in columns.items():
        if column.null_count or column.offset or (name == "codes" and column.values.null_count):
            raise SoundloomError(f"{path}: column {name!r} has nulls or an offset, expected neither")
    rows = batch.num_rows
    num_frames = _numbers(path, "num_frames", columns["num_frames"].buffers()[1], np.int32, rows)
    num_samples = _numbers(path, "num_samples", columns["num_samples"].buffers()[1], np.int64, rows)
    code_buffers = columns["codes"].buffers()
    codes = np.frombuffer(code_buffers[-1] or b"", np.int16, count=len(columns["codes"].values))
    code_offsets = _offsets(path, "codes", code_buffers[1], rows, len(codes))
    if np.any(np.diff(code_offsets) != num_frames.astype(np.int64) * num_levels) or np.any(num_frames < 1):
        raise SoundloomError(f"{path}: codes and num_frames disagree, expected {num_levels} codes a frame")
    if np.any(num_samples < 1) or int(num_frames.sum(dtype=np.int64)) != record.frames:
        raise SoundloomError(f"{path}: lengths disagree with the commit record ({record.frames} frames)")
    strings = {}
    for name in _STRINGS:
        _, offsets, data = columns[name].buffers()
        data = memoryview(data or b"")
        strings[name] = (data, _view(_offsets(path, name, offsets, rows, len(data))))
    return _Shard(codes.view(np.uint16), _view(code_offsets), num_frames, num_samples, strings)


def _view(offsets: np.ndarray) -> memoryview:
    """Return offsets as whole numbers that are read without numpy's layers."""
    return memoryview(offsets.data)


def _numbers(path: Path, name: str, buffer: pa.Buffer | None, dtype: Any, count: int) -> np.ndarray:
    if count and (buffer is None or buffer.size < count * np.dtype(dtype).itemsize):
        raise SoundloomError(f"{path}: column {name!r} is shorter than its {count} rows")
    return np.frombuffer(buffer, dtype, count=count) if count and buffer is not None else np.empty(0, dtype)


def _offsets(path: Path, name: str, buffer: pa.Buffer | None, rows: int, length: int) -> np.ndarray:
    """Check offsets against the data that they point into: Arrow itself would follow a wrong one out of the file."""
    offsets = _numbers(path, name, buffer, np.int32, rows + 1 if rows else 0)
    if rows and (offsets[0] < 0 or offsets[-1] > length or np.any(offsets[1:] < offsets[:-1])):
        raise SoundloomError(f"{path}: offsets of column {name!r} leave its {length} values")
    return offsets


def _check_digest(folder: Path, file: str, digest: Any) -> str:
    """Return what is wrong with one of a store's files, "" where nothing is; no other file is ever opened."""
    if not _PLAIN_NAME.fullmatch(file):
        return f"{folder / 'store.json'}: lists {quoted(file)}, which is no file of a store"
    try:
        check_file(folder / file)
        same = sha256_file(folder / file) == digest
    except (SoundloomError, OSError) as error:
        return str(error) if isinstance(error, SoundloomError) else f"{folder / file}: cannot be read ({error})"
    return "" if same else f"{folder / file}: changed after it was written (its sha256 does not hold)"


def verify_store(folder: str | Path) -> list[str]:
    """Hash every file of a store and check every row; one line for each thing that is wrong."""
    folder = Path(folder)
    try:
        store = read_store_json(folder)
        name = str(folder / "store.json")
        files = field(store, "files", dict, name)
        records = field(store, "shards", list, name)
    except SoundloomError as error:
        return [str(error)]
    problems = []
    for file, digest in files.items():
        problem = _check_digest(folder, file, digest)
        problems += [problem] if problem else []
    if len(records) * 3 > len(files):
        problems.append(f"{name}: lists {len(records)} shards but only {len(files)} files")
    if problems:
        return problems
    try:
        reader = StoreReader(folder)
        seen = set()
        for row in reader:
            if row.id in seen:
                problems.append(f"{folder}: id {row.id!r} is there twice")
            seen.add(row.id)
    except SoundloomError as error:
        problems.append(str(error))
    return problems
