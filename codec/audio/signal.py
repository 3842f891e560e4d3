"""Waveforms to other rates, and mel filters."""

from __future__ import annotations

import functools
import warnings
from fractions import Fraction
from numbers import Integral

import torch
from torch import Tensor

from codec.audio.torchaudio_stub import import_torchaudio
from codec.errors import SoundloomError, quoted

SAMPLE_RATES = (1_000, 768_000)  # outside of these a header lies, and a resampling filter would need gigabytes
_FILTER_ZEROS = 6  # zero crossings on each side of torchaudio's windowed sinc
_LARGEST_FACTOR = 1024  # of a reduced resampling ratio; see resampling_ratio


def resample(wave: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample [..., N] to [..., ceil(N · to_rate / from_rate)] with torchaudio's windowed sinc; differentiable.

    Pairs of rates with no large common divisor are resampled by a ratio a few parts in a million off.

    Raises:
        SoundloomError: a rate is outside of `SAMPLE_RATES`.
    """
    up, down = resampling_ratio(from_rate, to_rate)
    if up == down or wave.shape[-1] == 0:
        return wave
    # The filters are made once per pair of rates: `functional.resample` makes them anew at each call.
    filters = _resampler(up, down, wave.dtype if wave.dtype == torch.float64 else torch.float32, wave.device)
    return filters(wave)


def mel_filterbank(num_mels: int, n_fft: int, sample_rate: int, fmin: float = 0.0, fmax: float | None = None) -> Tensor:
    """Return triangular mel filters as librosa and DAC have them: Slaney's scale, each filter with unit area.

    float32 [n_fft // 2 + 1, num_mels]; multiply a magnitude spectrogram [..., n_fft // 2 + 1] by it.
    """
    functional = import_torchaudio().functional
    last = n_fft // 2 * sample_rate / n_fft  # frequency of the last bin: below half the rate where n_fft is odd
    with warnings.catch_warnings():
        # Filters narrower than one bin are empty; with many mels in a short window that is known and harmless.
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return functional.melscale_fbanks(
            n_fft // 2 + 1, fmin, fmax or sample_rate / 2, num_mels, 2 * last, norm="slaney", mel_scale="slaney"
        )


def resampling_ratio(from_rate: int, to_rate: int) -> tuple[int, int]:
    """Return the resampling ratio as (up, down), reduced.

    A pair without common divisors (44,099 to 24,000) would need gigabytes of filters. It gets the nearest ratio
    with factors up to 1,024, which is off by a few parts in a million.

    Raises:
        SoundloomError: a rate is outside of `SAMPLE_RATES`.
    """
    for rate in (from_rate, to_rate):
        if not isinstance(rate, Integral) or not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise SoundloomError(f"sample rate {quoted(rate)}: wanted {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz")
    ratio = Fraction(to_rate, from_rate)
    if max(ratio.numerator, ratio.denominator) > _LARGEST_FACTOR:
        low = ratio < 1
        near = (ratio if low else 1 / ratio).limit_denominator(_LARGEST_FACTOR)
        ratio = near if low else 1 / near
    return ratio.numerator, ratio.denominator


@functools.lru_cache(maxsize=16)
def _resampler(up: int, down: int, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    return import_torchaudio().transforms.Resample(down, up, lowpass_filter_width=_FILTER_ZEROS, dtype=dtype).to(device)
