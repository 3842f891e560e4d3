"""The parts of a token store: columns, commit records, names of files; `codec.store.facts` has the codec's facts."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from codec.common.checked import dump_json, field
from codec.common.files import sha256_bytes
from codec.store.facts import StoreFacts

__all__ = ["FORMAT", "SCHEMA", "VERSION", "ShardRecord", "StoreFacts", "probe", "probe_bytes", "seal", "shard_paths"]

FORMAT = "soundloom-store"
VERSION = 1
_PROBE_BYTES = 4096
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("codes", pa.list_(pa.int16())),  # frame-major: all levels of frame 0, then of frame 1 …; length T·K
        ("num_frames", pa.int32()),
        ("num_samples", pa.int64()),  # at the codec's sample rate; T = ceil(num_samples / hop_length)
        ("text", pa.string()),  # "" where it is not known, as for speaker and language
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("source_sha256", pa.binary()),  # 32 raw bytes
    ]
)


@dataclass(frozen=True)
class ShardRecord:
    """A shard's commit record: what its files must hold."""

    rows: int
    frames: int
    samples: int
    bytes: int
    sha256: str
    rejects: int
    rejects_bytes: int
    rejects_sha256: str
    plan_sha256: str
    probe_sha256: str = ""  # of `probe`; older stores do not have it

    @classmethod
    def parse(cls, record: Any, name: str) -> ShardRecord:
        """Read a commit record from JSON; `SoundloomError` for a missing or mistyped field."""
        hashes = {key for key in cls.__dataclass_fields__ if key.endswith("sha256")}
        if isinstance(record, dict):
            record = {"probe_sha256": ""} | record
        values: dict[str, Any] = {key: field(record, key, str, name) for key in hashes}
        values |= {key: field(record, key, int, name, 0) for key in cls.__dataclass_fields__ if key not in hashes}
        return cls(**values)


def shard_paths(folder: Path, index: int) -> tuple[Path, Path, Path]:
    """Name a shard's data, commit record and rejects."""
    return (
        folder / f"data-{index:06d}.arrow",
        folder / f"data-{index:06d}.json",
        folder / f"rejects-{index:06d}.jsonl",
    )


class _Readable(Protocol):
    def seek(self, place: int, /) -> int: ...

    def read(self, count: int, /) -> bytes: ...


def probe(source: _Readable, size: int) -> str:
    """Hash five short stretches of a shard's data: enough to notice another shard of the same size, and quick.

    They hold codes, and at the end the hashes of the last rows' sources.
    """
    digest = hashlib.sha256()
    for fourth in range(5):
        source.seek(max(0, size - _PROBE_BYTES) * fourth // 4)
        digest.update(source.read(_PROBE_BYTES))
    return digest.hexdigest()


def probe_bytes(data: bytes) -> str:
    """Return `probe` of a shard in memory."""
    return probe(io.BytesIO(data), len(data))


def seal(record: dict[str, Any]) -> bytes:
    """Write JSON whose last field is the hash of the rest."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return dump_json({**content, "sha256": sha256_bytes(dump_json(content))})
