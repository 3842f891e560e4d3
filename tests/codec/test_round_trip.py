"""Recordings through a codec piece by piece: codes and sound of the whole, to the bit; their ends do not fade."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from codec import load_codec, model
from codec.audio.files import read_audio, write_audio
from codec.loom import save_codes
from codec.metrics import mel_distance
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.round_trip import Reconstruction, reconstruct
from codec.seanet import SEANetConfig
from codec.spectral import SpectralConfig

SIZES = {"latent_dim": 8, "encoder_dim": 16, "encoder_blocks": 1, "bottleneck_dim": 16, "bottleneck_blocks": 1}


def make(kind: str) -> Codec:
    torch.manual_seed(0)
    spectral = SpectralConfig(**SIZES, decoder_dim=16, decoder_blocks=1)
    seanet = SEANetConfig(filters=2, latent_dim=8, lstm_layers=0, causal=kind != "whole")
    network = "spectral" if kind == "spectral" else "seanet"
    return Codec(
        CodecConfig(network=network, seanet=seanet, spectral=spectral, quantizer=QuantizerConfig(3, 16))
    ).eval()


def run(codec: Codec, source: Path, levels: int | None = None) -> tuple[Reconstruction, torch.Tensor, int]:
    pieces: list[torch.Tensor] = []
    result = reconstruct(codec, source, levels, pieces.append)
    return result, torch.cat(pieces, 1), len(pieces)


@pytest.mark.parametrize("kind", ["spectral", "seanet", "whole"])
@pytest.mark.parametrize(
    "samples", [100, 24_000, 35_900, 36_000, 60_001]
)  # pieces of half a second; 35,900 + 480 > 36,000
def test_pieces_are_the_whole_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, samples: int
) -> None:
    monkeypatch.setattr(model, "_PIECE_SECONDS", {"seanet": 0.5, "spectral": 0.5})
    codec = make(kind)
    wave = 0.3 * torch.randn(1, samples, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)
    write_audio(tmp_path / "x.wav", wave, 24_000)
    wave = read_audio(tmp_path / "x.wav")
    result, decoded, count = run(codec, tmp_path / "x.wav", 2)
    codes = codec.encode(F.pad(wave, (0, codec.hop_length if codec.lookahead else 0))[None])[:, :2]
    assert torch.equal(result.codes.codes, codes[0]) and result.codes.num_samples == samples
    assert torch.equal(decoded, codec.decode(codes)[0, :, :samples])
    assert result.distance == pytest.approx(mel_distance(wave, decoded, 24_000), rel=1e-5)
    assert count == 1 or kind != "whole"
    assert count > 1 or kind == "whole" or samples < 12_000
    frames = -(-samples // codec.hop_length)
    assert torch.equal(codes[..., :frames], codec.encode(wave[None])[:, :2])
    save_codes(tmp_path / "x.loom", result.codes)
    again, sound, _ = run(codec, tmp_path / "x.loom")
    assert torch.equal(sound, decoded) and torch.equal(again.codes.codes, codes[0]) and again.distance is None


def test_a_sound_that_does_not_end_in_silence_does_not_fade(tmp_path: Path) -> None:
    codec = load_codec()
    speech = read_audio(model.Path(__file__).parents[2] / "docs/samples/aoede-1-levels.mp3", codec.sample_rate)
    differences = []
    for end in range(12_000, 40_000, 3_100):
        wave = speech[:, :end]
        last = wave[:, -240:].square().mean()
        if last < 1e-4:
            continue
        write_audio(tmp_path / "x.wav", wave, codec.sample_rate)
        decoded = run(codec, tmp_path / "x.wav")[1]
        assert decoded.shape == wave.shape
        differences.append(float(10 * torch.log10(decoded[:, -240:].square().mean() / last)))
    assert len(differences) > 3 and sum(differences) / len(differences) > -1.0  # without the frame: -3.6 dB
