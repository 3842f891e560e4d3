"""Speed: another length, the same pitch, the same samples whole and streamed, and nothing at speed 1."""

from __future__ import annotations

import pytest
import torch
from voice_helpers import tiny_voice

from codec.errors import SoundloomError
from pipelines.voice.timescale import Stretcher, checked_speed, stretch
from pipelines.voice.voice import Voice

RATE = 24_000


def tone(frequency: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(round(RATE * seconds)) / RATE)[None]


def pitch(wave: torch.Tensor) -> float:
    """Return the strongest frequency of wave [1, N] in Hz."""
    n = wave.shape[1]
    spectrum = torch.fft.rfft(wave[0] * torch.hann_window(n), 8 * n).abs()
    return int(spectrum.argmax()) * RATE / (8 * n)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    return tiny_voice(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("frequency", [90.0, 220.0, 1000.0])
def test_a_tone_keeps_its_pitch_and_loudness(speed: float, frequency: float) -> None:
    wave = tone(frequency)
    made = stretch(wave, RATE, speed)
    assert made.shape == (1, round(RATE / speed))
    assert pitch(made) == pytest.approx(frequency, rel=0.005)
    middle = made[:, 2000:-2000]
    assert middle.square().mean().sqrt() == pytest.approx(0.5 / 2**0.5, rel=0.03)
    # nearly all of its power is in the tone: the joins do not click
    spectrum = torch.fft.rfft(middle[0] * torch.hann_window(middle.shape[1])).abs().square()
    at = round(frequency * middle.shape[1] / RATE)
    assert spectrum[max(0, at - 12) : at + 13].sum() / spectrum.sum() > 0.99


@pytest.mark.parametrize("size", [1, 97, 1920, 30_000])
@pytest.mark.parametrize("speed", [0.7, 1.6])
def test_chunks_give_the_samples_of_the_whole(size: int, speed: float) -> None:
    wave = torch.randn(2, 4800 if size == 1 else 24_000, generator=torch.Generator().manual_seed(0))
    stretcher = Stretcher(RATE, speed)
    parts = [stretcher.push(wave[:, i : i + size]) for i in range(0, wave.shape[1], size)]
    whole = torch.cat([*parts, stretcher.finish()], dim=1)
    assert torch.allclose(whole, stretch(wave, RATE, speed), atol=1e-6)
    assert stretcher.input is not None and stretcher.input.shape[1] < 30_000  # memory does not grow with the sound


def test_short_and_silent_sounds() -> None:
    for n in (0, 1, 5, 700):
        assert stretch(torch.ones(1, n), RATE, 0.5).shape == (1, 2 * n)
    assert not stretch(torch.zeros(1, 9600), RATE, 1.5).any()
    wave = torch.randn(1, 100)
    assert stretch(wave, RATE, 1.0) is wave


@pytest.mark.parametrize("speed", [0.0, 0.49, 2.01, float("nan"), float("inf"), -1, "1", True, None])
def test_other_speeds_are_refused(speed: float) -> None:
    with pytest.raises(SoundloomError, match=r"expected 0.5 \(slow\) to 2 \(fast\)"):
        checked_speed(speed)


@pytest.mark.parametrize("speed", [0.5, 1.5])
def test_speech_takes_its_time_and_streams_the_same(voice: Voice, speed: float) -> None:
    text = "Hello world. How are you?"
    plain, made = voice.speak(text, seed=1, retries=0), voice.speak(text, seed=1, retries=0, speed=speed)
    assert torch.equal(plain.codes, made.codes) and made.finish_reason == plain.finish_reason
    pause = round(0.15 * RATE)
    for before, after in zip(plain.sentences, made.sentences, strict=True):
        assert after.num_samples == round(before.num_samples / speed)
    assert made.sentences[1].start == made.sentences[0].num_samples + pause
    stream = voice.stream(text, seed=1, speed=speed)
    assert torch.allclose(torch.cat(list(stream), dim=1), made.waveform, atol=1e-4)
    assert stream.speech is not None and stream.speech.sentences[1].start == made.sentences[1].start
    assert made.waveform[0, 0] == 0 and made.waveform[0, -1].abs() < 1e-3
