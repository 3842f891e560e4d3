"""Recordings through a codec piece by piece: codes and sound of the whole, to the bit; their ends do not fade."""

from __future__ import annotations

import errno
import io
import math
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from codec import load_codec, model
from codec.audio.files import encode_audio, read_audio, write_audio
from codec.errors import SoundloomError
from codec.loom import save_codes
from codec.loudness import gain_of
from codec.metrics import mel_distance, si_sdr
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.round_trip import Reconstruction, describe, reconstruct
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


QUIET = 0.002 * torch.randn(1, 30_001, generator=torch.Generator().manual_seed(2)).clamp(-3, 3)


@pytest.mark.parametrize("kind", ["spectral", "whole"])
def test_a_quiet_recording_is_raised_and_keeps_its_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(model, "_PIECE_SECONDS", {"seanet": 0.5, "spectral": 0.5})
    codec = make(kind)
    write_audio(tmp_path / "x.wav", QUIET, 24_000)
    wave = read_audio(tmp_path / "x.wav")
    gain = gain_of(wave, 24_000)
    assert gain > 10
    shown: list[torch.Tensor] = []
    pieces: list[torch.Tensor] = []
    result = reconstruct(codec, tmp_path / "x.wav", 2, pieces.append, shown.append)
    decoded = torch.cat(pieces, 1)
    codes = codec.encode(F.pad(wave * gain, (0, codec.hop_length if codec.lookahead else 0))[None])[:, :2]
    assert result.codes.gain == gain and torch.equal(result.codes.codes, codes[0])
    assert torch.equal(decoded, codec.decode(codes)[0, :, : wave.shape[1]] / gain)
    assert torch.equal(torch.cat(shown, 1), wave)  # the recording, not the encoder's input
    assert result.distance == pytest.approx(mel_distance(wave, decoded, 24_000), rel=1e-5)
    assert f"{20 * math.log10(gain):.1f} dB louder" in describe(result, codec)
    save_codes(tmp_path / "x.loom", result.codes)
    again, sound, _ = run(codec, tmp_path / "x.loom")
    assert torch.equal(sound, decoded) and again.codes.gain == gain
    plain = reconstruct(codec, tmp_path / "x.wav", 2, normalize=False)
    assert plain.codes.gain == 1 and "louder" not in describe(plain, codec)
    assert torch.equal(plain.codes.codes[:, :40], codec.encode(wave[None])[0, :2, :40])


@pytest.mark.parametrize("normalize", [True, False])
def test_a_pipe_gives_what_a_file_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalize: bool) -> None:
    """A pipe can be read once, and the gain is known at its end."""
    monkeypatch.setattr(model, "_PIECE_SECONDS", {"spectral": 0.5})
    codec = make("spectral")
    write_audio(tmp_path / "x.wav", QUIET, 24_000)
    data = (tmp_path / "x.wav").read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    results = [reconstruct(codec, name, normalize=normalize).codes for name in ("-", tmp_path / "x.wav")]
    assert torch.equal(results[0].codes, results[1].codes)
    assert results[0].gain == results[1].gain and (results[0].gain > 1) == normalize
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data[:-20_000])))
    with pytest.raises(SoundloomError, match="standard input"):
        reconstruct(codec, "-", normalize=normalize)


def test_a_full_disk_is_reported_where_a_pipe_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Any:
        def write(data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        return nullcontext(SimpleNamespace(write=write))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(encode_audio(QUIET, 24_000, ".wav"))))
    with pytest.raises(SoundloomError, match=r"^standard input: .* \(No space left on device\); give a file"):
        reconstruct(make("spectral"), "-")


def test_quiet_speech_comes_back_better_when_it_is_raised(tmp_path: Path) -> None:
    codec = load_codec()
    speech = read_audio(model.Path(__file__).parents[2] / "docs/samples/aoede-original.mp3", 24_000, duration=2.0)
    quiet = speech * 10 ** (-41 / 20) / speech.abs().max()
    write_audio(tmp_path / "x.wav", quiet, 24_000)
    ratios = []
    for normalize in (False, True):
        pieces: list[torch.Tensor] = []
        reconstruct(codec, tmp_path / "x.wav", None, pieces.append, normalize=normalize)
        ratios.append(si_sdr(quiet[0], torch.cat(pieces, 1)[0]).decibels)
    assert ratios[1] > ratios[0] + 2
