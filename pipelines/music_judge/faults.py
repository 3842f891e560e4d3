"""Find what no caption asks for: silence, clipping, and a model that is stuck in a loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.evaluation.plots import mel_decibels

_SILENT_DB = -60.0  # relative to full scale
_MOST_SILENCE = 0.5  # share of tenths of a second
_CLIPPED = 3  # equal samples at the peak
_LOOP_LAGS = (10, 100)  # hundredths of a second
_LOOP_SECONDS = 4.0
_LOOP_LIKENESS = 0.97


@dataclass(frozen=True)
class Faults:
    """``silent`` is the share of silent tenths of a second; ``loop`` the likeness of a repeated second or less."""

    silent: float
    clipped: bool
    loop: float

    @property
    def is_silent(self) -> bool:
        """Whether more than half of it is silent."""
        return self.silent > _MOST_SILENCE

    @property
    def is_loop(self) -> bool:
        """Whether four seconds repeat a second or less of themselves almost exactly."""
        return self.loop > _LOOP_LIKENESS


def find_faults(wave: Tensor, sample_rate: int) -> Faults:
    """Return the faults of wave [N]."""
    return Faults(_silence(wave, sample_rate), _is_clipped(wave), _loop(wave, sample_rate))


def _silence(wave: Tensor, sample_rate: int) -> float:
    tenth = sample_rate // 10
    count = max(1, wave.shape[0] // tenth)
    blocks = wave[: count * tenth].reshape(count, -1) if wave.shape[0] >= tenth else wave[None]
    return float((blocks.square().mean(1) < 10 ** (_SILENT_DB / 10)).float().mean())


def _is_clipped(wave: Tensor) -> bool:
    """Return whether three samples in a row are at the peak, and that is near full scale."""
    peak = float(wave.abs().max()) if wave.numel() else 0.0
    if peak < 0.98 or wave.shape[0] < _CLIPPED:
        return False
    top = (wave >= peak - 1e-4).float()
    low = (wave <= -peak + 1e-4).float()
    runs = torch.stack((top, low)).unfold(1, _CLIPPED, 1).amin(2)
    return bool(runs.max() > 0)


def _loop(wave: Tensor, sample_rate: int) -> float:
    """Return the greatest likeness, up to 1, of four seconds of sound with themselves a tenth to a second later.

    Compared are changes of mel spectra: a note that is held changes little and is no loop.
    """
    mel = mel_decibels(wave, sample_rate, 40).clamp(min=-60)
    change = mel[:, 1:] - mel[:, :-1]
    length = round(100 * _LOOP_SECONDS)
    best = 0.0
    if change.shape[1] < length + _LOOP_LAGS[1] or float(change.std()) < 0.5:
        return best
    sums = torch.nn.functional.pad(change.square().sum(0).cumsum(0), (1, 0))
    energy = sums[length:] - sums[:-length]
    for lag in range(*_LOOP_LAGS):
        product = (change[:, lag:] * change[:, :-lag]).sum(0)
        dots = torch.nn.functional.pad(product.cumsum(0), (1, 0))
        window = dots[length:] - dots[:-length]
        count = window.shape[0]
        norm = (energy[lag : lag + count] * energy[:count]).sqrt().clamp(min=1e-6)
        # a window that hardly changes matches anything
        busy = energy[:count] > 0.25 * energy.mean()
        best = max(best, float(torch.where(busy, window / norm, torch.zeros_like(norm)).max()))
    return best
