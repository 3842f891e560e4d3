"""The edges of a sentence: it begins and ends at exactly zero, so that no join can click."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FADE_IN, FADE_OUT = 0.004, 0.010  # seconds


class Edges:
    """Fade a sentence in and out, chunk by chunk or whole; the last `FADE_OUT` seconds wait until `finish`."""

    def __init__(self, sample_rate: int, rise: bool = True) -> None:
        self.rise = _ramp(round(FADE_IN * sample_rate)) if rise else torch.ones(0)
        self.fall = _ramp(round(FADE_OUT * sample_rate)).flip(0)
        self.seen = 0
        self.held: Tensor | None = None

    def push(self, wave: Tensor) -> Tensor:
        """Take the next samples [C, n] and return those that are now final [C, m]."""
        rise = self.rise[self.seen : self.seen + wave.shape[-1]].to(wave)
        if len(rise):
            wave = torch.cat([wave[..., : len(rise)] * rise, wave[..., len(rise) :]], dim=-1)
        self.seen += wave.shape[-1]
        wave = wave if self.held is None else torch.cat([self.held, wave], dim=-1)
        ready = max(0, wave.shape[-1] - len(self.fall))
        self.held = wave[..., ready:]
        return wave[..., :ready]

    def finish(self) -> Tensor:
        """Return the samples that waited [C, n]."""
        if self.held is None:
            return torch.zeros(1, 0)
        n = self.held.shape[-1]
        return self.held * self.fall[len(self.fall) - n :].to(self.held)

    def whole(self, wave: Tensor) -> Tensor:
        """Return all of a sentence's samples [C, N] with its edges."""
        return torch.cat([self.push(wave), self.finish()], dim=-1)


def _ramp(n: int) -> Tensor:
    """Return a rise [n] from 0 along a cosine."""
    return 0.5 - 0.5 * torch.cos(torch.arange(n) * (math.pi / max(1, n)))
