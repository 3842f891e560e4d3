"""Each change of a crop does what its name says, is a function of the generator, and is off by default."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from codec.errors import SoundloomError
from pipelines.training.codec_augment import (
    AugmentSettings,
    augmented,
    coloured_noise,
    in_room,
    lossy_copy,
    room_response,
)

RATE = 24_000
OFF = AugmentSettings(0.0, 0.0, 0.0, 0.0, 0.0)


def crop() -> torch.Tensor:
    time = torch.arange(RATE // 2) / RATE
    return 0.2 * sum(torch.sin(2 * torch.pi * f * time) for f in (200.0, 1500.0, 9000.0))[None] / 3  # type: ignore


def changed(seed: int = 0, wave: torch.Tensor | None = None, **settings: Any) -> torch.Tensor:
    wave = crop() if wave is None else wave
    rng = np.random.default_rng(seed)
    return augmented(wave, rng, replace(OFF, **settings), RATE, lambda g, n: torch.zeros(1, n))


def energy(wave: torch.Tensor, low: float, high: float) -> float:
    spectrum = torch.fft.rfft(wave[0]).abs().square()
    frequencies = torch.linspace(0, RATE / 2, len(spectrum))
    return float(spectrum[(frequencies >= low) & (frequencies < high)].sum())


NEW = ["room", "coloured_noise", "clip", "band", "lossy", "level"]


@pytest.mark.parametrize("name", NEW)
def test_a_change_is_off_by_default_and_a_function_of_the_generator(name: str) -> None:
    defaults = {field.name: field.default for field in fields(AugmentSettings)}
    assert defaults[f"{name}_probability"] == 0.0
    assert torch.equal(changed(), crop())
    once, again, *others = (changed(seed, **{f"{name}_probability": 1.0}) for seed in (1, 1, 2, 3, 4, 5))
    assert torch.equal(once, again) and not torch.equal(once, crop())
    assert not all(torch.equal(once, other) for other in others)
    assert once.shape == crop().shape and once.dtype == torch.float32 and once.abs().max() <= 1
    assert bool(once.isfinite().all())
    silence = changed(1, torch.zeros(1, RATE // 2), **{f"{name}_probability": 1.0})
    assert bool(silence.isfinite().all())


def test_a_room_keeps_the_direct_sound_and_decays() -> None:
    response = room_response(np.random.default_rng(3), RATE)
    assert response[0] == 1 and response[1:24].abs().max() == 0
    parts = [float(part.square().sum()) for part in response[240:].chunk(4)]
    assert parts == sorted(parts, reverse=True) and parts[-1] < 1e-2 * parts[0]
    click = torch.zeros(1, 4 * len(response))
    click[0, 100] = 1
    torch.testing.assert_close(in_room(click, response)[0, 100 : 100 + len(response)], response, rtol=0, atol=1e-5)


def test_noise_has_its_ratio_and_its_colour() -> None:
    for seed in range(4):
        noise = changed(seed, coloured_noise_probability=1.0, coloured_noise_db=(20.0, 20.0)) - crop()
        ratio = crop().square().mean() / noise.square().mean()
        assert 10 * float(ratio.log10()) == pytest.approx(20, abs=0.5)
    tilts = {round(energy(n, 50, 400) / energy(n, 3000, 12_000), 1) for n in _noises(12)}
    assert min(tilts) < 0.2 and max(tilts) > 10  # white has little of its energy there, brown nearly all


def _noises(count: int) -> list[torch.Tensor]:
    return [coloured_noise(np.random.default_rng(seed), RATE) for seed in range(count)]


def test_a_band_limit_takes_what_is_above_and_leaves_what_is_below() -> None:
    for seed in range(6):
        out = changed(seed, band_probability=1.0)
        assert energy(out, 150, 2000) == pytest.approx(energy(crop(), 150, 2000), rel=0.05)
    narrow = min(energy(changed(seed, band_probability=1.0), 8900, 9100) for seed in range(6))
    assert narrow < 1e-3 * energy(crop(), 8900, 9100)


def test_clipping_cuts_peaks_and_a_level_is_set() -> None:
    out = changed(5, clip_probability=1.0)
    top = float(out.abs().max())
    assert top < 0.9 * float(crop().abs().max())
    assert float((out.abs() > 0.999 * top).float().mean()) > 0.02
    for seed in range(5):
        out = changed(seed, level_probability=1.0, level_db=(-45.0, -40.0))
        assert -45.1 < 20 * np.log10(float(out.abs().max())) < -39.9


def test_a_lossy_copy_resembles_the_sound() -> None:
    for seed in range(8):
        out = lossy_copy(crop(), RATE, np.random.default_rng(seed))
        assert energy(out, 1400, 1600) == pytest.approx(energy(crop(), 1400, 1600), rel=0.5)


@pytest.mark.parametrize(
    "wrong",
    [{"room_probability": 1.5}, {"gain_db": -1.0}, {"level_db": (0.0, -45.0)}, {"coloured_noise_db": (-50.0, 0.0)}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SoundloomError, match=f"augment.{next(iter(wrong))}"):
        replace(OFF, **wrong)
