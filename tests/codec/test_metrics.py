"""Metrics against values worked out by hand, and against what they must do at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import metrics
from codec.errors import SoundloomError

RATE = 16_000


def speechlike(seconds: float = 1.5, seed: int = 0) -> torch.Tensor:
    """Noise in bursts with a few harmonics: enough for PESQ and STOI to call it speech."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(int(seconds * RATE)) / RATE
    voice = sum(torch.sin(2 * math.pi * 140 * k * t + 3 * torch.sin(2 * math.pi * 3 * t)) / k for k in range(1, 20))
    envelope = (torch.sin(2 * math.pi * 2.5 * t) > -0.4).float()
    return 0.1 * envelope * voice + 0.002 * torch.randn(len(t), generator=generator)


def test_mel_distance_is_zero_for_equal_and_grows_with_noise() -> None:
    wave = speechlike()
    assert metrics.mel_distance(wave, wave, RATE) == 0
    small, large = (metrics.mel_distance(wave, wave + a * torch.randn_like(wave), RATE) for a in (0.001, 0.1))
    assert 0 < small < large


def test_mel_distance_follows_its_recipe() -> None:
    """A written-out double of the recipe on one channel."""
    x, y = speechlike(0.3), speechlike(0.3, seed=1) * 0.5
    total = 0.0
    for window, mels in ((2048, 150), (512, 80)):
        filters = metrics.mel_filterbank(mels, window, RATE).double().numpy()
        both = []
        for wave in (x, y):
            padded = np.pad(wave.double().numpy(), window // 2, mode="reflect")
            hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
            frames = [padded[i : i + window] * hann for i in range(0, len(padded) - window + 1, window // 4)]
            both.append(np.abs(np.fft.rfft(np.stack(frames), axis=1)) @ filters)
        logs = [np.log10(np.maximum(mel, 1e-5) ** 2) for mel in both]
        total += np.abs(logs[0] - logs[1]).mean() + np.abs(both[0] - both[1]).mean()
    assert metrics.mel_distance(x, y, RATE) == pytest.approx(total, rel=1e-4)


def test_mel_distance_of_a_few_samples() -> None:
    assert metrics.mel_distance(torch.zeros(1, 5), torch.zeros(1, 5), 24_000) == 0


@settings(deadline=None, max_examples=20)
@given(lag=st.integers(-300, 300), gain=st.floats(0.1, 3.0))
def test_si_sdr_finds_lag_and_ignores_gain(lag: int, gain: float) -> None:
    wave = torch.randn(4000, generator=torch.Generator().manual_seed(5))
    late = gain * (torch.cat([torch.zeros(lag), wave]) if lag >= 0 else wave[-lag:])
    result = metrics.si_sdr(wave, late, max_lag=400)
    assert result.lag == lag
    assert result.decibels == 100  # the most that is told


def test_si_sdr_value() -> None:
    """Noise orthogonal to the signal with a tenth of its amplitude: 20 dB."""
    t = torch.arange(16_000) / 16_000
    wave, noise = torch.sin(2 * math.pi * 100 * t), torch.sin(2 * math.pi * 37 * t)
    assert metrics.si_sdr(wave, wave + 0.1 * noise, max_lag=0).decibels == pytest.approx(20, abs=0.05)


def test_si_sdr_refuses_silence() -> None:
    with pytest.raises(SoundloomError, match="silence"):
        metrics.si_sdr(torch.zeros(100), torch.randn(100))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SoundloomError, match="same channels"):
        metrics.mel_distance(torch.zeros(2, 100), torch.zeros(1, 100), RATE)
    with pytest.raises(SoundloomError, match="at least one sample"):
        metrics.mel_distance(torch.zeros(0), torch.zeros(0), RATE)


def test_pesq_and_stoi_order_degradations_and_fail_openly() -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    wave = speechlike()
    noise = torch.randn(len(wave), generator=torch.Generator().manual_seed(1))
    assert metrics.pesq_wb(wave, wave, RATE) == pytest.approx(4.64, abs=0.01)
    assert metrics.stoi(wave, wave, RATE) == pytest.approx(1, abs=1e-3)
    for judge in (metrics.pesq_wb, metrics.stoi):
        mild, strong = judge(wave, wave + 0.01 * noise, RATE), judge(wave, wave + 0.2 * noise, RATE)
        assert mild is not None and strong is not None and mild > strong
        assert judge(torch.zeros(RATE), torch.zeros(RATE), RATE) is None
        assert judge(wave[:500], wave[:500], RATE) is None


def test_summary_counts_failures_and_brackets_the_mean() -> None:
    values = [*np.random.default_rng(0).normal(3, 1, 200).tolist(), None, None]
    summary = metrics.summarize(values)
    assert (summary.n, summary.n_failed) == (200, 2)
    assert summary.low < summary.mean < summary.high
    assert summary.high - summary.low == pytest.approx(4 / math.sqrt(200), rel=0.25)
    assert metrics.summarize(values) == summary
    empty = metrics.summarize([None])
    assert math.isnan(empty.mean) and (empty.n, empty.n_failed) == (0, 1)


def test_codebook_use() -> None:
    codes = torch.stack([torch.arange(8), torch.zeros(8, dtype=torch.long)])[None]  # [1, 2, 8]
    counts = metrics.count_codes(codes, 16)
    assert counts.shape == (2, 16) and counts.sum().item() == 16
    first, second = metrics.codebook_use(counts)
    assert (first.used, first.perplexity) == (0.5, pytest.approx(8))
    assert (second.used, second.perplexity) == (1 / 16, pytest.approx(1))


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(SoundloomError, match=r"soundloom_no_such_package is not installed: pip install .*\[eval\]"):
        metrics.require("soundloom_no_such_package")


def test_visqol_orders_damage_and_refuses_silence() -> None:
    pytest.importorskip("visqol")
    pytest.importorskip("ai_edge_litert")
    wave = speechlike(2.0)
    noise = torch.randn(len(wave), generator=torch.Generator().manual_seed(3))
    same, some, much = (metrics.visqol(wave, wave + a * noise, RATE) for a in (0.0, 0.005, 0.05))
    assert same is not None and some is not None and much is not None
    assert 5 >= same > 4 and same > some > much >= 1
    assert metrics.visqol(wave, 0 * wave, RATE) is None and metrics.visqol(wave[:1600], wave[:1600], RATE) is None


def test_mel_distance_by_pieces_is_that_of_the_whole() -> None:
    reference, estimate = 0.1 * torch.randn(2, 1, 30_000, generator=torch.Generator().manual_seed(0))
    whole = metrics.mel_distance(reference, estimate, 24_000)
    for size in (100, 700, 29_999):
        distance = metrics.MelDistance(24_000)
        for piece in zip(reference.split(size, -1), estimate.split(size, -1), strict=True):
            distance.add(*piece)
        assert distance.value() == pytest.approx(whole, rel=1e-5)
