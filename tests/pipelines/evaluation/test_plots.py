"""Spectrograms: harmonics of a low voice stay apart, and the loudest part is what is shown."""

from __future__ import annotations

import pytest
import torch

from pipelines.evaluation import plots

RATE = 24_000


def test_harmonics_of_a_low_voice_are_lines_up_to_the_top() -> None:
    seconds = torch.arange(RATE) / RATE
    wave = torch.stack([torch.sin(2 * torch.pi * 100 * k * seconds) for k in range(1, 119)]).mean(0)
    power = plots.spectrum_power(wave, RATE, plots.HARMONICS_WINDOW)[:, 20:80].mean(1)
    bins = 2 * (power.shape[0] - 1)
    for hertz in (200, 3000, 9000, 11_500):
        on, between = power[round(hertz * bins / RATE)], power[round((hertz + 50) * bins / RATE)]
        assert on > 4 * between


def test_pictures_show_the_loudest_part_of_the_first_wave() -> None:
    wave = torch.zeros(1000)
    wave[600:700] = 1
    assert plots.loudest_part(wave, 100) == (600, 700)
    assert plots.loudest_part(wave, 2000) == (0, 1000)


def test_spectrograms_stand_side_by_side_at_one_brightness() -> None:
    pytest.importorskip("matplotlib")
    loud = torch.sin(torch.arange(RATE) / 3)
    figure = plots.spectrogram_figure({"original": loud, "half": loud / 2, "third": loud / 3, "more": loud}, RATE)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["original", "half", "third", "more"]
    assert len({axes.images[0].get_clim() for axes in shown}) == 1
    assert shown[0].get_ylim() == (0, 12)
