"""Long-term spectra: the gains between two sounds are found, and a codec that has them decodes so."""

from __future__ import annotations

import math

import pytest
import torch
from voice_helpers import tiny_codec

from codec.equalize import spectrum_gains
from codec.errors import SoundloomError
from codec.model import Codec, CodecConfig
from codec.seanet import SEANetConfig

RATE, WINDOW = 24_000, 960


def filtered(wave: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """A wave whose spectrum is multiplied by e ** gains, given at as many frequencies as there are gains."""
    spectrum = torch.fft.rfft(wave)
    fine = torch.nn.functional.interpolate(gains[None, None], len(spectrum), mode="linear", align_corners=True)[0, 0]
    return torch.fft.irfft(spectrum * fine.exp(), len(wave))


def test_the_gains_between_two_sounds_are_found() -> None:
    made = 0.1 * torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0))
    slope = torch.linspace(0.8, -0.8, WINDOW // 2 + 1)
    found = spectrum_gains(made, filtered(made, slope), RATE, WINDOW)
    assert found.shape == slope.shape
    trust = 300 / 305  # three seconds are about 300 frames
    assert (found[20:-30] - trust * slope[20:-30]).abs().max() < 0.12
    # and the shorter the recording, the less of them is believed
    short = spectrum_gains(made[: RATE // 5], filtered(made, slope)[: RATE // 5], RATE, WINDOW)
    assert 0.5 < float(short[50] / found[50]) < 0.95


def test_alike_silent_and_short_sounds_are_left_alone() -> None:
    wave = torch.randn(RATE, generator=torch.Generator().manual_seed(1))
    for made, wanted in ((wave, wave), (wave, 0 * wave), (wave[:900], wave[1:901])):
        assert torch.equal(spectrum_gains(made, wanted, RATE, WINDOW), torch.zeros(481))
    assert torch.isfinite(spectrum_gains(0 * wave, wave, RATE, WINDOW)).all()
    with pytest.raises(SoundloomError, match="two of one length"):
        spectrum_gains(wave, wave[1:], RATE, WINDOW)


def test_an_equalized_codec_decodes_what_it_should_and_leaves_the_other_alone() -> None:
    codec = tiny_codec()
    codes = torch.randint(16, (1, 3, 40), generator=torch.Generator().manual_seed(2))
    before = codec.decode(codes)
    louder = codec.equalized(torch.full((481,), math.log(2.0)))
    assert torch.allclose(louder.decode(codes), 2 * before, rtol=1e-4, atol=1e-5)
    assert torch.equal(codec.decode(codes), before) and louder.fingerprint == codec.fingerprint
    with pytest.raises(SoundloomError, match=r"shape \[3\]; this decoder makes 481"):
        codec.equalized(torch.zeros(3))
    seanet = Codec(CodecConfig(network="seanet", seanet=SEANetConfig(filters=4, latent_dim=8)))
    with pytest.raises(SoundloomError, match="makes no spectra"):
        seanet.equalized(torch.zeros(481))
