"""reconstruct.py: file to codes to file, at any number of levels, whole folders, pipes, pictures."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codec.audio.files import encode_audio, read_audio, write_audio
from codec.errors import SoundloomError
from codec.loom import load_codes
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.spectral import SpectralConfig
from pipelines import reconstruct

SIZES = {"latent_dim": 8, "encoder_dim": 16, "encoder_blocks": 1, "bottleneck_dim": 16, "bottleneck_blocks": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny codec with random weights, 3 levels of 16 codes at 50 Hz."""
    torch.manual_seed(0)
    config = CodecConfig(
        spectral=SpectralConfig(**SIZES, decoder_dim=16, decoder_blocks=1),
        quantizer=QuantizerConfig(num_levels=3, codebook_size=16),
    )
    path = tmp_path_factory.mktemp("codec")
    Codec(config).save_pretrained(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    wave = 0.3 * torch.randn(1, 16_001, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    write_audio(tmp_path / "in.wav", wave, 16_000)
    return tmp_path / "in.wav"


def test_file_to_file_says_bitrate_duration_and_distance(
    folder: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = sound.with_name("out.wav")
    assert reconstruct.main([str(sound), "-o", str(out), "--codec", str(folder), "--levels", "2"]) == 0
    said = capsys.readouterr().out
    assert "1.00 s" in said and "2 of 3 levels" in said and "0.40 kbit/s" in said and "mel distance" in said
    assert read_audio(out).shape == (1, 24_002)


@pytest.mark.parametrize("suffix", [".loom", ".safetensors"])
def test_codes_are_a_file_that_decodes_to_the_same_sound(folder: Path, sound: Path, suffix: str) -> None:
    codes, whole, again = (sound.with_name(name) for name in (f"c{suffix}", "whole.wav", "again.wav"))
    common = ["--codec", str(folder)]
    reconstruct.main([str(sound), "-o", str(whole), "--codes", str(codes), *common])
    reconstruct.main([str(codes), "-o", str(again), *common])
    assert again.read_bytes() == whole.read_bytes()
    if suffix == ".loom":
        assert codes.stat().st_size == 44 + -(-51 * 3 * 4 // 8)
    reconstruct.main([str(sound), "-o", str(whole), "--levels", "1", *common])
    reconstruct.main([str(codes), "-o", str(again), "--levels", "1", *common])
    assert again.read_bytes() == whole.read_bytes()


def test_long_recordings_go_through_in_pieces_with_the_same_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec.from_pretrained(folder)
    wave = 0.3 * torch.randn(1, 48_000 + 123, generator=torch.Generator().manual_seed(1))
    codes = reconstruct.encode(codec, wave)
    decoded = reconstruct.decode(codec, codes, wave.shape[1])
    monkeypatch.setattr(reconstruct, "WHOLE_SECONDS", 0.5)
    assert torch.equal(reconstruct.encode(codec, wave), codes)
    in_pieces = reconstruct.decode(codec, codes, wave.shape[1])
    assert in_pieces.shape == decoded.shape == wave.shape
    assert (in_pieces - decoded).abs().max() < 1e-5


def test_folder_to_folder_tells_bad_files_and_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, codes = (tmp_path / name for name in ("in", "out", "codes"))
    write_audio(source / "a.wav", torch.rand(1, 5000) - 0.5, 24_000)
    write_audio(source / "deep" / "a.flac", torch.rand(1, 5000) - 0.5, 24_000)
    (source / "bad.wav").write_bytes(b"nothing")
    arguments = [str(source), "-o", str(out), "--codes", str(codes), "--codec", str(folder)]
    assert reconstruct.main(arguments) == 1
    said = capsys.readouterr()
    assert "bad.wav" in said.err and "2 files done, 1 could not be used" in said.out
    assert (out / "a.wav").is_file() and (out / "deep" / "a.flac.wav").is_file()
    assert load_codes(codes / "a.wav.loom").codes.shape == (3, 11)


def test_pictures(folder: Path, sound: Path) -> None:
    pytest.importorskip("matplotlib")
    for suffix in (".png", ".svg"):
        picture = sound.with_name(f"x{suffix}")
        assert reconstruct.main([str(sound), "--plot", str(picture), "--codec", str(folder)]) == 0
        assert picture.stat().st_size > 10_000
    with pytest.raises(SoundloomError, match=r"\.png"):
        reconstruct.main([str(sound), "--plot", str(sound.with_name("x.docx")), "--codec", str(folder)])


def test_as_a_program_in_a_pipe(folder: Path) -> None:
    script = Path(reconstruct.__file__)
    done = subprocess.run(
        [sys.executable, str(script), "-", "-o", "-", "--codec", str(folder), "--threads", "1"],
        input=encode_audio(torch.rand(1, 4000) - 0.5, 8000, ".flac"), capture_output=True, check=True,
        env={"PYTHONPATH": str(script.parents[1]), "PATH": ""},
    )  # fmt: skip
    assert read_audio(io.BytesIO(done.stdout)).shape == (1, 12_000)
    assert b"kbit/s" in done.stderr


def test_bad_input_is_told(folder: Path, sound: Path, tmp_path: Path) -> None:
    common = ["--codec", str(folder)]
    out = ["-o", str(tmp_path / "out.wav")]
    (tmp_path / "bad.loom").write_bytes(b"LOOM")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(sound), *common], "nothing to do"),
        ([str(sound), *out, *common, "--levels", "9"], "levels 1 to 3"),
        ([str(tmp_path / "none.wav"), *out, *common], "none.wav: no such file"),
        ([str(tmp_path / "bad.loom"), *out, *common], "bad.loom: cut"),
        ([str(tmp_path / "empty"), *out, *common], "no audio files"),
    ):
        with pytest.raises(SoundloomError, match=message):
            reconstruct.main(arguments)


def test_codes_of_another_codec_are_refused(folder: Path, sound: Path, tmp_path: Path) -> None:
    codes = tmp_path / "c.loom"
    reconstruct.main([str(sound), "--codes", str(codes), "--levels", "2", "--codec", str(folder)])
    with pytest.raises(SoundloomError, match="holds 2 levels"):
        reconstruct.main([str(codes), "-o", str(tmp_path / "x.wav"), "--levels", "3", "--codec", str(folder)])
    codec = Codec.from_pretrained(folder)
    with torch.no_grad():
        next(codec.encoder.parameters()).add_(1)
    codec.save_pretrained(tmp_path / "other")
    with pytest.raises(SoundloomError, match="another codec"):
        reconstruct.main([str(codes), "-o", str(tmp_path / "x.wav"), "--codec", str(tmp_path / "other")])
