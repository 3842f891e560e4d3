"""What a store's codes mean: the facts of its codec. Models carry them too, without opening any store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codec.common.checked import field
from codec.errors import SoundloomError

if TYPE_CHECKING:
    from codec.pretrained import AudioCodec


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
