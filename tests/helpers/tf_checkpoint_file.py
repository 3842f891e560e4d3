"""Write a TensorFlow checkpoint (version 2) as TensorFlow does: an SSTable of keys with shared prefixes, and data."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    body, before = b"", b""
    for key, value in entries:
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), min(len(before), len(key))
        )
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return body + struct.pack("<II", 0, 1)  # one restart, at 0


def proto(field: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(field << 3) + varint(value)
    return varint(field << 3 | 2) + varint(len(value)) + value


def write_checkpoint(prefix: str, tensors: dict[str, np.ndarray]) -> None:
    """Write ``prefix``.index and ``prefix``.data-00000-of-00001."""
    data, entries = b"", [(b"", proto(1, 1))]  # the first key is the header's
    for name in sorted(tensors):
        array = tensors[name].astype("<f4")
        shape = b"".join(proto(2, proto(1, size)) for size in array.shape)
        entry = proto(1, 1) + proto(2, shape)
        entry += (proto(4, len(data)) if data else b"") + proto(5, array.nbytes) + b"\x35" + struct.pack("<I", 7)
        entries.append((name.encode(), entry))
        data += array.tobytes()
    out, handles = b"", []
    for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :], []):
        content = block(part)
        handles.append((part[-1][0] if part else b"", varint(len(out)) + varint(len(content))))
        out += content + b"\x00" + b"\x00" * 4  # plain, and a checksum that nobody reads
    index = block(handles[:2])
    place = varint(len(out)) + varint(len(index))
    out += index + b"\x00" * 5
    footer = handles[2][1] + place
    out += footer + b"\x00" * (40 - len(footer)) + struct.pack("<Q", 0xDB4775248B80FB57)
    Path(f"{prefix}.index").write_bytes(out)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
