"""A codec's configuration: the pair of networks, the quantizer between them, and bounds that no weight shape gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from codec.errors import SoundloomError
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig
from codec.spectral import SpectralConfig

_LARGEST_SAMPLE_RATE = 1_000_000
_LARGEST_FRAME_RATE = 4000.0  # published codecs have 12.5 to 150 frames a second


@dataclass(frozen=True)
class CodecConfig:
    """Shape of a codec: which pair of networks, and the quantizer between them. ``sample_rate`` is in Hz."""

    sample_rate: int = 24000
    network: Literal["spectral", "seanet"] = "spectral"
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    seanet: SEANetConfig = field(default_factory=SEANetConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.sample_rate <= _LARGEST_SAMPLE_RATE:
            raise SoundloomError(f"sample_rate {self.sample_rate}: expected 1 to {_LARGEST_SAMPLE_RATE:,} Hz")
        shape = self.spectral if self.network == "spectral" else self.seanet
        rate = self.sample_rate / shape.hop_length
        if rate > _LARGEST_FRAME_RATE:
            raise SoundloomError(
                f"{self.network}: a hop of {shape.hop_length} samples at {self.sample_rate} Hz gives {rate:,.0f} "
                f"frames a second; expected at most {_LARGEST_FRAME_RATE:,.0f}"
            )
