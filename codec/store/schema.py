"""The parts of a token store: columns, the codec's facts, commit records, names of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from codec.common.checked import dump_json, field
from codec.common.files import sha256_bytes
from codec.errors import SoundloomError

if TYPE_CHECKING:
    from codec.pretrained import AudioCodec

FORMAT = "soundloom-store"
VERSION = 1
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
class StoreFacts:
    """What a codec must have in common with a store; ``matches`` compares all of it."""

    fingerprint: str
    sample_rate: int
    channels: int
    hop_length: int
    frame_rate: float
    codebook_size: int
    num_levels: int

    @classmethod
    def of(cls, codec: AudioCodec, num_levels: int | None = None) -> StoreFacts:
        """Take the facts from a codec, for a store of its first ``num_levels`` levels (all by default)."""
        levels = codec.num_levels if num_levels is None else num_levels
        if not 1 <= levels <= codec.num_levels:
            raise SoundloomError(f"levels: {levels} asked for, the codec has 1 to {codec.num_levels}")
        if not 1 <= codec.codebook_size <= 1 << 15:
            raise SoundloomError(f"codebook_size {codec.codebook_size} does not fit a store of int16 (at most 32768)")
        hop_length = int(getattr(codec, "hop_length", 0) or round(codec.sample_rate / codec.frame_rate))
        channels = int(getattr(codec, "channels", 1))
        rates = (int(codec.sample_rate), channels, hop_length, float(codec.frame_rate))
        return cls(str(codec.fingerprint), *rates, int(codec.codebook_size), int(levels))

    @classmethod
    def parse(cls, record: Any, name: str) -> StoreFacts:
        """Read the facts from JSON; `SoundloomError` for a missing, mistyped or impossible one."""
        rate, channels, hop, size, levels = (
            field(record, key, int, name, 1)
            for key in ("sample_rate", "channels", "hop_length", "codebook_size", "num_levels")
        )
        frame_rate = field(record, "frame_rate", float, name, 1e-9)
        if size > 1 << 15 or levels > 1024:
            raise SoundloomError(f"{name}: {levels} levels of {size} codes, expected at most 1024 of 32768")
        return cls(field(record, "fingerprint", str, name), rate, channels, hop, frame_rate, size, levels)

    def require(self, other: StoreFacts, name: str) -> None:
        """Raise `SoundloomError` unless ``other`` makes the same codes at the same rates."""
        for key, value in vars(self).items():
            if vars(other)[key] != value:
                raise SoundloomError(
                    f"{name} was made with another codec: its {key} is {value}, this codec's is {vars(other)[key]}; "
                    "use that codec, or write a new store"
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

    @classmethod
    def parse(cls, record: Any, name: str) -> ShardRecord:
        """Read a commit record from JSON; `SoundloomError` for a missing or mistyped field."""
        hashes = {key for key in cls.__dataclass_fields__ if key.endswith("sha256")}
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


def seal(record: dict[str, Any]) -> bytes:
    """Write JSON whose last field is the hash of the rest."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return dump_json({**content, "sha256": sha256_bytes(dump_json(content))})
