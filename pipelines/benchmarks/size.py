"""Say how much the benchmarks time, and make the noise that codecs are timed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codec.model import Codec


@dataclass(frozen=True)
class Size:
    """How much to time: ``seconds`` of sound per row, ``longer`` rows of a codec, ``steps`` of generation.

    ``music``: layers, width and frames of a MusicGen. A second of sound costs more in large tensors. ``device``: where
    everything runs, peers included.
    """

    seconds: float = 4.0
    longer: tuple[float, ...] = (10.0, 60.0)
    steps: int = 100
    batches: tuple[int, ...] = (1, 8)
    repeats: int = 5
    encodec: tuple[tuple[str, Any], ...] = ()
    music: tuple[int, int, int] = (24, 1024, 50)
    corpus_minutes: float = 180.0
    device: str = "cpu"


def noise(batch: int, seconds: float, codec: Codec) -> Tensor:
    """Return white noise [B, C, N] at the codec's sample rate and on its device, always the same."""
    generator = torch.Generator().manual_seed(0)
    wave = torch.randn(batch, codec.channels, int(seconds * codec.sample_rate), generator=generator) * 0.1
    return wave.to(codec.device)
