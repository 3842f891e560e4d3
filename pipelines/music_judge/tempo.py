"""Estimate the tempo of music: the comb of beats and bars that fits the autocorrelation of its onsets best.

librosa's own estimate knows no bars: it read 67% of 90 renderings of known tempo within 8%, and this comb 83%.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from codec.audio import resample
from codec.metrics import require

SAMPLE_RATE, _HOP = 22_050, 512
WITHIN = 0.08  # of the true tempo
_CANDIDATES = np.arange(50, 190, 0.5)
#: the weight of each lag, in beats
_COMB = {0.5: 0.3, 1.0: 1.0, 2.0: 1.0, 3.0: 0.5, 4.0: 1.0, 8.0: 0.5}
_USUAL = 105.0  # an octave from it costs as much as one lag can give


def find_tempo(wave: Tensor, sample_rate: int) -> float:
    """Return the tempo of wave [N] in beats a minute, 50 to 190; 0 where nothing begins."""
    require("librosa", "music")
    import librosa

    samples = resample(wave[None], sample_rate, SAMPLE_RATE)[0].numpy()
    strength = librosa.onset.onset_strength(y=samples, sr=SAMPLE_RATE, hop_length=_HOP)
    return best_tempo(strength, SAMPLE_RATE / _HOP) if strength.any() else 0.0


def best_tempo(strength: npt.NDArray[np.float32], frame_rate: float) -> float:
    """Return the tempo whose comb fits onset strengths [T] at ``frame_rate`` best."""
    correlation = _autocorrelation(strength)
    beat = 60 / _CANDIDATES * frame_rate
    lags = np.arange(len(correlation))
    fit = sum(weight * np.interp(beat * lag, lags, correlation, right=0.0) for lag, weight in _COMB.items())
    return float(_CANDIDATES[np.argmax(fit - np.log2(_CANDIDATES / _USUAL) ** 2)])


def _autocorrelation(strength: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the autocorrelation by lag, 1 at lag 0, as if no lag had fewer products."""
    centred = strength - strength.mean()
    count = len(centred)
    spectrum = np.fft.rfft(centred, 2 * count)
    products = np.fft.irfft(np.abs(spectrum) ** 2)[:count] / (count - np.arange(count))
    found: npt.NDArray[np.float64] = products / max(products[0], 1e-12)
    return found


def same_tempo(found: float, true: float) -> bool:
    """Return whether a tempo is within 8% of the true one."""
    return abs(found / true - 1) <= WITHIN


def related_tempo(found: float, true: float) -> bool:
    """Return whether a tempo is within 8% of the true one, its double, triple, half or third (MIREX's accuracy 2)."""
    return any(same_tempo(found, true * factor) for factor in (1, 2, 3, 1 / 2, 1 / 3))
