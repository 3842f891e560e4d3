"""Loudness of BS.1770 in pieces, and the gain of quiet recordings."""

from __future__ import annotations

import math

import pytest
import torch

from codec.loudness import TARGET, LoudnessMeter, gain_of


def sine(hertz: float, level: float = 0.0, seconds: float = 1.0, rate: int = 24_000) -> torch.Tensor:
    """Return a sine [1, N] whose peak is at ``level`` decibels."""
    return 10 ** (level / 20) * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)[None]


def loudness(wave: torch.Tensor, rate: int = 24_000) -> float:
    meter = LoudnessMeter(rate)
    meter.add(wave)
    return meter.loudness()


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 44_100, 48_000])
def test_the_sine_that_the_standard_names_has_the_loudness_that_it_states(rate: int) -> None:
    assert loudness(sine(997, rate=rate), rate) == pytest.approx(-3.01, abs=0.02)
    assert loudness(sine(997, -20, rate=rate), rate) == pytest.approx(-23.01, abs=0.02)
    both = sine(997, -20, rate=rate).expand(2, -1)
    assert loudness(both, rate) == pytest.approx(-20.0, abs=0.02)  # channels add up


def test_the_filter_takes_out_what_no_one_hears_and_weighs_treble_more() -> None:
    constant = torch.full((1, 24_000), 0.3)
    assert loudness(constant) == -math.inf
    assert loudness(sine(997, -20) + constant) == pytest.approx(-23.01, abs=0.02)
    assert loudness(sine(20)) < loudness(sine(100)) - 10
    assert loudness(sine(4000)) == pytest.approx(loudness(sine(997)) + 3.3, abs=0.2)


def test_pauses_do_not_count() -> None:
    speech, pause = sine(997, -20, 2), torch.zeros(1, 24_000)
    noise = 1e-4 * torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0))
    for rest in (pause, noise, torch.cat([noise, pause], 1)):
        assert loudness(torch.cat([speech, rest], 1)) == pytest.approx(-23.01, abs=0.6)  # blocks that hold both


@pytest.mark.parametrize("samples", [1, 100, 2400, 2401, 9599, 9600, 50_000])
def test_pieces_are_the_whole(samples: int) -> None:
    wave = 0.05 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    for size in (997, 2400, 30_000):
        meter = LoudnessMeter(24_000)
        for piece in wave.split(size, 1):
            meter.add(piece)
            meter.loudness()  # changes nothing
        assert meter.loudness() == pytest.approx(loudness(wave), abs=1e-6)
        assert meter.gain() == gain_of(wave, 24_000) and meter.peak == float(wave.abs().max())


def test_a_sound_shorter_than_a_block_counts_whole() -> None:
    for seconds in (0.02, 0.05, 0.15, 0.39):
        assert loudness(sine(1000, -20, seconds)) == pytest.approx(-23.0, abs=0.3)


def test_quiet_sound_is_raised_to_the_target_and_loud_sound_stays() -> None:
    for level in (-30.0, -41.0, -61.0):
        wave = sine(997, level)
        gain = gain_of(wave, 24_000)
        assert loudness(wave * gain) == pytest.approx(TARGET, abs=0.06)
        assert gain == float(torch.tensor(gain)) and round(200 * math.log10(gain), 4) % 1 == pytest.approx(0, abs=1e-3)
    for level in (-16.0, 0.0, 10.0):
        assert gain_of(sine(997, level), 24_000) == 1


def test_no_peak_is_driven_beyond_full_scale() -> None:
    wave = sine(997, -50)
    for peak in (0.5, 0.9999, 1.0, 1.5):
        wave[0, 5000] = peak
        gain = gain_of(wave, 24_000)
        assert gain >= 1 and (peak * gain <= 1 or gain == 1)
        assert gain > 1.9 or peak > 0.5


def test_silence_has_a_gain_of_one() -> None:
    dither = 2.0**-16 * torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0))
    for wave in (torch.zeros(1, 24_000), torch.zeros(1, 3), torch.zeros(1, 0), dither, 1e-30 * sine(997)):
        assert gain_of(wave, 24_000) == 1
    assert gain_of(wave.requires_grad_(), 24_000) == 1
