"""Read the tensors of a TensorFlow checkpoint (version 2, one data file) without TensorFlow.

The index is a LevelDB table (SSTable): sorted keys with shared prefixes in blocks, and a footer that says where the
block of blocks is. Each value is a small protocol buffer with a tensor's type, shape and place in the data file. Only
float32 and int32 tensors are read, and nothing that is read runs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec.errors import SoundloomError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TYPES = {1: "<f4", 3: "<i4", 9: "<i8"}  # DT_FLOAT, DT_INT32, DT_INT64
_MOST_BYTES = 1 << 28
Tensors = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int


def read_checkpoint(prefix: str) -> Tensors:
    """Return all float32 tensors of the checkpoint ``prefix``.index and ``prefix``.data-00000-of-00001, by name.

    Raises: SoundloomError where a file is missing or is no such checkpoint.
    """
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    try:
        if max(index.stat().st_size, data.stat().st_size) > _MOST_BYTES:
            raise SoundloomError(f"{index}: too large; expected at most {_MOST_BYTES} bytes")
        entries = {name: _entry(value) for name, value in _table(index.read_bytes()) if name}
        content = data.read_bytes()
        return {name: _tensor(content, entry) for name, entry in entries.items() if entry.dtype == 1}
    except (OSError, struct.error, IndexError, ValueError, KeyError) as error:
        raise SoundloomError(f"{index}: no TensorFlow checkpoint that can be read ({error})") from error


def _tensor(content: bytes, entry: _Entry) -> npt.NDArray[np.float32]:
    values = np.frombuffer(content, _TYPES[entry.dtype], entry.size // 4, entry.offset)
    return values.reshape(entry.shape).astype(np.float32)


def _table(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and values of an SSTable."""
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("its footer is not that of a table")
    _, at = _handle(footer, 0)  # the block of metadata
    blocks, _ = _handle(footer, at)
    for _, handle in _block(data, blocks):
        place, _ = _handle(handle, 0)
        for key, value in _block(data, place):
            yield key.decode("utf-8"), value


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Return (offset, size) of a block, and where reading ended."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(data: bytes, place: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block: each key shares a prefix with the one before it."""
    offset, size = place
    if data[offset + size] != 0:
        raise ValueError("a block is compressed; TensorFlow writes them plain")
    body = data[offset : offset + size]
    end = len(body) - 4 * (1 + struct.unpack("<I", body[-4:])[0])
    at, key = 0, b""
    while at < end:
        shared, at = _varint(body, at)
        fresh, at = _varint(body, at)
        length, at = _varint(body, at)
        key = key[:shared] + body[at : at + fresh]
        yield key, body[at + fresh : at + fresh + length]
        at += fresh + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protocol buffer: numbers, and bytes of what has a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(data, at)
        elif tag & 7 == 5:
            value, at = struct.unpack("<I", data[at : at + 4])[0], at + 4
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"a field has the wire type {tag & 7}; expected 0, 2 or 5")
        yield tag >> 3, value


def _entry(value: bytes) -> _Entry:
    """Return what BundleEntryProto says: 1 type, 2 shape (of 2: dimensions, with 1: size), 4 offset, 5 size."""
    numbers: dict[int, int] = {}
    shape: list[int] = []
    for field, content in _fields(value):
        if isinstance(content, int):
            numbers[field] = content
        elif field == 2:
            dimensions = [inside for number, inside in _fields(content) if number == 2 and isinstance(inside, bytes)]
            shape = [next((size for f, size in _fields(d) if f == 1 and isinstance(size, int)), 0) for d in dimensions]
    if numbers.get(3, 0):
        raise ValueError("it has several data files; expected one")
    return _Entry(numbers.get(1, 0), tuple(shape), numbers.get(4, 0), numbers.get(5, 0))
